/** Sealing: fixing which chunks make a lane's next batch. The rule is in docs/specs/outbox.md, "Rules", 4. */
import type { Statement } from "better-sqlite3";
import type { Batch, ChunkRow, Lane } from "./lanes.ts";
import type { Connection } from "./schema.ts";

/** Seals batches. Every call runs inside the caller's transaction. */
export class Sealer {
  readonly #pending: Statement<[string, number], ChunkRow>;
  readonly #insert: Statement<[string, string, string, number, number, number, number, number, number]>;

  constructor(db: Connection) {
    this.#pending = db.prepare(
      "SELECT id, epoch, seq, samples, bytes, created FROM chunk WHERE stream = ? AND id > ? ORDER BY id",
    );
    this.#insert = db.prepare(
      `INSERT INTO batch (uplink, stream, epoch, seq, span, first, last, bytes, sealed)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    );
  }

  /** Seals the lane's next batch when one is due. `epoch` is this run's. */
  seal(lane: Lane, epoch: string, nowMs: number): Batch | undefined {
    if (lane.dueAt(epoch, nowMs) !== 0) return undefined;
    let first: ChunkRow | undefined;
    let next: ChunkRow | undefined;
    let last = 0;
    let span = 0;
    let bytes = 0;
    for (const row of this.#pending.iterate(lane.stream, lane.cursor)) {
      first ??= row;
      const follows = row.epoch === first.epoch && row.seq === first.seq + span;
      const fits = span + row.samples <= lane.plan.samples && bytes + row.bytes <= lane.plan.bytes;
      if (row !== first && !(follows && fits)) {
        next = row;
        break;
      }
      last = row.id;
      span += row.samples;
      bytes += row.bytes;
    }
    if (first === undefined) return undefined;
    const { uplink, stream } = lane;
    const key = { epoch: first.epoch, stream, seq: first.seq, span };
    const added = this.#insert.run(uplink, stream, key.epoch, key.seq, span, first.id, last, bytes, nowMs);
    const batch = { id: Number(added.lastInsertRowid), ...key, first: first.id, last, bytes };
    lane.batches.push(batch);
    lane.cursor = last;
    lane.pendingSamples -= span;
    lane.pendingBytes -= bytes;
    lane.oldest = next;
    lane.dirty = true;
    return batch;
  }
}
