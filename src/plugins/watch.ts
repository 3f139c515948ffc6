/**
 * Notices changes of the plugins folder by looking: it works on every file system, and tells a file that is still being
 * written from one that is complete: complete is what two looks in a row find the same.
 */
import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path";

/** Time between two looks, in milliseconds. A change is taken up after two of them. */
const LOOK_MS = 400;
const MOST_ENTRIES = 1_000;
/** Files of one plugin's folder that are looked at. */
const MOST_FILES = 100;

/** Calls back when the folder has changed and is at rest again. */
export class FolderWatch {
  readonly #dir: string;
  readonly #onChange: () => Promise<void>;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #stopped = false;
  /** what was acted upon, and what the last look found */
  #acted = "";
  #last = "";

  constructor(dir: string, onChange: () => Promise<void>) {
    this.#dir = dir;
    this.#onChange = onChange;
  }

  /** Takes what is there now as known. */
  async start(): Promise<void> {
    this.#acted = await snapshot(this.#dir);
    this.#last = this.#acted;
    this.#later();
  }

  /** Resolves when nothing is being looked at or acted upon. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#looking;
  }

  #later(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#looking = this.#look().finally(() => this.#later());
    }, LOOK_MS);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    const now = await snapshot(this.#dir);
    const atRest = now === this.#last;
    this.#last = now;
    if (!atRest || now === this.#acted) return;
    this.#acted = now;
    await this.#onChange();
  }
}

/** Names, inodes, sizes and times of what is in the folder and one level below. */
async function snapshot(dir: string): Promise<string> {
  const lines: string[] = [];
  const names = await readdir(dir).catch(() => []);
  for (const name of names.sort().slice(0, MOST_ENTRIES)) {
    if (name.startsWith(".")) continue;
    const path = join(dir, name);
    const isFolder = await note(path, lines);
    if (!isFolder) continue;
    const inner = await readdir(path).catch(() => []);
    for (const file of inner.sort().slice(0, MOST_FILES)) await note(join(path, file), lines);
  }
  return lines.join("\n");
}

/** Adds an entry's line; says whether it is a folder. */
async function note(path: string, lines: string[]): Promise<boolean> {
  const stat = await lstat(path, { bigint: true }).catch(() => undefined);
  if (stat === undefined) return false;
  // A folder's own times change with files that are no part of the plugin.
  if (stat.isDirectory()) lines.push(`${path}/`);
  else lines.push(`${path} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.mode}`);
  return stat.isDirectory();
}
