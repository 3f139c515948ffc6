/**
 * What probes take of the processors, by the kernel's own count: over a second, soon after the start, after a probe on demand
 * has come, and then now and again.
 */
import { countRuns, type Probe } from "../addon/index.ts";

const FIRST_MS = 5_000;
const AGAIN_MS = 600_000;
const SOON_MS = 100;
const WINDOW_MS = 1_000;

/** Of a probe in the latest window. */
export interface ProbeCost {
  readonly nsPerRun: number;
  readonly runsPerSecond: number;
}

/** Counting costs, too: hence the short window. Where it is refused, and nobody else has it counted, there are no costs. */
export class CostMeter {
  readonly #probes: () => Iterable<Probe>;
  readonly #costs = new Map<string, ProbeCost>();
  #timer: NodeJS.Timeout | undefined;
  #counting = false;
  #wanted = false;

  constructor(probes: () => Iterable<Probe>) {
    this.#probes = probes;
  }

  start(): void {
    this.#timer = setTimeout(() => this.#open(), FIRST_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
    countRuns(false);
  }

  /** Counts within a moment: something new runs. */
  soon(): void {
    this.#wanted = true;
    if (this.#counting) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), SOON_MS);
  }

  /** Of a probe that has ended, nothing is known. */
  forget(name: string): void {
    this.#costs.delete(name);
  }

  /** Undefined while nothing is known. */
  of(name: string): ProbeCost | undefined {
    return this.#costs.get(name);
  }

  #open(): void {
    this.#counting = true;
    this.#wanted = false;
    countRuns(true);
    const from = performance.now();
    const before = new Map(Array.from(this.#probes(), (probe) => [probe, probe.cost()]));
    this.#timer = setTimeout(() => {
      const seconds = (performance.now() - from) / 1000;
      for (const probe of this.#probes()) {
        const was = before.get(probe);
        if (was === undefined) continue;
        const { ns, runs } = probe.cost();
        const more = runs - was.runs;
        if (more > 0)
          this.#costs.set(probe.name, { nsPerRun: (ns - was.ns) / more, runsPerSecond: more / seconds });
      }
      countRuns(false);
      this.#counting = false;
      this.#timer = setTimeout(() => this.#open(), this.#wanted ? SOON_MS : AGAIN_MS);
    }, WINDOW_MS);
  }
}
