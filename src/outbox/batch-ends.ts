/** How leased batches end: acknowledged, set aside or lost, each in its lane's account and, where it will not come, as a gap. */
import type { Statement } from "better-sqlite3";
import type { Crc32c } from "../core/block.ts";
import type { EncodedBatch } from "../core/ports.ts";
import { storeFrame } from "./blocks.ts";
import type { DeadLetters } from "./dead-letters.ts";
import type { Gaps } from "./gaps.ts";
import type { Batch, Lanes } from "./lanes.ts";
import type { Room } from "./room.ts";
import type { Connection } from "./schema.ts";

/** What batches that end are noted in. */
export interface BatchEndsParts {
  readonly lanes: Lanes;
  readonly gaps: Gaps;
  readonly room: Room;
  readonly dead: DeadLetters;
  readonly crc32c: Crc32c;
  /** ms since the Unix epoch */
  readonly now: () => number;
}

/** Ends batches. Every call runs inside the caller's transaction. */
export class BatchEnds {
  readonly #parts: BatchEndsParts;
  readonly #delete: Statement<[number]>;
  /** rows of sealed batches that were encoded without them */
  readonly #leftOut = new Map<number, { readonly dropped: number; readonly rejected: number }>();

  constructor(db: Connection, parts: BatchEndsParts) {
    this.#parts = parts;
    this.#delete = db.prepare("DELETE FROM batch WHERE id = ?");
  }

  /** Forgets batches that the consumer has. Unknown ones were forgotten before. */
  ack(uplink: string, ids: readonly number[]): void {
    for (const id of ids) this.#finish(uplink, id, "acked");
  }

  /** Sets a batch aside as dead letters. */
  reject(uplink: string, id: number, reason: string): void {
    const batch = this.#parts.lanes.find(uplink, id)?.batch;
    if (batch === undefined) return;
    this.#parts.dead.bury(uplink, batch, reason, this.#parts.now());
    this.#leftOut.delete(id);
    this.#finish(uplink, id, "rejected");
    this.#parts.gaps.add(
      uplink,
      batch.epoch,
      batch.stream,
      batch.seq,
      batch.seq + batch.span - 1,
      "rejected",
    );
  }

  /** Rows of a batch that are not sent with it: filtered ones count as dropped once it is done, too large ones as rejected. */
  leaveOut(
    uplink: string,
    { id, epoch, stream }: Batch,
    { filtered, tooLarge }: Pick<EncodedBatch, "filtered" | "tooLarge">,
    mostBytes: number,
  ): void {
    // A batch that comes again has been here before.
    const known = this.#leftOut.get(id)?.rejected ?? 0;
    this.#leftOut.set(id, { dropped: filtered, rejected: tooLarge.length });
    if (known >= tooLarge.length) return;
    for (const { seq, bytes, frame } of tooLarge) {
      const reason = `a payload of ${bytes} bytes, where the broker's packets have room for ${mostBytes}`;
      const block = storeFrame(frame, this.#parts.crc32c);
      this.#parts.dead.buryRow({ uplink, stream, epoch, seq, reason, block }, this.#parts.now());
      this.#parts.gaps.add(uplink, epoch, stream, seq, seq, "rejected");
    }
  }

  /** Gives a batch up whose chunks can't be read. */
  lose(uplink: string, id: number): void {
    const batch = this.#finish(uplink, id, "lost");
    if (batch === undefined) return;
    this.#parts.gaps.add(uplink, batch.epoch, batch.stream, batch.seq, batch.seq + batch.span - 1, "corrupt");
  }

  #finish(uplink: string, id: number, how: "acked" | "rejected" | "lost"): Batch | undefined {
    const found = this.#parts.lanes.find(uplink, id);
    if (found === undefined) return undefined;
    const { lane, batch } = found;
    const { dropped, rejected } = this.#leftOut.get(id) ?? { dropped: 0, rejected: 0 };
    this.#leftOut.delete(id);
    lane.dropped += dropped;
    lane.rejected += rejected;
    lane[how] += batch.span - dropped - rejected;
    lane.dirty = true;
    lane.batches.splice(lane.batches.indexOf(batch), 1);
    this.#parts.lanes.leased.delete(id);
    this.#delete.run(id);
    if (lane.backlog.length > 0) this.#parts.room.forgetRange(lane.stream, batch.first, batch.last);
    return batch;
  }
}
