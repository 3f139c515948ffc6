/** The events of a probe that sends each of them through a ring: drained, counted, and made rows of, up to a budget. */
import { readFileSync } from "node:fs";
import { uptime } from "node:os";
import { bootTimeOffsetUs, type Probe, RECORD_BYTES } from "../addon/index.ts";
import type { Frame } from "../core/frame.ts";

const SMALLEST_RING_BYTES = 65_536;
/** Records that the smallest ring holds; the kernel takes a little of it. */
export const SMALLEST_RING_RECORDS = SMALLEST_RING_BYTES / RECORD_BYTES;
/** Records in one go: while they come faster than they can be decoded, the thread has other work, too. */
const MOST_DRAINED = 16_384;
/** Of a ring that is made larger again and again. */
export const LARGEST_RING_BYTES = 8_388_608;
/** A main thread that is busy may keep a ring waiting this long. */
const LONGEST_WAIT_S = 2;

/** Bytes for a ring of `perSecond` records; the addon rounds up to a power of two of whole pages, whatever a page is. */
export function ringBytesFor(perSecond: number): number {
  const bytes = perSecond * RECORD_BYTES * LONGEST_WAIT_S;
  return Math.min(LARGEST_RING_BYTES, Math.max(SMALLEST_RING_BYTES, Math.ceil(bytes)));
}

/** Processes that began in a second, on average since the machine's start; 0 when it isn't known. */
export function processesPerSecond(): number {
  try {
    const forks = /^processes (\d+)$/m.exec(readFileSync("/proc/stat", "utf8"))?.[1];
    return Number(forks ?? 0) / Math.max(1, uptime());
  } catch {
    return 0;
  }
}

/** Makes rows of a probe's records. */
export interface EventDecoder {
  /** Where records are drained to: {@link RECORD_BYTES} each. */
  readonly records: Uint8Array;
  /** The rows of the first `count` of them; times are the kernel's plus `offsetUs`. */
  frame(count: number, offsetUs: number): Frame;
}

/** Takes a frame of at most a chunk's rows. */
type Send = (frame: Frame) => void;

/** One probe's ring. What was drained is held as records, and decoded into a frame when it is sent on. */
export class EventRing {
  readonly #probe: Probe;
  readonly #decoder: EventDecoder;
  readonly #budget: number;
  readonly #room: number;
  #left: number;
  #held = 0;
  drained = 0;
  dropped = 0;

  /** `budget`: records that are sent on in an interval; the others are `dropped` */
  constructor(probe: Probe, decoder: EventDecoder, budget: number) {
    this.#probe = probe;
    this.#decoder = decoder;
    this.#budget = budget;
    this.#left = budget;
    this.#room = decoder.records.length / RECORD_BYTES;
  }

  /** A new interval begins. */
  refill(): void {
    this.#left = this.#budget;
  }

  /** Empties the ring, at most a few times its size; what fills a frame is sent. Returns how many records there were. */
  drain(send: Send): number {
    let records = 0;
    while (records < MOST_DRAINED) {
      const room = this.#room - this.#held;
      const found = this.#probe.drain(this.#decoder.records.subarray(this.#held * RECORD_BYTES));
      const kept = Math.min(found, this.#left);
      records += found;
      this.dropped += found - kept;
      this.#left -= kept;
      this.#held += kept;
      if (this.#held === this.#room) this.flush(send);
      if (found < room) break;
    }
    this.drained += records;
    return records;
  }

  /** Sends what is held. */
  flush(send: Send): void {
    if (this.#held === 0) return;
    const frame = this.#decoder.frame(this.#held, bootTimeOffsetUs());
    this.#held = 0;
    if (frame.rows > 0) send(frame);
  }
}
