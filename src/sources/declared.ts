/** What a mapping rule says about metrics beyond what the payload says: their units and types. */
import { matcher } from "../core/glob.ts";
import { RecentMap } from "./recent-map.ts";

/** One metric's declaration. */
export interface Declaration {
  /** UCUM */
  readonly unit?: string | undefined;
  readonly type?: "number" | "integer" | "boolean" | "text" | undefined;
}

/** Names of a generation that are remembered. */
const REMEMBERED = 4096;
const NONE: Declaration = {};

/** The declarations of one rule, by patterns over metric names; the first that matches wins. */
export class Declarations {
  readonly #patterns: readonly { readonly is: (name: string) => boolean; readonly what: Declaration }[];
  readonly #recent = new RecentMap<Declaration>(REMEMBERED);
  /** some metric is to be of another type than it comes as */
  readonly converts: boolean;

  constructor(metrics: Readonly<Record<string, Declaration>>) {
    const entries = Object.entries(metrics);
    this.#patterns = entries.map(([pattern, what]) => ({ is: matcher([pattern]), what }));
    this.converts = entries.some(([, { type }]) => type !== undefined);
  }

  of(name: string): Declaration {
    if (this.#patterns.length === 0) return NONE;
    let found = this.#recent.get(name);
    if (found === undefined) {
      found = this.#patterns.find(({ is }) => is(name))?.what ?? NONE;
      this.#recent.set(name, found);
    }
    return found;
  }
}
