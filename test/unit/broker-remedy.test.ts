import { expect, test } from "vitest";
import { brokerRemedy } from "../../src/broker-remedy.ts";

test.each([
  ["the broker refused the connection: not authorised (reason 0x87)", "password"],
  ["self-signed certificate in certificate chain", "tls.ca"],
  ["unable to verify the first certificate", "tls.ca"],
  ["Hostname/IP does not match certificate's altnames: IP: 127.0.0.2", "tls.servername"],
  ["certificate has expired", "clock"],
  ["tlsv13 alert certificate required (SSL routines)", "tls.cert"],
  ["tlsv1 alert unknown ca (SSL routines)", "tls.cert"],
  ["tls: ENOENT: no such file or directory, open '/etc/weir/ca.pem'", "the file"],
  ["Client network socket disconnected before secure TLS connection was established", "mqtts://"],
  ["getaddrinfo ENOTFOUND broker.example", "resolver"],
  ["connect ECONNREFUSED 10.0.0.5:1883", "address and the network"],
])("what is to be done about: %s", (reason, remedy) => {
  expect(brokerRemedy(reason)).toContain(remedy);
});
