/** Rows of the table of TCP connections (docs/probes.md): how many there are in each state, and what waits, by state, peer and port. */
import {
  type Connection,
  type Connections,
  type ConnectionTable,
  openConnections,
  type Unavailable,
} from "../addon/connections.ts";
import type { Probe } from "../addon/index.ts";
import { messageOf } from "../core/errors.ts";
import { Kind, nameProblem, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import { metricName } from "../core/labels.ts";

const OTHER = "_other";
/** Peers with a state and port of their own in one reading; further ones are together under `_other`. */
const MOST_GROUPS = 64;
/** From here on a local port on which nobody listens says nothing: it is a client's (native/bpf/endpoint.bpf.h). */
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

/** Ports of a table on which somebody listens. */
const listening = (connections: readonly Connection[]): ReadonlySet<number> =>
  new Set(connections.flatMap(({ state, localPort }) => (state === "listen" ? [localPort] : [])));

/** The labels of a connection, as those of probes `tcp` and `tcploss`, and its state. */
function labelsOf(one: Connection, isServed: boolean): Record<string, string> {
  return {
    "network.connection.state": one.state,
    "network.peer.address": one.peerAddress,
    ...(isServed
      ? { "network.local.port": String(one.localPort) }
      : { "network.peer.port": one.peerPort === 0 ? "" : String(one.peerPort) }),
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
  const states = Map.groupBy(connections, ({ state }) => state);
  const counts = new Map(Array.from(states, ([state, all]) => [state, all.length]));
  if (seen > connections.length) counts.set(OTHER, seen - connections.length);
  for (const [state, count] of counts) {
    const labels = { "network.connection.state": state, "network.transport": "tcp" };
    add(into, timeUs, "system.network.connection.count", "{connection}", count, labels);
  }
  for (const group of largest(groupsOf(connections, listening(connections)))) {
    const { labels, receiveQueue, sendQueue, retransmits } = group;
    add(into, timeUs, "tcp.peer.connection.count", "{connection}", group.connections, labels);
    for (const [name, unit, value] of [
      ["receive_queue", "By", receiveQueue],
      ["send_queue", "By", sendQueue],
      ["retransmits", "{segment}", retransmits],
    ] as const)
      if (value > 0) add(into, timeUs, `tcp.peer.connection.${name}`, unit, value, labels);
    addRoundTrip(into, group, timeUs);
  }
}

/** Adds `tcp.peer.connection.rtt` alone, of connections that are established. */
export function addRoundTrips(into: FrameBuilder, connections: readonly Connection[], timeUs: number): void {
  const established = connections.filter(({ state }) => state === "established");
  for (const group of largest(groupsOf(established, listening(connections))))
    addRoundTrip(into, group, timeUs);
}

function addRoundTrip(into: FrameBuilder, { labels, rttS, rtts }: Group, timeUs: number): void {
  if (rtts === 0) return;
  const mean = Math.round((rttS / rtts) * 1e6) / 1e6;
  add(into, timeUs, "tcp.peer.connection.rtt", "s", mean, labels, Kind.number);
}

function add(
  into: FrameBuilder,
  timeUs: number,
  name: string,
  unit: string,
  value: number,
  labels: Group["labels"],
  kind: Kind = Kind.integer,
): void {
  const metric = metricName(name, labels);
  if (nameProblem(metric) === undefined)
    into.add(into.device("_gateway"), into.metric(metric, unit), timeUs, kind, Status.good, value);
}

function groupsOf(connections: readonly Connection[], served: ReadonlySet<number>): readonly Group[] {
  const groups = new Map<string, Group>();
  for (const one of connections) {
    const isServed = one.localPort < FIRST_EPHEMERAL || served.has(one.localPort);
    const port = isServed ? one.localPort : -one.peerPort;
    const key = `${one.state} ${port} ${one.peerAddress}`;
    let group = groups.get(key);
    if (group === undefined) {
      group = newGroup(labelsOf(one, isServed));
      groups.set(key, group);
    }
    // Of a socket that listens these are connections, not bytes: tcp.listen.queue of source `system` has them.
    const listens = one.state === "listen";
    group.connections += 1;
    group.receiveQueue += listens ? 0 : one.receiveQueue;
    group.sendQueue += listens ? 0 : one.sendQueue;
    group.retransmits += one.retransmits;
    if (one.rttS === undefined) continue;
    group.rttS += one.rttS;
    group.rtts += 1;
  }
  return [...groups.values()];
}

/**
 * Those with the most connections, of these the ones with most that waits; what is only waiting for its end comes last. The others
 * of a state are one, without a peer's name.
 */
function largest(groups: readonly Group[]): readonly Group[] {
  const ended = ({ labels }: Group): number => Number(labels["network.connection.state"] === "time_wait");
  const waits = ({ receiveQueue, sendQueue }: Group): number => receiveQueue + sendQueue;
  const sorted = groups.toSorted(
    (a, b) => ended(a) - ended(b) || b.connections - a.connections || waits(b) - waits(a),
  );
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

/** How the table is read, or why it can't be. */
export interface TableStatus {
  readonly state: "on" | "unavailable";
  readonly untilMs?: number;
  readonly memoryBytes?: number;
  readonly fallback?: string;
  readonly reason?: string;
  readonly remedy?: string;
}

/** The table while it is asked for. */
export class ConnectionRows {
  #table: ConnectionTable | undefined;
  #end: NodeJS.Timeout | undefined;

  /** The iterator's program, while it is loaded. */
  get probe(): Probe | undefined {
    return this.#table?.probe;
  }

  /** Opens it; `ended` is called after `forMs`, unless it is closed before. */
  open(forMs: number, ended: () => void): TableStatus {
    this.close();
    const opened = openConnections();
    if (!opened.on) return { state: "unavailable", reason: opened.reason, remedy: opened.remedy };
    const { table } = opened;
    this.#table = table;
    this.#end = setTimeout(ended, forMs);
    return {
      state: "on",
      untilMs: Date.now() + forMs,
      ...(table.probe === undefined ? {} : { memoryBytes: table.probe.memoryBytes }),
      ...(table.why === undefined ? {} : { fallback: table.via, ...table.why }),
    };
  }

  /** Adds one reading, if it is open. Gives back why it can't be read, if it can't. */
  add(into: FrameBuilder, timeUs: number): Unavailable | undefined {
    if (this.#table === undefined) return undefined;
    try {
      addConnections(into, this.#table.read(), timeUs);
      return undefined;
    } catch (thrown) {
      return { reason: messageOf(thrown), remedy: "please report it with the kernel's version" };
    }
  }

  close(): void {
    clearTimeout(this.#end);
    this.#table?.close();
    this.#table = undefined;
  }
}
