/** Drops what has waited too long at a lane, or what an operator purges: from the oldest on, up to a time. */
import type { Statement } from "better-sqlite3";
import type { Gaps } from "./gaps.ts";
import type { Backlog, ChunkRow, Lane, Lanes } from "./lanes.ts";
import type { Connection } from "./schema.ts";

/** Chunks looked at by one call at most: more would stall the commits behind it. */
const SLICE_ROWS = 2_000;

/** Drops from lanes by age. Every call runs inside the caller's transaction. */
export class Discard {
  readonly #lanes: Lanes;
  readonly #gaps: Gaps;
  readonly #chunks: Statement<[string, number, number, number], ChunkRow>;
  readonly #deleteBatch: Statement<[number]>;

  constructor(db: Connection, lanes: Lanes, gaps: Gaps) {
    this.#lanes = lanes;
    this.#gaps = gaps;
    this.#chunks = db.prepare(
      `SELECT id, epoch, seq, samples, bytes, created FROM chunk
       WHERE stream = ? AND id BETWEEN ? AND ? ORDER BY id LIMIT ?`,
    );
    this.#deleteBatch = db.prepare("DELETE FROM batch WHERE id = ?");
  }

  /**
   * Drops what was stored until `untilMs` and is not on lease, a slice of it; samples count as `dropped`, with a gap.
   * @returns how many samples went, and whether there may be more
   */
  older(lane: Lane, untilMs: number, reason: string): { readonly dropped: number; readonly more: boolean } {
    const before = lane.dropped;
    for (const batch of [...lane.batches]) {
      if (batch.created > untilMs || this.#lanes.leased.has(batch.id)) continue;
      lane.batches.splice(lane.batches.indexOf(batch), 1);
      this.#deleteBatch.run(batch.id);
      this.#drop(lane, batch.epoch, batch.seq, batch.span, reason);
    }
    let left = SLICE_ROWS;
    while (left > 0) {
      const [range] = lane.backlog;
      const seen = this.#front(lane, range, untilMs, reason, left);
      left -= seen.rows;
      if (!seen.all || range === undefined) break;
    }
    this.#lanes.findOldest(lane);
    return { dropped: lane.dropped - before, more: left <= 0 };
  }

  /** Drops chunks at the front of a backlog, or of what is live. `all`: none of it is left. */
  #front(
    lane: Lane,
    range: Backlog | undefined,
    untilMs: number,
    reason: string,
    most: number,
  ): { readonly rows: number; readonly all: boolean } {
    const from = range?.first ?? lane.cursor + 1;
    const rows = this.#chunks.all(lane.stream, from, range?.last ?? Number.MAX_SAFE_INTEGER, most);
    let seen = 0;
    for (const { id, epoch, seq, samples, bytes, created } of rows) {
      if (created > untilMs) return { rows: seen, all: false };
      seen += 1;
      lane.unpend(id, samples, bytes);
      if (range === undefined) lane.cursor = id;
      else range.first = id + 1;
      this.#drop(lane, epoch, seq, samples, reason);
    }
    const all = rows.length < most;
    // What overflow took out of its middle may leave a backlog without a chunk.
    if (all && range !== undefined && lane.backlog[0] === range) {
      lane.backlog.shift();
      lane.backlogDirty = true;
      lane.dirty = true;
    }
    return { rows: seen, all };
  }

  #drop(lane: Lane, epoch: string, seq: number, span: number, reason: string): void {
    lane.dropped += span;
    lane.dirty = true;
    this.#gaps.add(lane.uplink, epoch, lane.stream, seq, seq + span - 1, reason);
  }
}
