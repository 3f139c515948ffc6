/**
 * The reserve: a file of real bytes beside the database, given up when the disk is full, so that deletes and checkpoints
 * (which write before they free anything) still work. It is made again once there is room.
 */
import { closeSync, fsyncSync, openSync, rmSync, statfsSync, statSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { errnoOf } from "../core/errors.ts";

/** What is left of the disk to others, at most; and a sixteenth of it. */
const MOST_LEFT_BYTES = 64 * 2 ** 20;
/** Free bytes beside the reserve before it is made (again). */
const SLACK_BYTES = 2 ** 20;

/** The reserve of one database. */
export class Reserve {
  readonly #database: string;
  readonly #path: string;
  readonly #bytes: number;
  #held = false;

  /** Makes nothing yet. */
  constructor(database: string, bytes: number) {
    this.#database = database;
    this.#path = `${database}-reserve`;
    this.#bytes = bytes;
  }

  /** Whether the reserve is there. */
  get held(): boolean {
    return this.#held;
  }

  /** Whether an error of SQLite's came from a full disk (and not from the database's own limit). */
  isDiskFull(thrown: unknown): boolean {
    const code = errnoOf(thrown) ?? "";
    if (code !== "SQLITE_FULL" && !code.startsWith("SQLITE_IOERR")) return false;
    try {
      const { bavail, bsize } = statfsSync(dirname(this.#path));
      return bavail * bsize < SLACK_BYTES;
    } catch {
      return false;
    }
  }

  /**
   * Whether the disk is so full that the database is to grow no more. `bytes`: its size once everything in its WAL is where it
   * belongs. `before`: what was said last, so that it isn't said in turns.
   */
  isLow(bytes: number, before: boolean): boolean {
    try {
      const { bavail, blocks, bsize } = statfsSync(dirname(this.#path));
      const growing = Math.max(0, bytes - statSync(this.#database).size);
      const least = Math.min(MOST_LEFT_BYTES, (blocks * bsize) / 16) * (before ? 1.25 : 1);
      return bavail * bsize - growing < least;
    } catch {
      return before;
    }
  }

  /** Makes the file when there is room for it. Never throws: Weir runs without it, too. */
  make(): void {
    if (this.#held) return;
    try {
      if (statSync(this.#path, { throwIfNoEntry: false })?.size === this.#bytes) {
        this.#held = true;
        return;
      }
      const { bavail, bsize } = statfsSync(dirname(this.#path));
      if (bavail * bsize < this.#bytes + SLACK_BYTES) return;
      const file = openSync(this.#path, "w", 0o600);
      try {
        // Not a hole: the blocks are to be ours.
        const part = new Uint8Array(64 * 1024).fill(0x57);
        for (let at = 0; at < this.#bytes; at += part.byteLength)
          writeSync(file, part, 0, Math.min(part.byteLength, this.#bytes - at));
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
      this.#held = true;
    } catch {
      this.release();
    }
  }

  /** Gives the space up. */
  release(): void {
    this.#held = false;
    try {
      rmSync(this.#path, { force: true });
    } catch {
      // A read-only file system: nothing to give.
    }
  }
}
