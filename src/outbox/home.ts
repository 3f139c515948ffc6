/**
 * Where the database lives, and how often it was used. A copy of it, a backup that came back, and a file that was moved away or
 * written over while it was open are found out.
 */
import { closeSync, constants, openSync, readFileSync, type Stats, statSync, writeSync } from "node:fs";
import type { Keepsakes } from "./keepsakes.ts";

/** What is noted in the database. */
interface Noted {
  readonly machine: string;
  readonly file: string;
  /** counts starts and orderly stops: so does a file beside the database, which a restored one has fallen behind */
  readonly count: number;
}

/** The home of an open database. */
export class Home {
  readonly #path: string;
  readonly #inode: number;
  /** the file is another one than the one that is open, or none, as of the last {@link look} */
  #isElsewhere = false;
  /** when the file was written to, in ms, and its size, after this connection's last write */
  #writtenMs = 0;
  #bytes = 0;
  #touched = false;
  #noted: Noted | undefined;
  /** inodes of its WAL and of that one's index */
  #wal: number | undefined;
  #shm: number | undefined;

  constructor(path: string) {
    this.#path = path;
    this.#inode = statSync(path).ino;
    this.wrote();
  }

  /** Looks at the path. Call it before this connection writes, and {@link wrote} after; the file is not opened for it, or SQLite's locks would go. */
  look(): void {
    const there = statSync(this.#path, { throwIfNoEntry: false });
    this.#isElsewhere = there?.ino !== this.#inode;
    if (this.#isElsewhere || there === undefined) return;
    this.#touched ||= there.mtimeMs !== this.#writtenMs || there.size !== this.#bytes;
    this.#take(there);
  }

  /** This connection has written to the file, or may have: as it is now, it is as it should be. */
  wrote(): void {
    const there = statSync(this.#path, { throwIfNoEntry: false });
    if (there?.ino === this.#inode) this.#take(there);
  }

  #take({ mtimeMs, size }: Stats): void {
    this.#writtenMs = mtimeMs;
    this.#bytes = size;
  }

  /** Whether the file at the path is another one than the one that is open, or none. */
  get isElsewhere(): boolean {
    return this.#isElsewhere;
  }

  /** Whether somebody else has written to the file since the last call: over it, or a checkpoint. `empty`: nothing is left of it. */
  takeTouch(): "empty" | "touched" | undefined {
    const touched = this.#touched;
    this.#touched = false;
    if (!touched) return undefined;
    return this.#bytes === 0 ? "empty" : "touched";
  }

  /** Whether the WAL or its index was removed or replaced: what is written to it is gone with this process. */
  get lacksWal(): boolean {
    const isHere = inodeOf(this.#path) === this.#inode;
    return (
      isHere && (inodeOf(`${this.#path}-wal`) !== this.#wal || inodeOf(`${this.#path}-shm`) !== this.#shm)
    );
  }

  /** Whether another file lies at the path, and beside it the WAL of the one that is open, which must never be applied to that. */
  get leavesWal(): boolean {
    const there = inodeOf(this.#path);
    return there !== undefined && there !== this.#inode && inodeOf(`${this.#path}-wal`) === this.#wal;
  }

  /**
   * Notes where the database lives, in a transaction.
   * @returns why it is a copy, if it lived elsewhere before
   */
  settleIn(kept: Keepsakes, machine: string, transaction: (work: () => void) => void): string | undefined {
    // An inode's number is given out again as soon as it is free; when it was made is not.
    const { ino, birthtimeNs } = statSync(this.#path, { bigint: true });
    const text = kept.setting("home");
    const before: Partial<Noted> | undefined = text === undefined ? undefined : JSON.parse(text);
    const [inside, beside] = [before?.count ?? 0, readCount(this.#path)];
    const here: Noted = { machine, file: `${ino}/${birthtimeNs}`, count: Math.max(inside, beside) + 1 };
    transaction(() => this.#note(kept, here));
    this.#wal = inodeOf(`${this.#path}-wal`);
    this.#shm = inodeOf(`${this.#path}-shm`);
    if (before === undefined) return undefined;
    if (before.machine !== machine)
      return "the database was used last on another machine: the data folder was copied with it, or the disk moved";
    if (before.file !== here.file)
      return "the database is another file than the one that was used last: restored from a backup, or copied";
    return inside < beside
      ? "the database is older than the one that was used last: restored from a backup"
      : undefined;
  }

  /** What {@link settleIn} wrote is on the disk: only now may the file beside the database say so, or a power cut would leave that behind. */
  settled(): void {
    if (this.#noted !== undefined) writeCount(this.#path, this.#noted.count);
  }

  /** The last thing that an orderly stop writes to the database; `close` closes it. */
  leave(kept: Keepsakes, close: () => void): void {
    const here = this.#noted;
    let count: number | undefined;
    try {
      if (here !== undefined) {
        this.#note(kept, { ...here, count: here.count + 1 });
        count = here.count + 1;
      }
    } finally {
      close();
    }
    if (count !== undefined) writeCount(this.#path, count);
  }

  #note(kept: Keepsakes, here: Noted): void {
    kept.setSetting("home", JSON.stringify(here));
    this.#noted = here;
  }
}

const inodeOf = (path: string): number | undefined => statSync(path, { throwIfNoEntry: false })?.ino;
const countFile = (path: string): string => `${path}-count`;
/** In place, and always as long: there is no moment without it. */
const WIDTH = 16;

function readCount(path: string): number {
  try {
    const count = Number(readFileSync(countFile(path), "latin1"));
    return Number.isSafeInteger(count) ? count : 0;
  } catch {
    // A first start, or the file is gone: then nothing can be told.
    return 0;
  }
}

function writeCount(path: string, count: number): void {
  try {
    const file = openSync(countFile(path), constants.O_WRONLY | constants.O_CREAT, 0o600);
    try {
      writeSync(file, String(count).padStart(WIDTH), 0);
    } finally {
      closeSync(file);
    }
  } catch {
    // On a full disk, as one: a copy from before may go unnoticed.
  }
}
