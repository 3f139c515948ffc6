/**
 * Notices changes of the plugins folder by looking: it works on every file system, and tells a file that is still being
 * written from one that is complete: complete is what two looks in a row find the same. Where the system gives word of a
 * change, the first look comes at once; elsewhere within {@link REST_MS}.
 */
import { lstat, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { FolderHints } from "../core/folder-hints.ts";

/** Time between two looks while something changes, in milliseconds. A change is taken up after two of them. */
const LOOK_MS = 400;
/** After word of a change, in milliseconds: more of it often follows. */
const HINTED_MS = 100;
/** Time between two looks else: each is a call for every file. */
const REST_MS = 5_000;
const MOST_ENTRIES = 1_000;
/** Files of one plugin's folder that are looked at. */
const MOST_FILES = 100;

/** Calls back when the folder has changed and is at rest again. */
export class FolderWatch {
  readonly #dir: string;
  readonly #onChange: () => Promise<void>;
  readonly #hints = new FolderHints(() => this.#hint());
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #stopped = false;
  /** there was word of a change since the last look began */
  #hinted = false;
  /** what was acted upon, and what the last look found */
  #acted: Snapshot = NOTHING;
  #last: Snapshot = NOTHING;

  constructor(dir: string, onChange: () => Promise<void>) {
    this.#dir = dir;
    this.#onChange = onChange;
  }

  /** Takes what is there now as known. */
  async start(): Promise<void> {
    this.#acted = await snapshot(this.#dir);
    this.#last = this.#acted;
    this.#hints.watch(this.#acted.folders);
    // What changed between the two has given no word.
    this.#later(LOOK_MS);
  }

  /** Resolves when nothing is being looked at or acted upon. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#hints.close();
    clearTimeout(this.#timer);
    await this.#looking;
  }

  #hint(): void {
    if (this.#hinted || this.#stopped) return;
    this.#hinted = true;
    if (this.#looking === undefined) this.#later(HINTED_MS);
  }

  #later(waitMs: number): void {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#hinted = false;
      this.#looking = this.#look().then((atRest) => {
        this.#looking = undefined;
        this.#later(atRest && !this.#hinted ? REST_MS : LOOK_MS);
      });
    }, waitMs);
    this.#timer.unref();
  }

  /** Whether nothing has changed since the last look. */
  async #look(): Promise<boolean> {
    const now = await snapshot(this.#dir);
    const atRest = now.text === this.#last.text;
    this.#last = now;
    if (!atRest) this.#hints.watch(now.folders);
    if (!atRest || now.text === this.#acted.text) return atRest;
    this.#acted = now;
    await this.#onChange();
    return true;
  }
}

/** What a look finds. */
interface Snapshot {
  /** names, inodes, sizes and times of what is in the folder and one level below */
  readonly text: string;
  /** to watch: the folder and those in it; while it isn't there, the one that it will be in */
  readonly folders: readonly string[];
}

const NOTHING: Snapshot = { text: "", folders: [] };

async function snapshot(dir: string): Promise<Snapshot> {
  const lines: string[] = [];
  const names = await readdir(dir).catch(() => undefined);
  if (names === undefined) return { text: "", folders: [dirname(dir)] };
  const stat = await lstat(dir).catch(() => undefined);
  // A link that leads elsewhere from now on is a change of the folder that it lies in.
  const folders = stat?.isSymbolicLink() ? [dir, dirname(dir)] : [dir];
  for (const name of names.sort().slice(0, MOST_ENTRIES)) {
    if (name.startsWith(".")) continue;
    const path = join(dir, name);
    const isFolder = await note(path, lines);
    if (!isFolder) continue;
    folders.push(path);
    const inner = await readdir(path).catch(() => []);
    for (const file of inner.sort().slice(0, MOST_FILES)) await note(join(path, file), lines);
  }
  return { text: lines.join("\n"), folders };
}

/** Adds an entry's line; says whether it is a folder. */
async function note(path: string, lines: string[]): Promise<boolean> {
  const stat = await lstat(path, { bigint: true }).catch(() => undefined);
  if (stat === undefined) lines.push(`${path} ?`);
  if (stat === undefined) return false;
  // A folder's own times change with files that are no part of the plugin.
  if (stat.isDirectory()) lines.push(`${path}/`);
  else lines.push(`${path} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs} ${stat.mode}`);
  return stat.isDirectory();
}
