/** So many at a time, and the others in their order: what a connection's Receive Maximum asks of whoever sends. */
export class Turns {
  #free: number;
  #waiting: PromiseWithResolvers<void>[] = [];

  /** `most` may have a turn at a time. */
  constructor(most: number) {
    this.#free = most;
  }

  /** Takes a turn: undefined when there is one now, else a promise of it, which rejects when {@link fail} comes first. */
  take(): Promise<void> | undefined {
    if (this.#free > 0) {
      this.#free -= 1;
      return undefined;
    }
    const turn = Promise.withResolvers<void>();
    this.#waiting.push(turn);
    return turn.promise;
  }

  /** Gives a turn back: the next one has it. */
  give(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next.resolve();
  }

  /** There are no more turns. */
  fail(error: Error): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
