/** Sequence numbers that will not reach an uplink: kept until they have been announced. */
import type { Statement } from "better-sqlite3";
import type { Gap, Stream } from "../core/ports.ts";
import type { Connection } from "./schema.ts";

/** Gaps given out by one call of {@link Gaps.list}. */
const MOST_AT_ONCE = 256;

/** The `gap` table. Every call runs inside the caller's transaction. */
export class Gaps {
  readonly #extend: Statement<[number, string, string, string, string, number]>;
  readonly #insert: Statement<[string, string, string, number, number, string]>;
  readonly #newest: Statement<[string, string, string, string], number>;
  readonly #list: Statement<[string, number], Gap>;
  readonly #delete: Statement<[number, string]>;
  /** gaps that were given out and are not done: they may be on the wire, so they never grow */
  handed = new Set<number>();
  /** one was added that nobody has been told of */
  #fresh = false;

  constructor(db: Connection) {
    const newest = "SELECT max(id) FROM gap WHERE uplink = ? AND epoch = ? AND stream = ? AND reason = ?";
    this.#newest = db.prepare<[string, string, string, string], number>(newest).pluck();
    this.#extend = db.prepare(`UPDATE gap SET last = ? WHERE id = (${newest}) AND last = ? - 1`);
    this.#insert = db.prepare(
      "INSERT INTO gap (uplink, epoch, stream, first, last, reason) VALUES (?, ?, ?, ?, ?, ?)",
    );
    this.#list = db.prepare(
      "SELECT id, epoch, stream, first AS 'from', last AS 'to', reason FROM gap WHERE uplink = ? ORDER BY id LIMIT ?",
    );
    this.#delete = db.prepare("DELETE FROM gap WHERE id = ? AND uplink = ?");
  }

  /** Adds numbers `from` to `to` (inclusive), to the gap before when they continue it. */
  add(uplink: string, epoch: string, stream: Stream, from: number, to: number, reason: string): void {
    this.#fresh = true;
    const newest = this.#newest.get(uplink, epoch, stream, reason);
    const open = newest !== undefined && newest !== null && !this.handed.has(newest);
    if (open && this.#extend.run(to, uplink, epoch, stream, reason, from).changes > 0) return;
    this.#insert.run(uplink, epoch, stream, from, to, reason);
  }

  /** The oldest gaps of an uplink. */
  list(uplink: string): Gap[] {
    const gaps = this.#list.all(uplink, MOST_AT_ONCE);
    for (const gap of gaps) this.handed.add(gap.id);
    return gaps;
  }

  /** Whether any were added since the last call. */
  takeFresh(): boolean {
    const fresh = this.#fresh;
    this.#fresh = false;
    return fresh;
  }

  /** Forgets one that has been announced. */
  done(uplink: string, id: number): void {
    this.#delete.run(id, uplink);
    this.handed.delete(id);
  }
}
