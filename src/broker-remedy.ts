/** What a person can do about a broker that can't be reached, by what went wrong. */

/** Words of Node, OpenSSL and the brokers' reason codes, and the remedy; the first that fits counts. */
const CAUSES: readonly (readonly [RegExp, string])[] = [
  [/^tls: /, "the file has to be there, to be one of its kind, and this user has to be able to read it"],
  [
    /not authori[sz]ed|user name or password|0x8[67]\b/i,
    "check the user name and the password or certificate, and what the broker allows them",
  ],
  [
    /alert (?:certificate required|handshake failure|bad certificate|unknown ca|certificate (?:expired|unknown|revoked))/,
    "the broker wants a client certificate, or a better one: tls.cert and tls.key name its files",
  ],
  [
    /self-signed|unable to (?:get|verify)|unknown ca/i,
    "let tls.ca name the file of the authority that signed the broker's certificate",
  ],
  [
    /does not match certificate/i,
    "connect by a name that is in the broker's certificate, or say it in tls.servername",
  ],
  [
    /certificate has expired|not yet valid/i,
    "renew the broker's certificate; if it is good, look at this machine's clock",
  ],
  [
    /ECONNRESET|before secure TLS|wrong version number/,
    "mqtts:// and wss:// are for ports with TLS, mqtt:// and ws:// for those without: check which this one is",
  ],
  [/ENOTFOUND|EAI_AGAIN/, "check the name in the address, and this machine's resolver (getent hosts <name>)"],
];

/** The remedy for the message of a failed connection. */
export const brokerRemedy = (reason: string): string =>
  CAUSES.find(([words]) => words.test(reason))?.[1] ?? "check the broker's address and the network";
