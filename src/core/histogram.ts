/** How long something takes: counts by fixed upper bounds, cheap enough for the path. */

/** Upper bounds in seconds, from a millisecond to a minute. */
const SECONDS: readonly number[] = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
];

/** One distribution. A value belongs to the first bound that it is not above. */
export class Histogram {
  readonly bounds: readonly number[];
  /** by bound, and one more for what is above them all; not cumulative */
  readonly counts: Float64Array;
  sum = 0;

  constructor(bounds: readonly number[] = SECONDS) {
    this.bounds = bounds;
    this.counts = new Float64Array(bounds.length + 1);
  }

  /** Adds `weight` values of this size. Below 0, as after a clock was set back, counts as 0. */
  observe(value: number, weight = 1): void {
    const size = Math.max(0, value);
    let at = 0;
    while (at < this.bounds.length && size > (this.bounds[at] ?? 0)) at += 1;
    this.counts[at] = (this.counts[at] ?? 0) + weight;
    this.sum += size * weight;
  }

  /** Both together, as one of its own; their bounds are the same. */
  plus(other: Histogram): Histogram {
    const sum = new Histogram(this.bounds);
    this.counts.forEach((count, i) => {
      sum.counts[i] = count + (other.counts[i] ?? 0);
    });
    sum.sum = this.sum + other.sum;
    return sum;
  }
}

/** The bound below which a part `q` of the counts lies; the highest bound stands for what is above it. */
export function quantileOf(
  bounds: readonly number[],
  counts: ArrayLike<number>,
  q: number,
): number | undefined {
  let all = 0;
  for (let i = 0; i < counts.length; i++) all += counts[i] ?? 0;
  if (all === 0) return undefined;
  let seen = 0;
  for (let i = 0; i < counts.length; i++) {
    seen += counts[i] ?? 0;
    if (seen >= q * all) return bounds[Math.min(i, bounds.length - 1)];
  }
  return bounds.at(-1);
}
