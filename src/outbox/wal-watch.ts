/**
 * Watches the WAL: a checkpoint that fails, or that a reader holds up, says nothing, and the file grows. Beyond a limit nothing is
 * stored any more, so that it does not fill the disk.
 */
import { statSync } from "node:fs";
import type { Statement } from "better-sqlite3";
import { messageOf } from "../core/errors.ts";
import { type Connection, WAL_PAGES } from "./schema.ts";

/** A page with its header in the WAL. */
const FRAME_BYTES = 4096 + 24;
/** The WAL is held from this size on, and until it is below half of it: 64 MiB, some eight times what is usual. */
const HELD_BYTES = 8 * WAL_PAGES * FRAME_BYTES;

/** The WAL of one open database. */
export class WalWatch {
  readonly #path: string;
  readonly #mostBytes: number;
  readonly #checkpoint: Statement<[], { log: number; checkpointed: number }>;
  #held: string | undefined;
  #bytes = 0;

  /** `mostBytes`: size of the database, and of what its WAL may have beside {@link HELD_BYTES}. */
  constructor(path: string, db: Connection, mostBytes: number) {
    this.#path = `${path}-wal`;
    this.#mostBytes = HELD_BYTES + mostBytes;
    this.#checkpoint = db.prepare("PRAGMA wal_checkpoint(PASSIVE)");
  }

  /** Size of the file at the last look. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Why it can't be emptied; undefined: it can. */
  get held(): string | undefined {
    return this.#held;
  }

  /** It is as large as it may get: nothing is to be stored until it is emptied. `low`: the disk is nearly full. */
  isFull(low: boolean): boolean {
    return this.#held !== undefined && (low || this.#bytes > this.#mostBytes);
  }

  /** Looks at it, and tries to empty it where it is large: between transactions, each second. */
  look(): void {
    this.#bytes = statSync(this.#path, { throwIfNoEntry: false })?.size ?? 0;
    const mostBytes = HELD_BYTES / (this.#held === undefined ? 1 : 2);
    if (this.#bytes < mostBytes) {
      this.#held = undefined;
      return;
    }
    try {
      const { log, checkpointed } = this.#checkpoint.get() ?? { log: 0, checkpointed: 0 };
      // The file stays as large as it was until it is written to from its beginning.
      if (log * FRAME_BYTES < mostBytes) this.#held = undefined;
      else if (log > checkpointed) this.#held = "another program keeps a read of the database open";
      else this.#held ??= "other programs read the database all the time";
    } catch (thrown) {
      this.#held = `writing it to the database fails: ${messageOf(thrown)}`;
    }
  }
}
