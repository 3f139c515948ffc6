/** Time over restarts: the last known time is kept, and where the clock stands before it, time goes on from there, flagged. */
import type { GatewayClock } from "./core/clock.ts";
import type { WorkerOutbox } from "./outbox/outbox.ts";

/** The setting that keeps the last known time, in microseconds, and how often it is kept, in seconds. */
const KNOWN_TIME = "clock/known";
const KEEP_TIME_S = 60;

/** Keeps a clock's last known time in the outbox. */
export class ClockKeeper {
  readonly #clock: GatewayClock;
  readonly #outbox: WorkerOutbox;
  readonly #log: (level: "info" | "warn", message: string) => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    clock: GatewayClock,
    outbox: WorkerOutbox,
    log: (level: "info" | "warn", message: string) => void,
  ) {
    this.#clock = clock;
    this.#outbox = outbox;
    this.#log = log;
  }

  /** Starts the clock, and looks at it every second. */
  async start(): Promise<void> {
    const kept = Number(await this.#outbox.setting(KNOWN_TIME));
    this.#clock.start(kept > 0 ? kept : undefined);
    if (!this.#clock.valid) {
      const known = new Date(kept / 1000).toISOString();
      this.#log(
        "warn",
        `the clock stands before ${known}, the last known time: time goes on from there, flagged`,
      );
    }
    void this.#keep();
    let looks = 0;
    this.#timer = setInterval(() => {
      if (this.#clock.look()) this.#log("info", "the clock was set: samples have its time again");
      looks += 1;
      if (looks % KEEP_TIME_S === 0) void this.#keep();
    }, 1_000);
    this.#timer.unref();
  }

  /** Ends the looks; what is known is kept. Never throws. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#keep();
  }

  /** An outbox that can't keep it now is asked again in a minute. */
  async #keep(): Promise<void> {
    await this.#outbox.setSetting(KNOWN_TIME, String(this.#clock.nowUs)).catch(() => {});
  }
}
