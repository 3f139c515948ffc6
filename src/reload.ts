/** Changes of the configuration while the agent runs: what they touch, and when to look for them. */
import { statSync } from "node:fs";
import { dirname, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Config } from "./config/schema.ts";

/** How often the files are looked at, in milliseconds. */
const LOOK_MS = 500;

/** Top-level sections that differ. */
export function sectionsChanged(before: Config, after: Config): string[] {
  const old = new Map<string, unknown>(Object.entries(before));
  return Object.entries(after).flatMap(([name, section]) =>
    isDeepStrictEqual(section, old.get(name)) ? [] : [name],
  );
}

/** What differs and can't change while the agent runs: its identity, and where its data lie. */
export function fixedChanges(before: Config, after: Config): string[] {
  const changes: string[] = [];
  if (!isDeepStrictEqual(before.gateway, after.gateway)) changes.push("gateway");
  if (before.data.dir !== after.data.dir) changes.push("data.dir");
  if (before.plugins.dir !== after.plugins.dir) changes.push("plugins.dir");
  return changes;
}

/**
 * Looks whether any file of the configuration has changed, and tells once it has stood still for one look: an editor may be
 * in the middle of writing. Watching by events would miss what is renamed into place or mounted over.
 */
export class ConfigWatch {
  readonly #files: () => readonly string[];
  readonly #onChange: () => void;
  #timer: NodeJS.Timeout | undefined;
  #known = "";
  #seen = "";

  /** `files`: those to look at, the main one first; asked for at each look. Its conf.d is looked at for new ones. */
  constructor(files: () => readonly string[], onChange: () => void) {
    this.#files = files;
    this.#onChange = onChange;
  }

  start(): void {
    this.#known = this.#seen = this.#look();
    this.#timer = setInterval(() => {
      const now = this.#look();
      if (now === this.#seen && now !== this.#known) {
        this.#known = now;
        this.#onChange();
      }
      this.#seen = now;
    }, LOOK_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): string {
    const files = this.#files();
    const folder = files[0] === undefined ? [] : [join(dirname(files[0]), "conf.d")];
    return [...files, ...folder].map(stamp).join(" ");
  }
}

function stamp(path: string): string {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found === undefined ? "-" : `${found.ino}:${found.size}:${found.mtimeNs}`;
}
