/**
 * The TCP connections of this network namespace: through a BPF iterator where the kernel and this process's privileges allow
 * it, else from sock_diag(7), which asks for nothing.
 *
 * Both fill records of 64 bytes (`struct weir_connection` of native/bpf/layout.h): addresses of 16 bytes, IPv4 mapped into
 * IPv6, local and the peer's; the two ports; the state; then, each of four bytes, what waits to be read and to be
 * acknowledged, segments sent again, round-trip time, user.
 */
import { getSystemErrorName } from "node:util";
import { ipAddress } from "../core/ip-address.ts";
import { addonState, openProbe, type Probe, type ProbeResult } from "./index.ts";
import type { Native } from "./native.ts";
import type { Unavailable } from "./support.ts";

export type { Unavailable } from "./support.ts";

const RECORD_BYTES = 64;
/** Connections that a reading keeps; what there is beyond them is only counted. */
const MOST_CONNECTIONS = 65_536;
const FIRST_ROOM = 1024;
const LISTEN = 10;
/** By number (include/net/tcp_states.h), in the words of OpenTelemetry's `network.connection.state`. */
const STATES = [
  "",
  "established",
  "syn_sent",
  "syn_received",
  "fin_wait_1",
  "fin_wait_2",
  "time_wait",
  "closed",
  "close_wait",
  "last_ack",
  "listen",
  "closing",
  "syn_received",
];

/** One TCP connection, or one socket that listens. */
export interface Connection {
  readonly state: string;
  readonly localAddress: string;
  readonly localPort: number;
  /** "" and 0 of one that listens */
  readonly peerAddress: string;
  readonly peerPort: number;
  /** bytes that the program hasn't read yet; of one that listens: connections that wait to be accepted */
  readonly receiveQueue: number;
  /** bytes that the peer hasn't acknowledged yet; of one that listens: how many may wait */
  readonly sendQueue: number;
  /** segments sent again since it began */
  readonly retransmits: number;
  /** smoothed round-trip time in seconds; undefined where it isn't known */
  readonly rttS: number | undefined;
  readonly uid: number;
}

/** One reading of the table. */
export interface Connections {
  readonly connections: readonly Connection[];
  /** how many there are; more than `connections` has when they are over {@link MOST_CONNECTIONS} */
  readonly seen: number;
}

/** A way to read the table, and why it is not the iterator. Belongs to the thread that opened it. */
export interface ConnectionTable {
  readonly via: "iterator" | "sock_diag";
  /** why the iterator can't be had */
  readonly why: Unavailable | undefined;
  /** the iterator's program, for its memory and cost */
  readonly probe: Probe | undefined;
  /** @throws Error when the kernel refuses, with its name for the reason */
  read(): Connections;
  close(): void;
}

/** Opens the better way there is, or sock_diag without `iterator`; without the addon there is none. */
export function openConnections({
  iterator = true,
} = {}): { readonly on: true; readonly table: ConnectionTable } | ({ readonly on: false } & Unavailable) {
  const addon = addonState();
  if (!addon.ok) return { on: false, reason: addon.reason, remedy: addon.remedy };
  return { on: true, table: new Table(addon.native, iterator ? openProbe("connections") : undefined) };
}

class Table implements ConnectionTable {
  readonly via: "iterator" | "sock_diag";
  readonly why: Unavailable | undefined;
  readonly probe: Probe | undefined;
  readonly #native: Native;
  #records = new Uint8Array(FIRST_ROOM * RECORD_BYTES);

  constructor(native: Native, opened: ProbeResult | undefined) {
    this.#native = native;
    this.probe = opened?.on === true ? opened.probe : undefined;
    this.via = this.probe === undefined ? "sock_diag" : "iterator";
    this.why = opened?.on === false ? { reason: opened.reason, remedy: opened.remedy } : undefined;
  }

  read(): Connections {
    for (;;) {
      const native = this.#native;
      const [kept, seen] =
        this.probe === undefined
          ? native.askConnections(this.#records)
          : native.readConnections(this.probe.name, this.#records);
      if (kept < 0) throw new Error(`${this.via}: ${getSystemErrorName(kept)}`);
      const room = this.#records.byteLength / RECORD_BYTES;
      if (seen <= room || room >= MOST_CONNECTIONS)
        return { connections: readRecords(this.#records, kept), seen };
      const wanted = Math.min(MOST_CONNECTIONS, seen * 2);
      this.#records = new Uint8Array(wanted * RECORD_BYTES);
    }
  }

  close(): void {
    this.probe?.close();
  }
}

/** `count` records as objects. */
function readRecords(records: Uint8Array, count: number): readonly Connection[] {
  const view = new DataView(records.buffer, records.byteOffset, records.byteLength);
  const bytes = Buffer.from(records.buffer, records.byteOffset, records.byteLength);
  // Many have the same: a look-up by its bytes takes a tenth of writing one.
  const known = new Map<string, string>();
  const address = (at: number): string => {
    const key = bytes.toString("latin1", at, at + 16);
    let text = known.get(key);
    if (text === undefined) {
      text = ipAddress(records.subarray(at, at + 16));
      known.set(key, text);
    }
    return text;
  };
  return Array.from({ length: count }, (_, i): Connection => {
    const at = i * RECORD_BYTES;
    const u32 = (offset: number): number => view.getUint32(at + offset, true);
    const state = records[at + 36] ?? 0;
    const peer = state === LISTEN ? "" : address(at + 16);
    const rttUs = u32(52);
    return {
      state: STATES[state] || String(state),
      localAddress: address(at),
      localPort: view.getUint16(at + 32, true),
      peerAddress: peer,
      peerPort: view.getUint16(at + 34, true),
      receiveQueue: u32(40),
      sendQueue: u32(44),
      retransmits: u32(48),
      rttS: rttUs === 0 ? undefined : rttUs / 1e6,
      uid: u32(56),
    };
  });
}
