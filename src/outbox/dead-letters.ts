/** Chunks of rejected batches, kept for whoever wants to know why: the latest, within bounds. */
import type { Statement } from "better-sqlite3";
import type { Stream } from "../core/ports.ts";
import type { Batch } from "./lanes.ts";
import type { Connection } from "./schema.ts";

const MOST_ROWS = 256;

/** One row, as a block of its own. */
export interface DeadRow {
  readonly uplink: string;
  readonly stream: Stream;
  readonly epoch: string;
  readonly seq: number;
  readonly reason: string;
  readonly block: Uint8Array;
}

/** The `dead` table. Every call runs inside the caller's transaction. */
export class DeadLetters {
  readonly #bytes: number;
  readonly #bury: Statement<[string, string, number, string, number, number]>;
  readonly #buryRow: Statement<[string, Stream, string, number, string, number, Uint8Array]>;
  readonly #bound: Statement<[number, number]>;

  /** A sixteenth of the database's limit is for them. */
  constructor(db: Connection, maxBytes: number) {
    this.#bytes = Math.floor(maxBytes / 16);
    this.#bury = db.prepare(
      `INSERT INTO dead (uplink, stream, epoch, seq, samples, reason, rejected, block)
       SELECT ?, stream, epoch, seq, samples, ?, ?, block FROM chunk
       WHERE stream = ? AND id BETWEEN ? AND ? ORDER BY id`,
    );
    this.#buryRow = db.prepare(
      `INSERT INTO dead (uplink, stream, epoch, seq, samples, reason, rejected, block)
       VALUES (?, ?, ?, ?, 1, ?, ?, ?)`,
    );
    this.#bound = db.prepare(
      `DELETE FROM dead WHERE id <= (
         SELECT max(id) FROM (
           SELECT id, sum(length(block)) OVER newest AS bytes, row_number() OVER newest AS place
           FROM dead WINDOW newest AS (ORDER BY id DESC))
         WHERE bytes > ? OR place > ?)`,
    );
  }

  /** Copies a batch's chunks, with the reason. */
  bury(uplink: string, batch: Batch, reason: string, nowMs: number): void {
    this.#bury.run(uplink, reason, nowMs, batch.stream, batch.first, batch.last);
    this.#bound.run(this.#bytes, MOST_ROWS);
  }

  /** Keeps one row of a batch that goes without it. */
  buryRow({ uplink, stream, epoch, seq, reason, block }: DeadRow, nowMs: number): void {
    this.#buryRow.run(uplink, stream, epoch, seq, reason, nowMs, block);
    this.#bound.run(this.#bytes, MOST_ROWS);
  }
}
