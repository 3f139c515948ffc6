/**
 * A bounded cache in two generations: what was used lately stays, the rest goes a whole generation at a time. A flood of
 * new keys costs at most `2 * size` entries.
 */
export class RecentMap<V> {
  readonly #size: number;
  #young = new Map<string, V>();
  #old = new Map<string, V>();

  /** `size`: entries of one generation. */
  constructor(size: number) {
    this.#size = size;
  }

  /** Entries held, at most twice the size of a generation. */
  get count(): number {
    return this.#young.size + this.#old.size;
  }

  get(key: string): V | undefined {
    const young = this.#young.get(key);
    if (young !== undefined) return young;
    const old = this.#old.get(key);
    if (old !== undefined) this.set(key, old);
    return old;
  }

  set(key: string, value: V): void {
    if (this.#young.size >= this.#size) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(key, value);
  }
}
