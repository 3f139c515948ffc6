/**
 * An agent at rest gives back memory that it needed before: its start takes 20 MB that are not used later. The plugin host does
 * the same by itself (native/jail/trimmer.c).
 */
import { addonState } from "./index.ts";

const LOOK_MS = 10_000;
/** Processor time in microseconds that is little for one look, and that is worth a trim. */
const RESTS_US = 500_000;
const WORKED_US = 100_000;

/** Trims this process after its start, and whenever it has worked and then rests. */
export class MemoryTrim {
  #timer: NodeJS.Timeout | undefined;
  #beforeUs = 0;
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
    const rests = this.#beforeUs === 0 || nowUs - this.#beforeUs < RESTS_US;
    this.#beforeUs = nowUs;
    const addon = addonState();
    if (!rests || nowUs - this.#trimmedUs < WORKED_US || !addon.ok) return;
    addon.native.trimMemory();
    this.#trimmedUs = nowUs;
  }
}
