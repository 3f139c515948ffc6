/**
 * The account of every stage: `in = out + lost + dropped + rejected + held`, in the stage's own unit. `lost`: we could
 * not hold it. `dropped`: a policy chose to. `rejected`: not valid, or refused. Outbox counts live in its database.
 */

import { Histogram } from "./histogram.ts";

/** One line of the ledger. */
export interface LedgerLine {
  /** `kernel`, `source`, `decode`, `plugin`, `commit`, `effects`, `outbox` or `forward` */
  readonly stage: string;
  /** the probe, source, plugin, stream or uplink/stream */
  readonly name: string;
  /** `events`, `messages`, `samples` or `batches` */
  readonly unit: string;
  readonly in: number;
  readonly out: number;
  readonly lost: number;
  readonly dropped: number;
  readonly rejected: number;
  readonly held: number;
  /** counts beside the identity, such as `made` or `emitted` */
  readonly also: Readonly<Record<string, number>>;
}

/** The running counts of one stage. `held` comes from looking, never from the other counts: so the identity can fail. */
export class StageCount {
  readonly stage: string;
  readonly name: string;
  readonly unit: string;
  in = 0;
  out = 0;
  lost = 0;
  dropped = 0;
  rejected = 0;
  readonly also: Record<string, number> = {};
  readonly #held: (() => number) | undefined;

  /** `held` counts what the stage holds by looking; a stage that holds nothing, or can't look, leaves it out. */
  constructor(stage: string, name: string, unit: string, held?: () => number) {
    this.stage = stage;
    this.name = name;
    this.unit = unit;
    this.#held = held;
  }

  /** Adds to a count beside the identity. */
  note(what: string, by: number): void {
    this.also[what] = (this.also[what] ?? 0) + by;
  }

  line(): LedgerLine {
    const { stage, name, unit, lost, dropped, rejected, also } = this;
    return {
      stage,
      name,
      unit,
      in: this.in,
      out: this.out,
      lost,
      dropped,
      rejected,
      held: this.#held?.() ?? 0,
      also: { ...also },
    };
  }
}

/** All stages of this run, and how long things take. */
export class Ledger {
  readonly #stages = new Map<string, StageCount>();
  readonly #timings = new Map<string, Histogram>();

  /** The count of (stage, name), made at its first use. */
  stage(stage: string, name: string, unit: string, held?: () => number): StageCount {
    const key = `${stage}\0${name}`;
    let count = this.#stages.get(key);
    if (count === undefined) {
      count = new StageCount(stage, name, unit, held);
      this.#stages.set(key, count);
    }
    return count;
  }

  /** The distribution of (thing, name) in seconds, made at its first use. */
  timing(thing: string, name = ""): Histogram {
    const key = `${thing}\0${name}`;
    const found = this.#timings.get(key) ?? new Histogram();
    this.#timings.set(key, found);
    return found;
  }

  /** Every distribution. */
  timings(): { readonly thing: string; readonly name: string; readonly histogram: Histogram }[] {
    return [...this.#timings].map(([key, histogram]) => {
      const [thing = "", name = ""] = key.split("\0");
      return { thing, name, histogram };
    });
  }

  lines(): LedgerLine[] {
    return [...this.#stages.values()].map((count) => count.line());
  }
}

/** What a line is off by: 0 when its identity holds. */
export const imbalance = (line: LedgerLine): number =>
  line.in - line.out - line.lost - line.dropped - line.rejected - line.held;
