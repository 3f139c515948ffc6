/**
 * Looks for damage in a database that was not closed in order and is too large to be checked before it is used: in a thread of its
 * own, while the outbox works.
 */
import { extname } from "node:path";
import { Worker } from "node:worker_threads";

/** What the thread is given. */
export interface LateCheckPlan {
  readonly path: string;
}

/** What the thread says at its end: what is wrong, or undefined. */
export type LateCheckVerdict = string | undefined;

/** One check of one database. */
export class LateCheck {
  readonly #worker: Worker;

  /** Begins. `found` is called when something is wrong, and not after {@link stop}. */
  constructor(path: string, found: (what: string) => void) {
    this.#worker = new Worker(
      new URL(`./late-check-thread${extname(import.meta.filename)}`, import.meta.url),
      {
        workerData: { path } satisfies LateCheckPlan,
        name: "late-check",
        resourceLimits: { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 32 },
      },
    );
    this.#worker.once("message", (verdict: LateCheckVerdict) => {
      if (verdict !== undefined) found(verdict);
    });
    // That nothing could be found out is not damage.
    this.#worker.on("error", () => {});
    this.#worker.unref();
  }

  /** Ends it. Resolves when it has let the database go. */
  async stop(): Promise<void> {
    this.#worker.removeAllListeners("message");
    await this.#worker.terminate();
  }
}
