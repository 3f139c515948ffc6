/** Room in the database: forgetting what nobody needs, giving pages back, and dropping the oldest before it is full. */
import type { Statement } from "better-sqlite3";
import { WeirError } from "../core/errors.ts";
import { STREAMS, type Stream } from "../core/ports.ts";
import type { Gaps } from "./gaps.ts";
import type { ChunkRow, Lanes } from "./lanes.ts";
import { type Connection, PAGE_BYTES } from "./schema.ts";

/** Rows deleted by one transaction at most: a larger one would stall the commits behind it. */
const SLICE_ROWS = 5_000;
/** Pages given back to the file system at a time: while idle, and while there is work. */
const SLICE_PAGES = { idle: 2_000, busy: 128 } as const;
/** Free pages that are kept for what comes next: 4 MiB. */
const SPARE_PAGES = 1_024;
/** Chunks dropped before looking at the room again, and for one new chunk at most (after the limit was lowered). */
const DROP_ROWS = 16;
const MOST_DROPS = 2_048;
/** Growth after which the disk is looked at again: 1 MiB. */
const LOOK_PAGES = 256;
/** Beside a chunk's own pages: index, counts, state, and b-tree pages that split. */
const OVERHEAD_PAGES = 8;

/** Keeps the database below its limit. Every call but {@link Room.vacuum} runs inside the caller's transaction. */
export class Room {
  readonly #db: Connection;
  readonly #lanes: Lanes;
  readonly #gaps: Gaps;
  /** told when the database has grown */
  readonly #onGrowth: () => void;
  #lookedPages = 0;
  /** pages that may be in use */
  readonly #limitPages: number;
  /** the same, or fewer while the disk is full */
  #mostPages: number;
  readonly #pageCount: Statement<[], number>;
  readonly #freePages: Statement<[], number>;
  readonly #forget: Statement<[string, number, number]>;
  readonly #forgetRange: Statement<[string, number, number]>;
  readonly #oldest: Statement<[string, number, number, number], ChunkRow>;
  readonly #deleteChunk: Statement<[number]>;
  readonly #deleteBatch: Statement<[number]>;
  /** per stream: every chunk before this one is gone */
  #floors = new Map<Stream, number>();
  /** pages known to be free, less what was promised since; undefined: not looked at since the last commit */
  #left: number | undefined;

  constructor(db: Connection, lanes: Lanes, gaps: Gaps, maxBytes: number, onGrowth: () => void) {
    this.#onGrowth = onGrowth;
    this.#db = db;
    this.#lanes = lanes;
    this.#gaps = gaps;
    const pages = Math.floor(maxBytes / PAGE_BYTES);
    // State, effects and the bookkeeping of dropping itself need pages too when the limit is reached.
    this.#limitPages = pages - Math.max(64, Math.floor(pages / 32));
    this.#mostPages = this.#limitPages;
    this.#pageCount = db.prepare<[], number>("PRAGMA page_count").pluck();
    this.#freePages = db.prepare<[], number>("PRAGMA freelist_count").pluck();
    this.#forget = db.prepare("DELETE FROM chunk WHERE stream = ? AND id < ? ORDER BY id LIMIT ?");
    this.#forgetRange = db.prepare("DELETE FROM chunk WHERE stream = ? AND id BETWEEN ? AND ?");
    this.#oldest = db.prepare(
      `SELECT id, epoch, seq, samples, bytes, created FROM chunk
       WHERE stream = ? AND id >= ? AND id < ? ORDER BY id LIMIT ?`,
    );
    this.#deleteChunk = db.prepare("DELETE FROM chunk WHERE id = ?");
    this.#deleteBatch = db.prepare("DELETE FROM batch WHERE id = ?");
  }

  /** Looks at the pages again: after a commit or a rollback. */
  reset(): void {
    this.#left = undefined;
  }

  /** Bytes of the file, and of those the bytes that hold something. */
  size(): { readonly fileBytes: number; readonly usedBytes: number } {
    const pages = this.#pageCount.get() ?? 0;
    return { fileBytes: pages * PAGE_BYTES, usedBytes: (pages - (this.#freePages.get() ?? 0)) * PAGE_BYTES };
  }

  /**
   * Deletes chunks that no lane needs any more, a slice of them.
   * @returns whether some are left for the next transaction
   */
  forget(most: number = SLICE_ROWS): boolean {
    let slice = most;
    for (const stream of STREAMS) {
      const lanes = this.#lanes.of(stream);
      const needed = Math.min(...lanes.map((lane) => lane.needs));
      if ((this.#floors.get(stream) ?? 0) >= needed) continue;
      // Without a lane nothing of the stream is needed, nor stored: its floor is found once, and stays.
      const bound = needed === Number.POSITIVE_INFINITY ? Number.MAX_SAFE_INTEGER : needed;
      const { changes } = this.#forget.run(stream, bound, slice);
      slice -= changes;
      if (slice <= 0) return true;
      this.#floors.set(stream, needed);
    }
    return false;
  }

  /** Deletes chunks behind a backlog that no lane wants any more. */
  forgetRange(stream: Stream, first: number, last: number): void {
    if (this.#lanes.of(stream).some((lane) => lane.wants(first, last))) return;
    this.#forgetRange.run(stream, first, last);
  }

  /** The file may not grow (the disk is full, or nearly), or it may again. */
  hold(tight: boolean): void {
    this.#mostPages = tight ? Math.min(this.#limitPages, this.#pageCount.get() ?? 0) : this.#limitPages;
    this.reset();
  }

  /** Whether a chunk of usual size would find room without anything being dropped. */
  get roomy(): boolean {
    return this.#measure() >= 4 * OVERHEAD_PAGES;
  }

  /** Forgets the floors, after a rollback brought chunks back. */
  reload(): void {
    this.#floors = new Map();
    this.reset();
  }

  /**
   * Makes room for a chunk of `bytes` of a stream, at the cost of the oldest chunks that are not on lease, and that only
   * lanes under `drop-oldest` need. When everything is on lease the insertion itself fails at the limit.
   * @returns false when the chunk is not to be stored: another lane keeps the room
   * @throws WeirError `outbox.full` when a lane of the stream is under `pause`
   */
  make(stream: Stream, bytes: number): boolean {
    const need = Math.ceil(bytes / PAGE_BYTES) + OVERHEAD_PAGES;
    this.#left ??= this.#measure();
    if (this.#left < need) this.#left = this.#free(need);
    if (this.#left < need) {
      if (this.#lanes.of(stream).some(({ overflow }) => overflow === "pause"))
        throw new WeirError("outbox.full");
      if (this.#lanes.all.some(({ overflow }) => overflow !== "drop-oldest")) return false;
    }
    this.#left -= need;
    return true;
  }

  #measure(): number {
    const pages = this.#pageCount.get() ?? 0;
    if (pages > this.#lookedPages + LOOK_PAGES) {
      this.#lookedPages = pages;
      this.#onGrowth();
    }
    return this.#mostPages - pages + (this.#freePages.get() ?? 0);
  }

  /** Frees at least `need` pages if it can, and a little more, so that it isn't done for every chunk. */
  #free(need: number): number {
    const target = need + Math.floor(this.#mostPages / 64);
    let left = this.#measure();
    while (left < target && this.forget()) left = this.#measure();
    left = this.#measure();
    // `host` first, `alarm` last.
    for (const stream of STREAMS.toReversed()) {
      let from = 0;
      for (let drops = 0; left < target && drops < MOST_DROPS; drops += DROP_ROWS) {
        const next = this.#drop(stream, from);
        if (next === undefined) break;
        from = next;
        left = this.#measure();
      }
    }
    return left;
  }

  /** Drops some of the oldest chunks of a stream; returns where to go on, or undefined when there are no more. */
  #drop(stream: Stream, from: number): number | undefined {
    const lanes = this.#lanes.of(stream);
    const leased = lanes.flatMap((lane) => lane.batches.filter(({ id }) => this.#lanes.leased.has(id)));
    // What another policy keeps can't go, so that nothing after it is given up for no gain.
    const keeping = lanes.filter(({ overflow }) => overflow !== "drop-oldest");
    const bound = Math.min(Number.MAX_SAFE_INTEGER, ...keeping.map((lane) => lane.needs));
    const rows = this.#oldest.all(stream, from, bound, DROP_ROWS);
    let next: number | undefined;
    for (const row of rows) {
      if (next !== undefined && row.id < next) continue;
      const lease = leased.find(({ first, last }) => first <= row.id && row.id <= last);
      next = (lease?.last ?? row.id) + 1;
      if (lease !== undefined) continue;
      for (const lane of lanes) {
        if (lane.unpend(row.id, row.samples, row.bytes)) {
          lane.dropped += row.samples;
          lane.dirty = true;
          this.#gaps.add(lane.uplink, row.epoch, stream, row.seq, row.seq + row.samples - 1, "overflow");
          continue;
        }
        // A sealed batch never changes: it goes as a whole. Its other chunks are no longer needed by this lane.
        const batch = lane.batches.find(({ first, last }) => first <= row.id && row.id <= last);
        if (batch === undefined) continue;
        lane.batches.splice(lane.batches.indexOf(batch), 1);
        this.#deleteBatch.run(batch.id);
        lane.dropped += batch.span;
        lane.dirty = true;
        this.#gaps.add(lane.uplink, batch.epoch, stream, batch.seq, batch.seq + batch.span - 1, "overflow");
      }
      this.#deleteChunk.run(row.id);
    }
    for (const lane of lanes) this.#lanes.findOldest(lane);
    return next;
  }

  /**
   * Gives some free pages back to the file system, outside a transaction.
   * @returns whether there are more
   */
  vacuum(idle: boolean): boolean {
    const spare = (this.#freePages.get() ?? 0) - SPARE_PAGES;
    if (spare <= 0) return false;
    const slice = Math.min(spare, idle ? SLICE_PAGES.idle : SLICE_PAGES.busy);
    this.#db.pragma(`incremental_vacuum(${slice})`);
    return spare > slice;
  }
}
