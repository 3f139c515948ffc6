/** Samples of what runs: perf_event_open(2) on every CPU, read as records. */
import { untilNul } from "../core/c-string.ts";
import { Hash } from "./hash.ts";
import { addonState } from "./index.ts";
import type { NativeSampler } from "./native.ts";
import { explainPerf, type Unavailable } from "./support.ts";

/** What a sample is taken of: PERF_COUNT_SW_* of include/uapi/linux/perf_event.h. */
export const SampleEvent = { cpuClock: 0, pageFaults: 2 } as const;

/** How to sample. */
export interface SamplerOptions {
  readonly event: (typeof SampleEvent)[keyof typeof SampleEvent];
  /** samples a second */
  readonly perSecond?: number;
  /** or one sample for so many events */
  readonly period?: number;
  /** the calling thread alone; else every CPU */
  readonly thisThread?: boolean;
  /** room for records, for each CPU; 128 KiB by default, which needs no privilege for locked memory */
  readonly ringBytes?: number;
}

/** A thread was somewhere. */
export interface Sample {
  readonly pid: number;
  readonly tid: number;
  /** where, as the kernel says it: equal bytes are equal stacks. A view that the next sample overwrites; {@link readStack} reads it */
  readonly callchain: Uint8Array;
}

/** Addresses, from the innermost call outwards. */
export interface Stack {
  readonly kernel: readonly bigint[];
  readonly user: readonly bigint[];
}

/** What an open sampler has seen. */
export interface SamplerCounts {
  /** events; with a period of 1, the samples that there should be */
  readonly produced: number;
  readonly drained: number;
  readonly lost: number;
}

/** Belongs to the thread that opened it. */
export interface Sampler {
  /** Hands over what is in the rings now: samples, and names of processes that began a program or took a name. */
  drain(onSample: (sample: Sample) => void, onName: (pid: number, name: string) => void): void;
  /** XXH128 of a sample's callchain: one number for one stack. */
  stackKey(callchain: Uint8Array): bigint;
  counts(): SamplerCounts;
  close(): void;
}

/** Outcome of {@link openSampler}. */
export type SamplerResult =
  | { readonly on: true; readonly sampler: Sampler }
  | ({ readonly on: false } & Unavailable);

const RECORD_COMM = 3;
const RECORD_SAMPLE = 9;
/** Addresses from here on are no addresses: they say whose the next ones are (enum perf_callchain_context). */
const CONTEXT_MAX = 2n ** 64n - 4095n;
const CONTEXT_KERNEL = 2n ** 64n - 128n;
const CONTEXT_USER = 2n ** 64n - 512n;
/** Twice the largest record, so that a call gets on with more than one ring. */
const BUFFER_BYTES = 1 << 20;

/** Begins to sample. Never throws for what the machine lacks: that is a reason and a remedy. */
export function openSampler(options: SamplerOptions): SamplerResult {
  const addon = addonState();
  if (!addon.ok) return { on: false, reason: addon.reason, remedy: addon.remedy };
  const { event, perSecond = 99, period, thisThread = false, ringBytes = 131_072 } = options;
  const native = new addon.native.Sampler(
    event,
    period ?? perSecond,
    period !== undefined,
    thisThread ? 0 : -1,
    ringBytes,
  );
  if (native.errno === 0)
    return { on: true, sampler: new OpenSampler(native, new Hash(addon.native, "xxh128", 0n)) };
  return { on: false, ...explainPerf({ errno: native.errno, step: "open the sampler" }) };
}

class OpenSampler implements Sampler {
  readonly #native: NativeSampler;
  readonly #buffer = Buffer.alloc(BUFFER_BYTES);
  readonly stackKey: (callchain: Uint8Array) => bigint;

  constructor(native: NativeSampler, hash: Hash) {
    this.#native = native;
    this.stackKey = (stack) => hash.of(stack);
  }

  drain(onSample: (sample: Sample) => void, onName: (pid: number, name: string) => void): void {
    // A bound, in case that samples come faster than they are read.
    for (let calls = 0; calls < 64; calls++) {
      const bytes = this.#native.drain(this.#buffer);
      if (bytes === 0) return;
      readRecords(this.#buffer.subarray(0, bytes), onSample, onName);
    }
  }

  counts(): SamplerCounts {
    const [produced, drained, lost] = this.#native.counts();
    return { produced, drained, lost };
  }

  close(): void {
    this.#native.close();
  }
}

/**
 * Reads records as the addon hands them over: header (u32 type, u16 misc, u16 size), then for a sample u32 pid, u32 tid, u64
 * time, u64 number of addresses, addresses; for a name u32 pid, u32 tid, text up to a NUL. Others are passed over, and what
 * does not fit its record is cut off.
 */
export function readRecords(
  records: Buffer,
  onSample: (sample: Sample) => void,
  onName: (pid: number, name: string) => void,
): void {
  for (let at = 0; at + 16 <= records.length; ) {
    const type = records.readUInt32LE(at);
    const size = records.readUInt16LE(at + 6);
    if (size < 8 || at + size > records.length) return;
    if (type === RECORD_SAMPLE && size >= 32) onSample(readSample(records.subarray(at + 8, at + size)));
    if (type === RECORD_COMM && size > 16) {
      const name = untilNul(records.subarray(at + 16, at + size));
      // A thread's own name is not its process's.
      if (records.readUInt32LE(at + 8) === records.readUInt32LE(at + 12))
        onName(records.readUInt32LE(at + 8), name);
    }
    at += size;
  }
}

function readSample(body: Buffer): Sample {
  const count = Math.min(Number(body.readBigUInt64LE(16)), Math.floor((body.length - 24) / 8));
  const callchain = body.subarray(24, 24 + 8 * count);
  return { pid: body.readUInt32LE(0), tid: body.readUInt32LE(4), callchain };
}

/** The addresses of a {@link Sample}. */
export function readStack(callchain: Uint8Array): Stack {
  const view = new DataView(callchain.buffer, callchain.byteOffset, callchain.byteLength);
  const [kernel, user]: [bigint[], bigint[]] = [[], []];
  let into: bigint[] | undefined;
  for (let at = 0; at + 8 <= callchain.byteLength; at += 8) {
    const address = view.getBigUint64(at, true);
    if (address < CONTEXT_MAX) into?.push(address);
    else into = address === CONTEXT_KERNEL ? kernel : address === CONTEXT_USER ? user : undefined;
  }
  return { kernel, user };
}
