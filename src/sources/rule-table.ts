/**
 * The one list of mapping rules that routes point into. A list of rules keeps its place in it while it stays the same, so that a
 * source whose rules have not changed need not know that another's have.
 */
import type { DeviceRule } from "./options.ts";

/** Rules that are kept, with those of lists that are gone: above it all lists are placed anew. */
const MOST_RULES = 8192;

/** Places of lists of rules. */
export class RuleTable {
  #rules: DeviceRule[] = [];
  #places = new Map<string, { readonly key: string; readonly first: number }>();

  /** Every rule, by its place. */
  get rules(): readonly DeviceRule[] {
    return this.#rules;
  }

  /** Places lists by name; gives where each begins. */
  place(lists: ReadonlyMap<string, readonly DeviceRule[]>): ReadonlyMap<string, number> {
    const total = [...lists.values()].reduce((sum, { length }) => sum + length, 0);
    if (this.#rules.length + total > MOST_RULES) {
      this.#rules = [];
      this.#places = new Map();
    }
    // Decoders that are in use look at the list of before.
    this.#rules = [...this.#rules];
    const places = new Map<string, { readonly key: string; readonly first: number }>();
    for (const [name, rules] of lists) {
      const key = JSON.stringify(rules);
      const before = this.#places.get(name);
      if (before?.key === key) places.set(name, before);
      else {
        places.set(name, { key, first: this.#rules.length });
        this.#rules.push(...rules);
      }
    }
    this.#places = places;
    return new Map([...places].map(([name, { first }]) => [name, first]));
  }
}
