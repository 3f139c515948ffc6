/** A place where inputs enter one at a time, in order. */
export class Gate {
  #next = 0;
  readonly #waiting = new Map<number, () => void>();

  /** Whether it is this input's turn; else wait. */
  isOpen(seq: number): boolean {
    return this.#next === seq;
  }

  /** Resolves when it may be this input's turn: look again. */
  wait(seq: number): Promise<void> {
    return new Promise((resolve) => this.#waiting.set(seq, resolve));
  }

  /** The input has entered: the next may. */
  entered(): void {
    this.#next += 1;
    const next = this.#waiting.get(this.#next);
    if (next === undefined) return;
    this.#waiting.delete(this.#next);
    next();
  }

  /** Wakes everyone who waits; `reset` begins at the first input again. */
  release(reset: boolean): void {
    if (reset) this.#next = 0;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const resolve of waiting) resolve();
  }
}
