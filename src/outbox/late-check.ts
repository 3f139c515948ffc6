/**
 * Looks for damage in a database while the outbox works, in a thread of its own: in one that was not closed in order and is too
 * large to be checked before it is used, and in one that somebody else has written to.
 */
import { extname } from "node:path";
import { Worker } from "node:worker_threads";
import type { Damage } from "./plan.ts";

/** Least time from the end of a check to the next one, in milliseconds. */
const REST_MS = 10_000;

/** What the thread is given. */
export interface LateCheckPlan {
  readonly path: string;
  /** the running epoch: a database that does not know it is another one */
  readonly epoch: string;
  /** the next number of each stream, as of the beginning of the check: a database that is behind is an older one */
  readonly next: Readonly<Record<string, number>>;
  /** somebody has written to it: at the priority of the rest, since a busy machine would put it off */
  readonly isUrgent: boolean;
}

/** What the thread says at its end: what is wrong, or undefined. */
export type LateCheckVerdict = Damage | undefined;

/** The checks of one database, one at a time. */
export class LateCheck {
  readonly #plan: Pick<LateCheckPlan, "path" | "epoch">;
  readonly #next: () => LateCheckPlan["next"];
  readonly #found: (damage: Damage) => void;
  #worker: Worker | undefined;
  #rest: NodeJS.Timeout | undefined;
  #again = false;

  /** `found` is called when something is wrong, and not after {@link stop}. */
  constructor(
    plan: Pick<LateCheckPlan, "path" | "epoch">,
    next: () => LateCheckPlan["next"],
    found: (damage: Damage) => void,
  ) {
    this.#plan = plan;
    this.#next = next;
    this.#found = found;
  }

  /** Begins a check; where one runs, or has just run, another one follows. */
  run(isUrgent: boolean): void {
    if (this.#worker !== undefined || this.#rest !== undefined) {
      this.#again = true;
      return;
    }
    this.#again = false;
    const worker = new Worker(
      new URL(`./late-check-thread${extname(import.meta.filename)}`, import.meta.url),
      {
        workerData: { ...this.#plan, next: this.#next(), isUrgent } satisfies LateCheckPlan,
        name: "late-check",
        resourceLimits: { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 32 },
      },
    );
    this.#worker = worker;
    worker.once("message", (verdict: LateCheckVerdict) => {
      if (verdict !== undefined) this.#found(verdict);
    });
    // That nothing could be found out is not damage.
    worker.on("error", () => {});
    worker.once("exit", () => {
      this.#worker = undefined;
      this.#rest = setTimeout(() => {
        this.#rest = undefined;
        if (this.#again) this.run(true);
      }, REST_MS).unref();
    });
    worker.unref();
  }

  /** Ends it. Resolves when the database is let go; no check begins after it. */
  async stop(): Promise<void> {
    this.#again = false;
    this.#worker?.removeAllListeners("message");
    await this.#worker?.terminate();
  }
}
