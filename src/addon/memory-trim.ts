/**
 * A process at rest gives back memory that it needed before: its start takes 40 MB that are not used later. The plugin host does
 * the same by itself (native/jail/trimmer.c), without the collection.
 */
import { addonState } from "./index.ts";

const LOOK_MS = 5_000;
/** Processor time in microseconds that is little for one look, and that is worth a trim or a collection. */
const RESTS_US = 250_000;
const WORTH_TRIM_US = 100_000;
const WORTH_COLLECTION_US = 10_000_000;

/**
 * Has this thread's heap collected after the start, and whenever the process has worked and then rests; then, a look later, trims the
 * process. Each thread with a heap that grows has one.
 */
export class MemoryTrim {
  #timer: NodeJS.Timeout | undefined;
  #beforeUs = Number.POSITIVE_INFINITY;
  #collectedUs = Number.NEGATIVE_INFINITY;
  #trimmedUs = 0;

  start(): void {
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const { user, system } = process.cpuUsage();
    const nowUs = user + system;
    const rests = nowUs - this.#beforeUs < RESTS_US;
    this.#beforeUs = nowUs;
    const addon = addonState();
    if (!rests || !addon.ok) return;
    if (nowUs - this.#collectedUs >= WORTH_COLLECTION_US) {
      this.#collectedUs = nowUs;
      addon.native.collectGarbage();
    } else if (nowUs - this.#trimmedUs >= WORTH_TRIM_US) {
      this.#trimmedUs = nowUs;
      addon.native.trimMemory();
    }
  }
}
