/**
 * Lets into a cache only what has been seen before: a million topics that come once each would push out those that come again and
 * again, and fill the heap with entries that die old.
 */

const SLOTS = 32_768;

/** Remembers roughly the latest hashes: an answer is wrong where two meet in a slot, which costs one look-up more. */
export class Doorkeeper {
  readonly #tags = new Uint16Array(SLOTS);

  /** Whether this hash (32 bits) was seen lately; it is from now on. */
  knows(hash: number): boolean {
    const slot = hash & (SLOTS - 1);
    const tag = ((hash >>> 15) & 0xffff) | 1;
    if (this.#tags[slot] === tag) return true;
    this.#tags[slot] = tag;
    return false;
  }
}
