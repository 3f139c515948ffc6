/**
 * The native addon, validated: kernel probes and CRC-32C.
 *
 * Importing never fails. Without the addon `crc32c` is computed in JavaScript, and every probe says why it is off.
 * Nothing of the kernel's memory is visible to JavaScript: counters and records are copied into arrays of the caller.
 */
import { getSystemErrorName } from "node:util";
import { crc32cTable } from "./crc32c.ts";
import { loadNative, type Native, type NativeState } from "./native.ts";
import {
  explain,
  explainPerf,
  holdsSysAdmin,
  kernelSupport,
  obstacle,
  PROBE_CAPABILITIES,
  type Unavailable,
} from "./support.ts";

export { kernelEnum } from "./btf.ts";
export type { NativeState } from "./native.ts";
export { type KernelSupport, kernelSupport, obstacle, type Unavailable } from "./support.ts";

/** What a probe's counters hold (native/bpf/layout.h): histograms, and slots for labels. */
const SHAPES = {
  sched: { histograms: 1, slots: 128 },
  softirq: { histograms: 1, slots: 0 },
  block: { histograms: 16, slots: 8 },
  tcp: { histograms: 2, slots: 128 },
  tcploss: { histograms: 0, slots: 128 },
  drops: { histograms: 0, slots: 128 },
  exec: { histograms: 0, slots: 128 },
  coldstart: { histograms: 0, slots: 64 },
  oom: { histograms: 0, slots: 32 },
  fserror: { histograms: 0, slots: 16 },
  writeerror: { histograms: 0, slots: 16 },
  thermal: { histograms: 0, slots: 32 },
  sockcalls: { histograms: 4, slots: 128 },
  opens: { histograms: 0, slots: 128 },
  signals: { histograms: 0, slots: 128 },
  dns: { histograms: 1, slots: 32 },
  connections: { histograms: 0, slots: 0 },
  counters: { histograms: 1, slots: 0 },
  hardware: { histograms: 1, slots: 0 },
} as const;

/** One of {@link PROBES} or {@link ON_DEMAND_PROBES}. */
export type ProbeName = keyof typeof SHAPES;
/** Names of the probes that are always on. */
export const PROBES: readonly ProbeName[] = [
  "sched",
  "softirq",
  "block",
  "tcp",
  "tcploss",
  "drops",
  "exec",
  "coldstart",
  "oom",
  "fserror",
  "writeerror",
  "thermal",
  "counters",
  "hardware",
];

/** Names of those that run for a bounded time, when asked for: they tax what they look at. */
export const ON_DEMAND_PROBES: readonly ProbeName[] = ["sockcalls", "opens", "signals", "dns", "connections"];

/** Those that are no programs but counters of the kernel's own, read through perf_event_open(2). */
const COUNTERS: readonly ProbeName[] = ["counters", "hardware"];

/** Words of a slot: id, three of labels, four of values. */
export const SLOT_WORDS = 8;

/** Buckets of a histogram: bucket b counts values in (2^(b-1), 2^b] nanoseconds, bucket 0 those up to 1. */
export const BUCKETS = 64;
/** Bytes of a drained record: the kernel's 8-byte header, then `struct weir_event` of native/bpf/layout.h. */
export const RECORD_BYTES = 64;
/** Words before the first histogram: produced, lost, and the sums of up to six histograms. */
const HEAD_WORDS = 8;

/** Totals since the probe was loaded; they only grow. Views on one array that the next `read()` overwrites. */
export interface Counters {
  readonly produced: bigint;
  /** of the produced, those that could not be held */
  readonly lost: bigint;
  /** in nanoseconds, by histogram */
  readonly sumNs: BigUint64Array;
  /** {@link BUCKETS} counts for each histogram */
  readonly buckets: readonly BigUint64Array[];
  /** {@link SLOT_WORDS} for each slot (id 0: free); the last one is for all others. Empty without labels. */
  readonly slots: BigUint64Array;
}

/** A probe that is loaded and attached. Belongs to the thread that opened it, which closes it at its end if nobody did. */
export interface Probe {
  readonly name: ProbeName;
  /** Reads every CPU's counters. A few microseconds; not a consistent snapshot while events go on. */
  read(): Counters;
  /**
   * Copies finished records out of the ring, oldest first, and frees their place. `exec` and `opens` only.
   * @param into at least one record long; never more than this is copied
   * @returns records copied, {@link RECORD_BYTES} each
   */
  drain(into: Uint8Array): number;
  /** Bytes that the kernel charges for its maps and programs; 0 when it doesn't say. */
  readonly memoryBytes: number;
  /** Nanoseconds and runs of its programs so far, while the kernel counted them ({@link countRuns}, kernel.bpf_stats_enabled). */
  cost(): { readonly ns: number; readonly runs: number };
  /** Detaches from the kernel. Using the probe afterwards throws. */
  close(): void;
}

/** Outcome of {@link openProbe}. */
export type ProbeResult =
  /** `raw`: why it runs over raw tracepoints, if it does */
  | { readonly on: true; readonly probe: Probe; readonly raw: Unavailable | undefined }
  | ({ readonly on: false } & Unavailable);

let state: NativeState | undefined;

/** Loads the addon at the first call, and says where it is or why there is none. Never throws. */
export function addonState(): NativeState {
  state ??= loadNative();
  return state;
}

/**
 * CRC-32C (Castagnoli; RFC 3720, appendix B.4) of `bytes`, as an unsigned 32-bit number.
 * @param seed the checksum of what came before, 0 at the start
 */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  const addon = addonState();
  return addon.ok ? addon.native.crc32c(bytes, seed) : crc32cTable(bytes, seed);
}

/** How `crc32c` is computed here: `sse4.2`, `armv8`, `table` (all native), or `javascript`. */
export function crc32cImplementation(): string {
  const addon = addonState();
  return addon.ok ? addon.native.crc32cImplementation : "javascript";
}

/** What to add to a record's `time_ns / 1000` for microseconds since the Unix epoch. Ask again at each drain: clocks are set. */
export function bootTimeOffsetUs(): number {
  const addon = addonState();
  return addon.ok ? addon.native.bootTimeOffsetUs() : 0;
}

/**
 * Loads one probe and attaches it. Never throws for what the machine lacks: that is a reason and a remedy.
 * @param ringBytes room for records; rounded up to a power of two of whole pages
 * @throws TypeError when the arguments are wrong, or this thread has the probe already
 */
export function openProbe(name: ProbeName, ringBytes = 262_144): ProbeResult {
  if (!Object.hasOwn(SHAPES, name)) throw new TypeError(`no probe named ${JSON.stringify(name)}`);
  if (!Number.isSafeInteger(ringBytes) || ringBytes < 1 || ringBytes > 2 ** 28) {
    throw new TypeError(`ringBytes must be a whole number from 1 to ${2 ** 28}`);
  }
  const addon = addonState();
  if (!addon.ok) return { on: false, reason: addon.reason, remedy: addon.remedy };
  const counts = COUNTERS.includes(name);
  const support = kernelSupport();
  const known = counts ? undefined : obstacle(support);
  if (known !== undefined) return { on: false, ...known };
  const failure = addon.native.loadProbe(name, ringBytes);
  if (failure === null) return { on: true, probe: new LoadedProbe(addon.native, name), raw: undefined };
  const why = counts ? explainPerf(failure) : explain(failure, support.btf);
  return failure.raw
    ? { on: true, probe: new LoadedProbe(addon.native, name), raw: why }
    : { on: false, ...why };
}

/** Has the kernel count what BPF programs take, which itself takes some 60 ns a run. False when it refuses: it takes CAP_SYS_ADMIN. */
export function countRuns(on: boolean): boolean {
  const addon = addonState();
  return addon.ok && addon.native.countRuns(on) === 0;
}

/** A local port on which TCP connections are taken, over all its sockets. */
export interface Listener {
  readonly port: number;
  /** connections that wait to be accepted, and how many may */
  readonly queued: number;
  readonly limit: number;
  /** segments dropped since it began to listen: connections for which there was no room, for the most part */
  readonly drops: number;
}

/** The ports that listen in this network namespace, ascending; needs no privilege. Empty when the kernel can't be asked. */
export function tcpListeners(): readonly Listener[] {
  const addon = addonState();
  const numbers = addon.ok ? addon.native.listeners() : [];
  const ports = new Map<number, Listener>();
  for (let at = 0; at + 4 <= numbers.length; at += 4) {
    const [port = 0, queued = 0, limit = 0, drops = 0] = numbers.slice(at, at + 4);
    const known = ports.get(port) ?? { queued: 0, limit: 0, drops: 0 };
    ports.set(port, {
      port,
      queued: known.queued + queued,
      limit: known.limit + limit,
      drops: known.drops + drops,
    });
  }
  return [...ports.values()].sort((a, b) => a.port - b.port);
}

/**
 * Gives up CAP_BPF and CAP_PERFMON in every thread of this process, for good. What is loaded goes on.
 * @returns why they are not all gone; undefined when they are
 */
export function dropProbeCapabilities(): string | undefined {
  const addon = addonState();
  if (!addon.ok) return addon.reason;
  const left = addon.native.dropCapabilities(Uint32Array.of(...PROBE_CAPABILITIES));
  if (left > 0) return `${left} threads still hold CAP_BPF or CAP_PERFMON`;
  if (left < 0) return getSystemErrorName(left);
  return holdsSysAdmin() ? "CAP_SYS_ADMIN, which a process of root keeps, stands for both" : undefined;
}

class LoadedProbe implements Probe {
  readonly name: ProbeName;
  readonly #native: Native;
  readonly #words: BigUint64Array;
  readonly #sumNs: BigUint64Array;
  readonly #buckets: readonly BigUint64Array[];
  readonly #slots: BigUint64Array;
  readonly memoryBytes: number;
  #open = true;

  constructor(native: Native, name: ProbeName) {
    const { histograms, slots } = SHAPES[name];
    const plain = HEAD_WORDS + histograms * BUCKETS;
    this.name = name;
    this.memoryBytes = native.probeMemory(name);
    this.#native = native;
    this.#words = new BigUint64Array(plain + (slots > 0 ? (slots + 1) * SLOT_WORDS : 0));
    this.#sumNs = this.#words.subarray(2, 2 + Math.min(histograms, 6));
    this.#buckets = Array.from({ length: histograms }, (_, k) =>
      this.#words.subarray(HEAD_WORDS + k * BUCKETS, HEAD_WORDS + (k + 1) * BUCKETS),
    );
    this.#slots = this.#words.subarray(plain);
  }

  read(): Counters {
    this.#check();
    this.#native.readCounters(this.name, this.#words);
    const [produced = 0n, lost = 0n] = this.#words;
    return { produced, lost, sumNs: this.#sumNs, buckets: this.#buckets, slots: this.#slots };
  }

  drain(into: Uint8Array): number {
    this.#check();
    if (into.byteLength < RECORD_BYTES)
      throw new TypeError(`drain needs room for a record of ${RECORD_BYTES} bytes`);
    return this.#native.drain(this.name, into);
  }

  cost(): { readonly ns: number; readonly runs: number } {
    this.#check();
    const [ns, runs] = this.#native.probeCost(this.name);
    return { ns, runs };
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#native.closeProbe(this.name);
  }

  // The binding goes by name: without this, a closed object would read a probe opened since.
  #check(): void {
    if (!this.#open) throw new TypeError(`probe ${this.name} is closed`);
  }
}
