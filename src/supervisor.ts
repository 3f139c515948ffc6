/**
 * Keeps the agent's parts (broker, sources, uplinks, servers) as the configuration wants them. Each lives on its own: one that
 * can't start is tried again with back-off, and holds no other up; one whose options change is stopped and made anew, the
 * others go on untouched.
 */
import type { PartStatus } from "./api/types.ts";
import { messageOf, WeirError } from "./core/errors.ts";

/** Something that runs. Made anew for every start. */
export interface Part {
  /** Throws when it can't run now: it is tried again. */
  start(): Promise<void>;
  /** Ends it, nothing taken in is lost. Never throws. */
  stop(): Promise<void>;
}

/** A part that is wanted. */
export interface PartSpec {
  readonly name: string;
  /** what it is made from: another key means a change */
  readonly key: string;
  readonly make: () => Part | Promise<Part>;
}

/** Waits between tries, in milliseconds: doubled from the first to the last. */
const FIRST_BACKOFF_MS = 500;
const LAST_BACKOFF_MS = 10_000;

interface Kept {
  readonly spec: PartSpec;
  part: Part | undefined;
  running: boolean;
  reason: string | undefined;
  remedy: string | undefined;
  failures: number;
  retry: NodeJS.Timeout | undefined;
}

/** The parts of one agent. */
export class Supervisor {
  readonly #kept = new Map<string, Kept>();
  readonly #log: (level: "info" | "warn", message: string) => void;
  #work: Promise<unknown> = Promise.resolve();
  #stopped = false;

  constructor(log: (level: "info" | "warn", message: string) => void) {
    this.#log = log;
  }

  /**
   * Makes what runs what is wanted, in the order of the list: what is gone or changed is stopped (last first), then
   * `between` is done, then what is missing is started, what has failed tried again. Resolves when each runs or has failed for the first time.
   * @returns the names of the parts that were stopped or started
   */
  apply(wanted: readonly PartSpec[], between: () => Promise<void> = async () => {}): Promise<string[]> {
    return this.#inTurn(async () => {
      const specs = new Map(wanted.map((spec) => [spec.name, spec]));
      const leaving = [...this.#kept.values()].filter(({ spec }) => specs.get(spec.name)?.key !== spec.key);
      for (const kept of leaving.toReversed()) await this.#end(kept);
      await between();
      const changed = new Set(leaving.map(({ spec }) => spec.name));
      for (const spec of wanted) {
        const there = this.#kept.get(spec.name);
        if (there !== undefined) {
          if (!there.running) await this.#try(there);
          continue;
        }
        changed.add(spec.name);
        const kept: Kept = {
          spec,
          part: undefined,
          running: false,
          reason: "starting",
          remedy: undefined,
          failures: 0,
          retry: undefined,
        };
        this.#kept.set(spec.name, kept);
        await this.#try(kept);
      }
      return [...changed];
    });
  }

  /** Stops the parts that `which` says, all of them without it: at once, so that one that is slow takes no other's time. None is started again. */
  stop(which: (name: string) => boolean = () => true): Promise<void> {
    this.#stopped = true;
    return this.#inTurn(async () => {
      const leaving = [...this.#kept.values()].filter(({ spec }) => which(spec.name));
      await Promise.all(leaving.map((kept) => this.#end(kept)));
    });
  }

  /** Makes a part anew that can't go on as it is. */
  renew(name: string): Promise<void> {
    return this.#inTurn(async () => {
      const kept = this.#kept.get(name);
      if (kept === undefined || this.#stopped) return;
      kept.running = false;
      await kept.part?.stop();
      await this.#try(kept);
    });
  }

  /** Parts that do not run, with the reason. */
  missing(): PartStatus[] {
    return [...this.#kept.values()].flatMap(({ spec, running, reason, remedy }) =>
      running ? [] : [{ name: spec.name, state: "failed" as const, reason, remedy }],
    );
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#work.then(work);
    this.#work = turn.catch(() => {});
    return turn;
  }

  async #try(kept: Kept): Promise<void> {
    const { name } = kept.spec;
    clearTimeout(kept.retry);
    kept.retry = undefined;
    try {
      kept.part = await kept.spec.make();
      await kept.part.start();
    } catch (thrown) {
      this.#failed(kept, thrown);
      return;
    }
    kept.running = true;
    kept.reason = kept.remedy = undefined;
    const tries = kept.failures === 1 ? "a try" : `${kept.failures} tries`;
    if (kept.failures > 0) this.#log("info", `${name}: runs now, after ${tries} that failed`);
    kept.failures = 0;
    // Others may have waited for this one.
    for (const other of this.#kept.values()) if (other.retry !== undefined) this.#later(other, 0);
  }

  #failed(kept: Kept, thrown: unknown): void {
    kept.part = undefined;
    const reason = messageOf(thrown);
    const remedy = thrown instanceof WeirError ? thrown.remedy : undefined;
    if (reason !== kept.reason)
      this.#log("warn", `${kept.spec.name}: ${reason}${remedy === undefined ? "" : `; ${remedy}`}`);
    kept.reason = reason;
    kept.remedy = remedy;
    kept.failures += 1;
    const most = Math.min(LAST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** Math.min(kept.failures - 1, 10));
    this.#later(kept, most * (0.75 + Math.random() / 4));
  }

  #later(kept: Kept, waitMs: number): void {
    clearTimeout(kept.retry);
    kept.retry = setTimeout(() => {
      void this.#inTurn(async () => {
        // It may have been started meanwhile.
        if (this.#stopped || kept.running || this.#kept.get(kept.spec.name) !== kept) return;
        await this.#try(kept);
      });
    }, waitMs);
    kept.retry.unref();
  }

  async #end(kept: Kept): Promise<void> {
    clearTimeout(kept.retry);
    kept.retry = undefined;
    this.#kept.delete(kept.spec.name);
    await kept.part?.stop();
  }
}
