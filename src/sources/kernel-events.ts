/** The events of a probe that sends each of them through a ring: drained, counted, and made rows of, up to a budget. */
import { readFileSync } from "node:fs";
import { uptime } from "node:os";
import { bootTimeOffsetUs, type Probe, RECORD_BYTES } from "../addon/index.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";

/** Rows of a chunk (DESIGN.md): events are published when they fill one. */
export const CHUNK_ROWS = 2048;
/** Records copied in one call. A quarter of the smallest ring, so that "full" also means: come back sooner. */
export const DRAIN_RECORDS = 1024;

const SMALLEST_RING_BYTES = 65_536;
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

/** Makes rows of `count` records of {@link RECORD_BYTES}; times are the kernel's plus `offsetUs`. */
export type AddEvents = (into: FrameBuilder, records: Uint8Array, count: number, offsetUs: number) => void;

/** What becomes of the records of one ring. */
export interface EventRingOptions {
  readonly add: AddEvents;
  /** rows that `add` makes of a record, at most */
  readonly rowsOfRecord: number;
  /** records that are sent on in an interval; the others are `dropped` */
  readonly budget: number;
}

/** One probe's ring. */
export class EventRing {
  readonly #probe: Probe;
  readonly #options: EventRingOptions;
  readonly #records = new Uint8Array(DRAIN_RECORDS * RECORD_BYTES);
  #left: number;
  drained = 0;
  dropped = 0;

  constructor(probe: Probe, options: EventRingOptions) {
    this.#probe = probe;
    this.#options = options;
    this.#left = options.budget;
  }

  /** A new interval begins. */
  refill(): void {
    this.#left = this.#options.budget;
  }

  /** Empties the ring, at most a few times its size; `send` takes what fills a chunk. Returns how many records there were. */
  drain(into: FrameBuilder, send: () => void): number {
    const { add, rowsOfRecord } = this.#options;
    const offsetUs = bootTimeOffsetUs();
    let records = 0;
    for (let calls = 0; calls < 16; calls++) {
      const found = this.#probe.drain(this.#records);
      const count = Math.min(found, this.#left);
      records += found;
      this.dropped += found - count;
      this.#left -= count;
      for (let from = 0; from < count; ) {
        const room = Math.max(1, Math.floor((CHUNK_ROWS - into.rows) / rowsOfRecord));
        const part = Math.min(room, count - from);
        add(into, this.#records.subarray(from * RECORD_BYTES), part, offsetUs);
        from += part;
        if (into.rows > CHUNK_ROWS - rowsOfRecord) send();
      }
      if (found < DRAIN_RECORDS) break;
    }
    this.drained += records;
    return records;
  }
}
