/** `weir probe connections`: the TCP connections of this machine, as ss(8) has them. */
import { readConnections } from "../connection-tools.ts";
import type { Invocation } from "./commands.ts";
import { note, printJson, table } from "./output.ts";

/** One look, by this program itself: no agent has to run. Those that listen first, then by peer. */
export function connections(invocation: Invocation): Promise<number> {
  const { connections: found, seen, via, why } = readConnections();
  const sorted = found.toSorted(
    (a, b) =>
      Number(b.state === "listen") - Number(a.state === "listen") ||
      a.peerAddress.localeCompare(b.peerAddress) ||
      a.localPort - b.localPort ||
      a.peerPort - b.peerPort,
  );
  if (invocation.values["json"] === true) {
    printJson({ via, reason: why?.reason, remedy: why?.remedy, seen, connections: sorted });
    return Promise.resolve(0);
  }
  table(
    ["STATE", "RECEIVE-Q", "SEND-Q", "LOCAL", "PEER", "RTT", "SENT AGAIN", "USER"],
    sorted.map((one) => [
      one.state,
      String(one.receiveQueue),
      String(one.sendQueue),
      place(one.localAddress, one.localPort),
      one.state === "listen" ? "" : place(one.peerAddress, one.peerPort),
      one.rttS === undefined ? "" : `${(one.rttS * 1000).toFixed(2)} ms`,
      String(one.retransmits),
      String(one.uid),
    ]),
    new Set(["RECEIVE-Q", "SEND-Q", "RTT", "SENT AGAIN", "USER"]),
  );
  if (seen > found.length) process.stderr.write(`${seen - found.length} more are not shown\n`);
  if (why !== undefined) note(`read through sock_diag: ${why.reason}; ${why.remedy}`);
  return Promise.resolve(0);
}

const place = (address: string, port: number): string =>
  address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
