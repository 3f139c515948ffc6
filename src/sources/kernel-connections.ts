/** Rows of the table of TCP connections (docs/probes.md): how many there are in each state, and what waits, by state, peer and port. */
import type { Connection, Connections } from "../addon/connections.ts";
import { Kind, nameProblem, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import { metricName } from "../core/labels.ts";

const OTHER = "_other";
/** Peers with a state and port of their own in one reading; further ones are together under `_other`. */
const MOST_GROUPS = 64;
/** From here on a local port says nothing: it is a client's (native/bpf/endpoint.bpf.h). */
const FIRST_EPHEMERAL = 32_768;

interface Group {
  readonly labels: Readonly<Record<string, string>>;
  connections: number;
  receiveQueue: number;
  sendQueue: number;
  retransmits: number;
  rttS: number;
  rtts: number;
}

const newGroup = (labels: Readonly<Record<string, string>>): Group => ({
  labels,
  connections: 0,
  receiveQueue: 0,
  sendQueue: 0,
  retransmits: 0,
  rttS: 0,
  rtts: 0,
});

/** The labels of a connection, as those of probes `tcp` and `tcploss`, and its state. */
function labelsOf({ state, peerAddress, localPort, peerPort }: Connection): Record<string, string> {
  const served = localPort < FIRST_EPHEMERAL || state === "listen";
  return {
    "network.connection.state": state,
    "network.peer.address": peerAddress,
    ...(served
      ? { "network.local.port": String(localPort) }
      : { "network.peer.port": peerPort === 0 ? "" : String(peerPort) }),
  };
}

function join(into: Group, from: Group): void {
  into.connections += from.connections;
  into.receiveQueue += from.receiveQueue;
  into.sendQueue += from.sendQueue;
  into.retransmits += from.retransmits;
  into.rttS += from.rttS;
  into.rtts += from.rtts;
}

/** Adds one reading: figures of now, not of an interval. */
export function addConnections(into: FrameBuilder, { connections, seen }: Connections, timeUs: number): void {
  const groups = new Map<string, Group>();
  const states = new Map<string, number>();
  for (const one of connections) {
    states.set(one.state, (states.get(one.state) ?? 0) + 1);
    const labels = labelsOf(one);
    const key = Object.values(labels).join(" ");
    let group = groups.get(key);
    if (group === undefined) {
      group = newGroup(labels);
      groups.set(key, group);
    }
    // Of a socket that listens these are connections, not bytes: tcp.listen.queue of source `system` has them.
    const listens = one.state === "listen";
    join(group, {
      labels,
      connections: 1,
      receiveQueue: listens ? 0 : one.receiveQueue,
      sendQueue: listens ? 0 : one.sendQueue,
      retransmits: one.retransmits,
      rttS: one.rttS ?? 0,
      rtts: one.rttS === undefined ? 0 : 1,
    });
  }
  if (seen > connections.length) states.set(OTHER, seen - connections.length);

  const device = into.device("_gateway");
  const add = (name: string, unit: string, kind: Kind, value: number, labels: Group["labels"]): void => {
    const metric = metricName(name, labels);
    if (nameProblem(metric) === undefined)
      into.add(device, into.metric(metric, unit), timeUs, kind, Status.good, value);
  };
  for (const [state, count] of states) {
    const labels = { "network.connection.state": state, "network.transport": "tcp" };
    add("system.network.connection.count", "{connection}", Kind.integer, count, labels);
  }
  for (const group of largest([...groups.values()])) {
    const { labels, receiveQueue, sendQueue, retransmits, rtts } = group;
    add("tcp.peer.connection.count", "{connection}", Kind.integer, group.connections, labels);
    if (receiveQueue > 0) add("tcp.peer.connection.receive_queue", "By", Kind.integer, receiveQueue, labels);
    if (sendQueue > 0) add("tcp.peer.connection.send_queue", "By", Kind.integer, sendQueue, labels);
    if (retransmits > 0)
      add("tcp.peer.connection.retransmits", "{segment}", Kind.integer, retransmits, labels);
    if (rtts > 0)
      add("tcp.peer.connection.rtt", "s", Kind.number, Math.round((group.rttS / rtts) * 1e6) / 1e6, labels);
  }
}

/** Those with the most connections; the others of a state are one, without a peer's name. */
function largest(groups: readonly Group[]): readonly Group[] {
  const sorted = groups.toSorted((a, b) => b.connections - a.connections);
  const others = new Map<string, Group>();
  for (const group of sorted.slice(MOST_GROUPS)) {
    const state = group.labels["network.connection.state"] ?? "";
    const other =
      others.get(state) ?? newGroup({ "network.connection.state": state, "network.peer.address": OTHER });
    join(other, group);
    others.set(state, other);
  }
  return [...sorted.slice(0, MOST_GROUPS), ...others.values()];
}
