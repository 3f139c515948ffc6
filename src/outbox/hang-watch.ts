/**
 * Finds out that the outbox's worker does not answer: a disk that hangs gives no error, and the thread that waits for it can't say so.
 * Costs a timer now and then while calls are made, and nothing else.
 */
import type { Trouble } from "./plan.ts";

/** An answer is late after this, in milliseconds. */
const LATE_MS = 15_000;
/** A timer that is so much too late says that the whole process stood still: then nothing is known. */
const SLACK_MS = 2_000;

/** What is asked, and told. */
export interface HangWatchParts {
  /** whether any call waits for an answer */
  readonly waits: () => boolean;
  readonly hangs: (trouble: Trouble) => void;
  readonly goesOn: () => void;
}

/** Watches one worker after the other. */
export class HangWatch {
  readonly #parts: HangWatchParts;
  #timer: NodeJS.Timeout | undefined;
  #heardMs = 0;
  #hangs = false;

  constructor(parts: HangWatchParts) {
    this.#parts = parts;
  }

  /** A call was made. */
  asked(): void {
    if (this.#timer !== undefined) return;
    this.#heardMs = performance.now();
    this.#look(LATE_MS);
  }

  /** The worker has said something, or has ended. */
  heard(): void {
    this.#heardMs = performance.now();
    if (!this.#hangs) return;
    this.#hangs = false;
    this.#parts.goesOn();
  }

  #look(inMs: number): void {
    const dueMs = performance.now() + inMs;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      const now = performance.now();
      if (!this.#parts.waits()) return;
      const silentMs = now - dueMs > SLACK_MS ? 0 : now - this.#heardMs;
      if (silentMs >= LATE_MS && !this.#hangs) {
        this.#hangs = true;
        this.#parts.hangs({
          sinceMs: Date.now() - Math.round(silentMs),
          message: "the disk does not answer: what was to be written has been under way for 15 s",
        });
      }
      this.#look(Math.max(LATE_MS - silentMs, SLACK_MS));
    }, inMs);
    this.#timer.unref();
  }
}
