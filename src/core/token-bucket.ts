/** A rate that may be used up in bursts: room for a second's worth, on the monotonic clock. */
export class TokenBucket {
  readonly #perSecond: number;
  #tokens: number;
  #atMs: number = performance.now();

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
    this.#tokens = perSecond;
  }

  /** How long until something may be taken: 0 for now. */
  get waitMs(): number {
    this.#fill();
    return this.#tokens > 0 ? 0 : Math.ceil(((1 - this.#tokens) * 1000) / this.#perSecond);
  }

  /** What was there at the last look, without owing anything. */
  get room(): number {
    return Math.max(0, Math.floor(this.#tokens));
  }

  /** Takes, and owes what was not there. */
  take(amount: number): void {
    this.#fill();
    this.#tokens -= amount;
  }

  /** Takes one if it is there. */
  tryTake(): boolean {
    // The clock is asked only when there seems to be none.
    if (this.#tokens < 1) this.#fill();
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }

  #fill(): void {
    const nowMs = performance.now();
    const earned = ((nowMs - this.#atMs) / 1000) * this.#perSecond;
    this.#tokens = Math.min(this.#perSecond, this.#tokens + earned);
    this.#atMs = nowMs;
  }
}
