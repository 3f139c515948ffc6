/** What the disk lets the database do: grow, or make do with the pages it has. */
import type { Reserve } from "./reserve.ts";
import type { Room } from "./room.ts";
import { type Connection, WAL_PAGES } from "./schema.ts";

/** Pages in the WAL before it is checkpointed on a full disk. */
const TIGHT_WAL_PAGES = 64;

/** Keeps the disk from getting full, and the database going when it is. */
export class DiskGuard {
  readonly #db: Connection;
  readonly #reserve: Reserve;
  readonly #room: Room;
  #tight = false;
  #low = false;

  constructor(db: Connection, reserve: Reserve, room: Room) {
    this.#db = db;
    this.#reserve = reserve;
    this.#room = room;
    reserve.make();
    this.watch();
  }

  /** The disk is full, and the database makes do with the pages it has. */
  get tight(): boolean {
    return this.#tight;
  }

  /** The disk is nearly full. */
  get low(): boolean {
    return this.#low;
  }

  /** Before the disk is full, the database stops growing: other programs need it, too. */
  watch(): void {
    const low = this.#reserve.isLow(this.#room.size().fileBytes, this.#low);
    if (low === this.#low) return;
    this.#low = low;
    this.#room.hold(this.#tight || low);
  }

  /** Looks at the disk again; a reserve that was given up is made again once there is room. */
  maintain(): void {
    this.watch();
    if (this.#reserve.held) return;
    this.#reserve.make();
    if (this.#reserve.held) this.#squeeze(false);
  }

  /** Takes the error of a transaction: where the disk is full, the reserve goes, so that deletes and checkpoints still work. */
  failed(thrown: unknown): void {
    if (this.#reserve.isDiskFull(thrown)) this.#squeeze(true);
  }

  #squeeze(tight: boolean): void {
    if (tight) this.#reserve.release();
    this.#tight = tight;
    this.#room.hold(tight || this.#low);
    this.#db.pragma(`wal_autocheckpoint = ${tight ? TIGHT_WAL_PAGES : WAL_PAGES}`);
    try {
      this.#db.pragma("wal_checkpoint(PASSIVE)");
    } catch {
      // Still no room: the next try, or the next second, brings it.
    }
  }
}
