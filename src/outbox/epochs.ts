/** Epochs and their numbers: which numbers each epoch gave to each stream. Writes run inside the caller's transaction. */
import { randomBytes } from "node:crypto";
import type { Statement } from "better-sqlite3";
import { STREAMS, type Stream } from "../core/ports.ts";
import type { Connection } from "./schema.ts";

/** The numbers that an epoch gave to a stream: 0 to `lastSeq`. */
export interface EpochRange {
  readonly epoch: string;
  readonly stream: Stream;
  readonly lastSeq: number;
}

/** Earlier epochs remembered after nothing is left of them. */
const EPOCHS_KEPT = 64;

/** The `epoch` table, and the running epoch's numbers in the lanes' rows of no uplink. */
export class Epochs {
  /** the running epoch */
  readonly current: string = randomBytes(4).toString("hex");
  /** the next number of each stream; replaced as a whole by a rollback */
  next = new Map<Stream, number>();
  readonly #numbered = new Set<Stream>();
  readonly #number: Statement<[number, Stream]>;
  readonly #add: Statement<[string, Stream, number]>;
  readonly #ranges: Statement<[string], EpochRange>;

  /** Begins an epoch with {@link Epochs.begin}. */
  constructor(db: Connection) {
    // Beside the lanes' rows, on their page: a page of its own would be written by every commit.
    this.#number = db.prepare("UPDATE lane SET committed = ? WHERE uplink = '' AND stream = ?");
    this.#add = db.prepare("INSERT OR IGNORE INTO epoch VALUES (?, ?, ?)");
    this.#ranges = db.prepare(
      "SELECT epoch, stream, next - 1 AS lastSeq FROM epoch WHERE epoch <> ? AND next > 0 ORDER BY rowid",
    );
  }

  /** Numbers begin again, after what the epoch before has counted is kept. */
  begin(db: Connection): void {
    db.exec(`UPDATE epoch SET next = coalesce(
         (SELECT committed FROM lane WHERE uplink = '' AND lane.stream = epoch.stream), next)
       WHERE epoch = (SELECT epoch FROM epoch ORDER BY rowid DESC LIMIT 1);
       DELETE FROM epoch WHERE next = 0`);
    // Chunks are in the order of their epochs, so the oldest chunk has the oldest epoch that is still needed.
    db.prepare<[number]>(
      `DELETE FROM epoch WHERE rowid <= (SELECT max(rowid) FROM epoch) - ? * ${STREAMS.length} AND rowid < coalesce(
         (SELECT min(rowid) FROM epoch WHERE epoch = (SELECT epoch FROM chunk ORDER BY id LIMIT 1)),
         (SELECT max(rowid) FROM epoch))`,
    ).run(EPOCHS_KEPT);
    const reset = db.prepare<[Stream]>(
      `INSERT INTO lane (uplink, stream, active, cursor) VALUES ('', ?, 0, 0)
       ON CONFLICT DO UPDATE SET committed = 0`,
    );
    for (const stream of STREAMS) {
      this.#add.run(this.current, stream, 0);
      reset.run(stream);
    }
  }

  /** Remembers an epoch that another database knew. */
  remember(epoch: string, stream: Stream, next: number): void {
    this.#add.run(epoch, stream, next);
  }

  /** Gives out `rows` numbers of a stream; the first of them. */
  take(stream: Stream, rows: number): number {
    const seq = this.next.get(stream) ?? 0;
    this.next.set(stream, seq + rows);
    this.#numbered.add(stream);
    return seq;
  }

  /** Writes the numbers that this transaction gave out. */
  flush(): void {
    for (const stream of this.#numbered) this.#number.run(this.next.get(stream) ?? 0, stream);
    this.#numbered.clear();
  }

  /** After a rollback: the numbers as they were before. */
  restore(next: ReadonlyMap<Stream, number>): void {
    this.next = new Map(next);
    this.#numbered.clear();
  }

  /** Earlier epochs that are remembered, oldest first. */
  earlier(): EpochRange[] {
    return this.#ranges.all(this.current);
  }
}
