/**
 * Dedupe by key: at least once on the wire becomes exactly once. Sequence numbers that have come are kept as intervals for
 * each (gateway, epoch, stream): one pair of numbers while nothing is missing, so memory follows holes, not samples.
 */

/** Sequence numbers of one batch, or of an announced gap. */
export interface Span {
  readonly gateway: string;
  readonly epoch: string;
  readonly stream: string;
  readonly seq: number;
  /** how many numbers */
  readonly span: number;
}

/** What {@link Deduper.take} says: take it, leave it (it came before), or look: it overlaps without being the same. */
export type Verdict = "new" | "duplicate" | "overlap";

/** Numbers (inclusive) that have not come, below others that have. */
export interface Hole {
  readonly gateway: string;
  readonly epoch: string;
  readonly stream: string;
  readonly from: number;
  readonly to: number;
}

/** How much is remembered. */
export interface DeduperLimits {
  /** (gateway, epoch, stream) at a time; the one not seen for longest is forgotten */
  readonly series: number;
  /** intervals for each; beyond it the lowest two become one, and what was missing between them is given up */
  readonly intervals: number;
}

interface Series {
  readonly key: Omit<Hole, "from" | "to">;
  /** ascending, disjoint, not touching: [from, to] inclusive */
  readonly intervals: [from: number, to: number][];
  /** numbers that were given up because of the limit */
  givenUp: number;
}

/** Remembers which numbers have come. Not for several threads. */
export class Deduper {
  readonly #limits: DeduperLimits;
  /** oldest use first */
  readonly #series = new Map<string, Series>();

  constructor(limits: DeduperLimits = { series: 4096, intervals: 4096 }) {
    this.#limits = limits;
  }

  /** Judges a batch and remembers it. Also takes announced gaps, so that they are no holes. */
  take(span: Span): Verdict {
    const last = span.seq + span.span - 1;
    if (!Number.isSafeInteger(span.seq) || !Number.isSafeInteger(last) || span.seq < 0 || span.span < 1)
      throw new RangeError(`not a range of sequence numbers: ${span.seq}, ${span.span}`);
    const series = this.#of(span);
    const at = firstFrom(series.intervals, span.seq);
    const found = series.intervals[at];
    if (found !== undefined && found[0] <= span.seq && last <= found[1]) return "duplicate";
    const overlaps = found !== undefined && found[0] <= last;
    this.#add(series, span.seq, last);
    return overlaps ? "overlap" : "new";
  }

  /** What is missing now: numbers below the greatest that has come. */
  holes(): Hole[] {
    const holes: Hole[] = [];
    for (const { key, intervals } of this.#series.values()) {
      let next = 0;
      for (const [from, to] of intervals) {
        if (from > next) holes.push({ ...key, from: next, to: from - 1 });
        next = to + 1;
      }
    }
    return holes;
  }

  /** Numbers that were missing and are no longer looked for, because there were too many intervals. */
  get givenUp(): number {
    let all = 0;
    for (const { givenUp } of this.#series.values()) all += givenUp;
    return all;
  }

  #of({ gateway, epoch, stream }: Span): Series {
    const name = `${gateway}\0${epoch}\0${stream}`;
    let series = this.#series.get(name);
    if (series === undefined) series = { key: { gateway, epoch, stream }, intervals: [], givenUp: 0 };
    else this.#series.delete(name);
    this.#series.set(name, series);
    if (this.#series.size > this.#limits.series) {
      const [oldest = name] = this.#series.keys();
      this.#series.delete(oldest);
    }
    return series;
  }

  #add(series: Series, from: number, to: number): void {
    const { intervals } = series;
    // Everything that overlaps or touches becomes one.
    const start = firstFrom(intervals, from - 1);
    let end = start;
    let low = from;
    let high = to;
    for (let next = intervals[end]; next !== undefined && next[0] <= to + 1; next = intervals[++end]) {
      low = Math.min(low, next[0]);
      high = Math.max(high, next[1]);
    }
    intervals.splice(start, end - start, [low, high]);
    const [first, second] = intervals;
    if (intervals.length <= this.#limits.intervals || first === undefined || second === undefined) return;
    series.givenUp += second[0] - first[1] - 1;
    intervals.splice(0, 2, [first[0], second[1]]);
  }
}

/** Index of the first interval that ends at `number` or after it. */
function firstFrom(intervals: readonly (readonly [number, number])[], number: number): number {
  let low = 0;
  let high = intervals.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((intervals[middle]?.[1] ?? 0) < number) low = middle + 1;
    else high = middle;
  }
  return low;
}
