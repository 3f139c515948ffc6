/** Where the database lives. A copy of it, a backup that came back, and a file that was moved away while it was open are found out. */
import { statSync } from "node:fs";
import type { Keepsakes } from "./keepsakes.ts";

/** What is noted in the database. */
interface Noted {
  readonly machine: string;
  readonly file: string;
}

/** The home of an open database. */
export class Home {
  readonly #path: string;
  readonly #inode: number;

  constructor(path: string) {
    this.#path = path;
    this.#inode = statSync(path).ino;
  }

  /** Whether the file at the path is another one than the one that is open, or none. */
  get isElsewhere(): boolean {
    return statSync(this.#path, { throwIfNoEntry: false })?.ino !== this.#inode;
  }

  /**
   * Notes where the database lives, in a transaction, if that is new.
   * @returns why it is a copy, if it lived elsewhere before
   */
  settleIn(kept: Keepsakes, machine: string, transaction: (work: () => void) => void): string | undefined {
    // An inode's number is given out again as soon as it is free; when it was made is not.
    const { ino, birthtimeNs } = statSync(this.#path, { bigint: true });
    const here: Noted = { machine, file: `${ino}/${birthtimeNs}` };
    const text = kept.setting("home");
    const before: Partial<Noted> | undefined = text === undefined ? undefined : JSON.parse(text);
    if (before?.machine === machine && before.file === here.file) return undefined;
    transaction(() => kept.setSetting("home", JSON.stringify(here)));
    if (before === undefined) return undefined;
    return before.machine === machine
      ? "the database is another file than the one that was used last: restored from a backup, or copied"
      : "the database was used last on another machine: the data folder was copied with it, or the disk moved";
  }
}
