/**
 * Batches that the broker has and the consumer has not made durable yet: where an uplink is told what the consumer keeps, only
 * that counts as delivered, because a broker's PUBACK may come from memory.
 */
import type { BatchKey, DurableNotice } from "../core/ports.ts";

/** Inclusive ranges of sequence numbers, ascending and disjoint. */
type Ranges = readonly (readonly [from: number, to: number])[];

interface Waiting {
  readonly key: BatchKey;
  readonly sinceMs: number;
}

/** What waits for the consumer's word, by the outbox's number of each batch. */
export class Durable {
  readonly #timeoutMs: number;
  readonly #waiting = new Map<number, Waiting>();

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
  }

  get size(): number {
    return this.#waiting.size;
  }

  get ids(): number[] {
    return [...this.#waiting.keys()];
  }

  /** The broker has it. */
  add(id: number, key: BatchKey, nowMs: number): void {
    this.#waiting.set(id, { key, sinceMs: nowMs });
  }

  /** Takes out the batches that a notice covers as a whole. */
  take({ epoch, stream, upto, also }: DurableNotice): number[] {
    const ranges = merge([[0, upto], ...also]);
    const done: number[] = [];
    for (const [id, { key }] of this.#waiting) {
      if (key.epoch !== epoch || key.stream !== stream) continue;
      const last = key.seq + key.span - 1;
      if (ranges.some(([from, to]) => from <= key.seq && last <= to)) done.push(id);
    }
    for (const id of done) this.#waiting.delete(id);
    return done;
  }

  /** Takes out those that have waited too long: they are to be sent again. */
  expired(nowMs: number): number[] {
    const late: number[] = [];
    for (const [id, { sinceMs }] of this.#waiting) if (nowMs - sinceMs >= this.#timeoutMs) late.push(id);
    for (const id of late) this.#waiting.delete(id);
    return late;
  }

  /** Forgets all; they are sent again from the outbox. */
  clear(): number[] {
    const ids = this.ids;
    this.#waiting.clear();
    return ids;
  }
}

/** Ranges that overlap or touch become one. */
function merge(given: Ranges): Ranges {
  const merged: [number, number][] = [];
  for (const [from, to] of given.toSorted((a, b) => a[0] - b[0])) {
    if (to < from) continue;
    const last = merged.at(-1);
    if (last !== undefined && from <= last[1] + 1) last[1] = Math.max(last[1], to);
    else merged.push([from, to]);
  }
  return merged;
}
