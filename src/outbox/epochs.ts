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

/** What a transaction may change, and a rollback brings back. */
export interface Numbers {
  readonly next: ReadonlyMap<Stream, number>;
  readonly ticket: number;
}

/** Earlier epochs remembered after nothing is left of them. */
const EPOCHS_KEPT = 64;

/** The `epoch` table, and the running epoch's numbers in the lanes' rows of no uplink. */
export class Epochs {
  /** the running epoch */
  readonly current: string = randomBytes(4).toString("hex");
  /** the next number of each stream; replaced as a whole by a rollback */
  #next = new Map<Stream, number>();
  #ticket = 0;
  readonly #numbered = new Set<Stream>();
  readonly #number: Statement<[number, number, Stream]>;
  readonly #add: Statement<[string, Stream, number]>;
  readonly #ranges: Statement<[string], EpochRange>;

  /** Begins an epoch with {@link Epochs.begin}. */
  constructor(db: Connection) {
    // Beside the lanes' rows, on their page: a page of its own would be written by every commit.
    this.#number = db.prepare("UPDATE lane SET committed = ?, acked = ? WHERE uplink = '' AND stream = ?");
    this.#add = db.prepare("INSERT OR IGNORE INTO epoch VALUES (?, ?, ?)");
    this.#ranges = db.prepare(
      "SELECT epoch, stream, next - 1 AS lastSeq FROM epoch WHERE epoch <> ? AND next > 0 ORDER BY rowid",
    );
  }

  /** Numbers begin again, after what the epoch before has counted is kept. Tickets go on where the same agent does. */
  begin(db: Connection, sameRun: boolean): void {
    const tickets = "SELECT coalesce(max(acked), 0) FROM lane WHERE uplink = ''";
    this.#ticket = sameRun ? (db.prepare<[], number>(tickets).pluck().get() ?? 0) : 0;
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
    const reset = db.prepare<[Stream, number]>(
      `INSERT INTO lane (uplink, stream, active, cursor, acked) VALUES ('', ?, 0, 0, ?)
       ON CONFLICT DO UPDATE SET committed = 0, acked = excluded.acked`,
    );
    for (const stream of STREAMS) {
      this.#add.run(this.current, stream, 0);
      reset.run(stream, this.#ticket);
    }
  }

  /** Remembers an epoch that another database knew. */
  remember(epoch: string, stream: Stream, next: number): void {
    this.#add.run(epoch, stream, next);
  }

  /** Gives out `rows` numbers of a stream; the first of them. */
  take(stream: Stream, rows: number): number {
    const seq = this.#next.get(stream) ?? 0;
    this.#next.set(stream, seq + rows);
    this.#numbered.add(stream);
    return seq;
  }

  /** The greatest ticket of a chunk that is stored in this run of the agent; 0 before the first. */
  get ticket(): number {
    return this.#ticket;
  }

  /** Notes the ticket of a chunk of a stream, whether it has rows or not. */
  mark(stream: Stream, ticket: number): void {
    this.#ticket = Math.max(this.#ticket, ticket);
    this.#numbered.add(stream);
  }

  /** Writes the numbers that this transaction gave out. */
  flush(): void {
    for (const stream of this.#numbered) this.#number.run(this.#next.get(stream) ?? 0, this.#ticket, stream);
    this.#numbered.clear();
  }

  /** As they are now, for {@link restore}. */
  get numbers(): Numbers {
    return { next: new Map(this.#next), ticket: this.#ticket };
  }

  /** After a rollback: the numbers as they were before. */
  restore({ next, ticket }: Numbers): void {
    this.#next = new Map(next);
    this.#ticket = ticket;
    this.#numbered.clear();
  }

  /** Earlier epochs that are remembered, oldest first. */
  earlier(): EpochRange[] {
    return this.#ranges.all(this.current);
  }
}
