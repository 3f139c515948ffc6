/**
 * How old chunks are, whatever is done to the clock: one that is set forward makes nothing that was stored before any older, as a
 * gateway that boots without a clock would else drop by its TTL what it stored until the clock was set.
 */
import type { Keepsakes } from "./keepsakes.ts";

/** A clock that is off by so much since the last look, in ms, has been set; less is what clocks drift, or a stop of the process. */
const SET_MS = 10_000;
/** Times that the clock was set which are remembered, the latest. */
const MOST = 64;
const KEY = "clock";

/** The clock was set. */
interface Jump {
  /** chunks up to this one were stored before */
  readonly upTo: number;
  /** forward, or back when negative */
  readonly byMs: number;
}

/** What the clock's being set makes of ages. Writes run inside the caller's transaction. */
export class Ages {
  readonly #kept: Keepsakes;
  readonly #offsetMs: () => number;
  #lastMs: number;
  #jumps: readonly Jump[];

  /** `nowMs`: the clock that chunks are stored by; `monotonicMs`: one that nobody sets. */
  constructor(kept: Keepsakes, nowMs: () => number, monotonicMs: () => number) {
    this.#kept = kept;
    this.#offsetMs = () => nowMs() - monotonicMs();
    this.#lastMs = this.#offsetMs();
    this.#jumps = JSON.parse(kept.setting(KEY) ?? "[]");
  }

  /** Looks whether the clock was set. `lastChunk`: the newest one; `firstChunk`: what was stored before it is gone. */
  look(firstChunk: number, lastChunk: number): void {
    const offsetMs = this.#offsetMs();
    const byMs = offsetMs - this.#lastMs;
    this.#lastMs = offsetMs;
    if (Math.abs(byMs) < SET_MS) return;
    const needed = this.#jumps.filter(({ upTo }) => upTo >= firstChunk);
    this.#jumps = [...needed, { upTo: lastChunk, byMs }].slice(-MOST);
    this.#kept.setSetting(KEY, JSON.stringify(this.#jumps));
  }

  /** How much older a chunk seems than it is, in milliseconds. */
  seemsOlderMs(chunk: number): number {
    return this.#jumps.reduce((sum, { upTo, byMs }) => sum + (chunk <= upTo ? byMs : 0), 0);
  }
}
