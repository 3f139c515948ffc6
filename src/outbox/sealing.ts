/** Sealing: fixing which chunks make a lane's next batch. The rule is in docs/specs/outbox.md, "Rules", 4 and 5. */
import type { Statement } from "better-sqlite3";
import type { Batch, ChunkRow, Lane } from "./lanes.ts";
import type { Connection } from "./schema.ts";

/** Chunks that make a batch, and the one after them. */
interface Taken {
  readonly first: ChunkRow;
  readonly last: ChunkRow;
  readonly next: ChunkRow | undefined;
  readonly span: number;
  readonly bytes: number;
}

/** Seals batches. Every call runs inside the caller's transaction. */
export class Sealer {
  readonly #pending: Statement<[string, number, number], ChunkRow>;
  readonly #insert: Statement<
    [number, string, string, string, number, number, number, number, number, number, number]
  >;
  #lastId: number;

  /** `nowMs`: ids begin there, so that no batch of this database has the id of one that an uplink still has from the one before. */
  constructor(db: Connection, nowMs: number) {
    this.#pending = db.prepare(
      `SELECT id, epoch, seq, samples, bytes, created FROM chunk
       WHERE stream = ? AND id BETWEEN ? AND ? ORDER BY id`,
    );
    this.#insert = db.prepare("INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    this.#lastId =
      db.prepare<[number], number>("SELECT max(?, coalesce(max(id), 0)) FROM batch").pluck().get(nowMs) ??
      nowMs;
  }

  /** Seals the lane's next live batch when one is due. `epoch` is this run's. */
  seal(lane: Lane, epoch: string, nowMs: number): Batch | undefined {
    if (lane.dueAt(epoch, nowMs) !== 0) return undefined;
    const taken = this.#take(lane, lane.cursor + 1, Number.MAX_SAFE_INTEGER);
    if (taken === undefined) return undefined;
    lane.cursor = taken.last.id;
    lane.pendingSamples -= taken.span;
    lane.pendingBytes -= taken.bytes;
    lane.oldest = taken.next;
    return this.#add(lane, taken, 0);
  }

  /** Seals the next batch of the lane's backlog. */
  sealBacklog(lane: Lane): Batch | undefined {
    for (;;) {
      const [range] = lane.backlog;
      if (range === undefined) return undefined;
      lane.backlogDirty = true;
      lane.dirty = true;
      const taken = this.#take(lane, range.first, range.last);
      if (taken !== undefined) {
        range.first = taken.last.id + 1;
        range.samples -= taken.span;
        range.bytes -= taken.bytes;
      }
      if (taken?.next === undefined) lane.backlog.shift();
      if (taken !== undefined) return this.#add(lane, taken, 1);
    }
  }

  #take({ stream, plan }: Lane, from: number, to: number): Taken | undefined {
    let first: ChunkRow | undefined;
    let last: ChunkRow | undefined;
    let next: ChunkRow | undefined;
    let span = 0;
    let bytes = 0;
    for (const row of this.#pending.iterate(stream, from, to)) {
      first ??= row;
      const follows = row.epoch === first.epoch && row.seq === first.seq + span;
      const fits = span + row.samples <= plan.samples && bytes + row.bytes <= plan.bytes;
      if (row !== first && !(follows && fits)) {
        next = row;
        break;
      }
      last = row;
      span += row.samples;
      bytes += row.bytes;
    }
    return first === undefined || last === undefined ? undefined : { first, last, next, span, bytes };
  }

  #add(lane: Lane, { first, last, span, bytes }: Taken, historical: 0 | 1): Batch {
    this.#lastId += 1;
    const { uplink, stream } = lane;
    const { epoch, seq } = first;
    const id = this.#lastId;
    const { created } = last;
    this.#insert.run(id, uplink, stream, epoch, seq, span, first.id, last.id, bytes, created, historical);
    const batch = {
      id,
      epoch,
      stream,
      seq,
      span,
      first: first.id,
      last: last.id,
      bytes,
      created,
      historical,
    };
    lane.batches.push(batch);
    lane.dirty = true;
    return batch;
  }
}
