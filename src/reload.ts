/** Changes of the configuration while the agent runs: what they touch, and when to look for them. */
import { statSync } from "node:fs";
import { dirname, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Config } from "./config/schema.ts";
import { FolderHints } from "./core/folder-hints.ts";

/** How often the files are looked at while something changes, in milliseconds; and else, for file systems that give no word of it. */
const LOOK_MS = 500;
const REST_MS = 5_000;

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
 * in the middle of writing. Word from the file system only says when to look: it would miss what is mounted over, or a link's
 * target that changes.
 */
export class ConfigWatch {
  readonly #files: () => readonly string[];
  readonly #onChange: () => void;
  readonly #hints = new FolderHints(() => this.#hint());
  #timer: NodeJS.Timeout | undefined;
  #hinted = false;
  #known = "";
  #seen = "";

  /** `files`: those to look at, the main one first; asked for at each look. Its conf.d is looked at for new ones. */
  constructor(files: () => readonly string[], onChange: () => void) {
    this.#files = files;
    this.#onChange = onChange;
  }

  /** Takes the files as they are now for those that have been read. */
  remember(): void {
    this.#known = this.#seen = this.#look();
  }

  /** Begins to look. After {@link remember}; what has changed since then is told, too. */
  start(): void {
    this.#hints.watch(this.#folders());
    this.#later(LOOK_MS);
  }

  stop(): void {
    this.#hints.close();
    clearTimeout(this.#timer);
  }

  #hint(): void {
    if (this.#hinted) return;
    this.#hinted = true;
    this.#later(LOOK_MS);
  }

  #later(waitMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#hinted = false;
      const now = this.#look();
      const changing = now !== this.#seen;
      this.#seen = now;
      // Others may belong to it now, and a folder that was replaced is another one.
      if (changing) this.#hints.watch(this.#folders());
      else if (now !== this.#known) {
        this.#known = now;
        this.#onChange();
      }
      this.#later(changing ? LOOK_MS : REST_MS);
    }, waitMs);
    this.#timer.unref();
  }

  #folders(): string[] {
    const files = this.#files();
    const main = files[0] === undefined ? [] : [join(dirname(files[0]), "conf.d")];
    return [...new Set([...files.map((file) => dirname(file)), ...main])];
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
