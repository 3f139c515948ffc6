/**
 * Lanes: one stream at one uplink, with what is pending, what is sealed, and the ledger's counts. The rows are the
 * truth; these objects mirror them between transactions, and are loaded again after a rollback.
 */
import type { Statement } from "better-sqlite3";
import { type OutboxCount, STREAMS, type Stream } from "../core/ports.ts";
import type { Gaps } from "./gaps.ts";
import type { BatchPlan, Overflow, ReplayPlan, UplinkPlan } from "./plan.ts";
import type { Connection } from "./schema.ts";

/** A sealed batch that is not done. */
export interface Batch {
  readonly id: number;
  readonly epoch: string;
  readonly stream: Stream;
  readonly seq: number;
  readonly span: number;
  /** its first and last chunk */
  readonly first: number;
  readonly last: number;
  readonly bytes: number;
  /** when its newest chunk was stored, in ms since the Unix epoch */
  readonly created: number;
  /** 1: sealed from the backlog, and its rows are given out as historical */
  readonly historical: 0 | 1;
}

/** Pending chunks that live ones overtake: those of the stream from `first` to `last`. */
export interface Backlog {
  first: number;
  last: number;
  samples: number;
  bytes: number;
}

/** Backlogs of a lane at most: one more outage is then part of what is live. */
const MOST_BACKLOGS = 64;

/** The row of a lane. */
interface LaneRow {
  readonly uplink: string;
  readonly stream: Stream;
  readonly active: number;
  readonly cursor: number;
  readonly pendingSamples: number;
  readonly pendingBytes: number;
  readonly committed: number;
  readonly acked: number;
  readonly dropped: number;
  readonly rejected: number;
  readonly lost: number;
}

/** The columns of a chunk that sealing and dropping look at. */
export interface ChunkRow {
  readonly id: number;
  readonly epoch: string;
  readonly seq: number;
  readonly samples: number;
  readonly bytes: number;
  readonly created: number;
}

/** One stream at one uplink. */
export class Lane {
  readonly uplink: string;
  readonly stream: Stream;
  readonly plan: BatchPlan;
  readonly overflow: Overflow;
  readonly ttlMs: number | undefined;
  readonly replay: ReplayPlan | undefined;
  /** chunks of the stream after this one are pending */
  cursor: number;
  pendingSamples: number;
  pendingBytes: number;
  committed: number;
  acked: number;
  dropped: number;
  rejected: number;
  lost: number;
  /** sealed and not done, in order */
  batches: Batch[] = [];
  /** pending, older than what is live, in order */
  backlog: Backlog[] = [];
  backlogDirty = false;
  /** of the oldest pending chunk: when it was stored (ms since the Unix epoch), and in which epoch */
  oldest: { readonly created: number; readonly epoch: string } | undefined;
  /** differs from its row */
  dirty = false;

  constructor(row: LaneRow, { batch, overflow, ttlMs, replay }: UplinkPlan) {
    this.uplink = row.uplink;
    this.stream = row.stream;
    this.plan = batch;
    this.overflow = overflow ?? "drop-oldest";
    this.ttlMs = ttlMs?.[row.stream];
    this.replay = replay;
    this.cursor = row.cursor;
    this.pendingSamples = row.pendingSamples;
    this.pendingBytes = row.pendingBytes;
    this.committed = row.committed;
    this.acked = row.acked;
    this.dropped = row.dropped;
    this.rejected = row.rejected;
    this.lost = row.lost;
  }

  /** When the pending chunks are to be sealed, in ms since the Unix epoch: 0 for now, undefined when there are none. */
  dueAt(epoch: string, nowMs: number): number | undefined {
    const { oldest, plan } = this;
    if (oldest === undefined) return undefined;
    if (this.pendingSamples >= plan.samples || this.pendingBytes >= plan.bytes || oldest.epoch !== epoch)
      return 0;
    // From the future: the clock was set back, and the age can't be known.
    if (oldest.created > nowMs || nowMs - oldest.created >= plan.ageMs) return 0;
    return oldest.created + plan.ageMs;
  }

  /** The first chunk that this lane still needs; every one before it may go. */
  get needs(): number {
    let needs = this.backlog[0]?.first ?? this.cursor + 1;
    for (const { first } of this.batches) if (first < needs) needs = first;
    return needs;
  }

  /** Whether this lane may need any chunk from `first` to `last`. */
  wants(first: number, last: number): boolean {
    const meets = (range: { readonly first: number; readonly last: number }): boolean =>
      range.first <= last && first <= range.last;
    return last > this.cursor || this.batches.some(meets) || this.backlog.some(meets);
  }

  /** Makes everything pending backlog when its oldest has waited long enough. `last` is the stream's newest chunk. */
  turnToBacklog(last: number, nowMs: number): void {
    const { oldest, replay, backlog } = this;
    if (
      replay === undefined ||
      oldest === undefined ||
      nowMs - oldest.created < Math.max(replay.afterMs, 2 * this.plan.ageMs)
    )
      return;
    const newest = backlog.at(-1);
    // Nothing of what is live was sent meanwhile: one backlog that grows.
    if (newest?.last === this.cursor) {
      newest.last = last;
      newest.samples += this.pendingSamples;
      newest.bytes += this.pendingBytes;
    } else {
      if (backlog.length >= MOST_BACKLOGS) return;
      backlog.push({ first: this.cursor + 1, last, samples: this.pendingSamples, bytes: this.pendingBytes });
    }
    this.cursor = last;
    this.pendingSamples = 0;
    this.pendingBytes = 0;
    this.oldest = undefined;
    this.dirty = true;
    this.backlogDirty = true;
  }

  /** Takes a chunk's samples out of what is pending, wherever they are. */
  unpend(id: number, samples: number, bytes: number): boolean {
    this.dirty = true;
    if (id > this.cursor) {
      this.pendingSamples -= samples;
      this.pendingBytes -= bytes;
      return true;
    }
    const range = this.backlog.find(({ first, last }) => first <= id && id <= last);
    if (range === undefined) return false;
    range.samples -= samples;
    range.bytes -= bytes;
    if (range.samples <= 0) this.backlog.splice(this.backlog.indexOf(range), 1);
    this.backlogDirty = true;
    return true;
  }
}

const COLUMNS = `uplink, stream, active, cursor, pending_samples AS pendingSamples, pending_bytes AS pendingBytes,
  committed, acked, dropped, rejected, lost`;

/** The greatest chunk id that any lane has passed or that is stored: the next one is greater. */
export const lastChunk = (db: Connection): number =>
  db
    .prepare<[], number>(
      "SELECT max(coalesce((SELECT max(id) FROM chunk), 0), coalesce((SELECT max(cursor) FROM lane), 0))",
    )
    .pluck()
    .get() ?? 0;

/** A lane that is not configured any more, and held something. */
export interface RemovedLane {
  readonly uplink: string;
  readonly stream: Stream;
  /** samples */
  readonly dropped: number;
}

/** The oldest chunk that a lane holds. */
export interface OldestChunk {
  readonly uplink: string;
  readonly stream: Stream;
  /** ms since the Unix epoch */
  readonly createdMs: number;
}

/** All lanes of the configured uplinks. Every call that writes runs inside the caller's transaction. */
export class Lanes {
  readonly #plans: readonly UplinkPlan[];
  readonly #gaps: Gaps;
  readonly #select: Statement<[], LaneRow>;
  readonly #batches: Statement<[], Batch & { uplink: string }>;
  readonly #oldest: Statement<[string, number], ChunkRow>;
  readonly #update: Statement<
    [number, number, number, number, number, number, number, number, string, string]
  >;
  readonly #counts: Statement<[], OutboxCount>;
  readonly #backlogs: Statement<[], Backlog & { uplink: string; stream: Stream }>;
  readonly #clearBacklog: Statement<[string, string]>;
  readonly #addBacklog: Statement<[string, string, number, number, number, number]>;
  #lanes: Lane[] = [];
  #byStream = new Map<Stream, Lane[]>();
  /** batches that are given out and not done */
  leased = new Set<number>();

  constructor(db: Connection, plans: readonly UplinkPlan[], gaps: Gaps) {
    this.#plans = plans;
    this.#gaps = gaps;
    this.#select = db.prepare(`SELECT ${COLUMNS} FROM lane`);
    this.#batches = db.prepare(
      "SELECT uplink, id, epoch, stream, seq, span, first, last, bytes, created, historical FROM batch ORDER BY id",
    );
    this.#oldest = db.prepare(
      "SELECT id, epoch, seq, samples, bytes, created FROM chunk WHERE stream = ? AND id > ? ORDER BY id LIMIT 1",
    );
    this.#update = db.prepare(
      `UPDATE lane SET cursor = ?, pending_samples = ?, pending_bytes = ?,
       committed = ?, acked = ?, dropped = ?, rejected = ?, lost = ? WHERE uplink = ? AND stream = ?`,
    );
    this.#counts = db.prepare(
      `SELECT uplink, stream, committed, acked, dropped, rejected, lost, pending_samples +
         (SELECT coalesce(sum(span), 0) FROM batch WHERE batch.uplink = lane.uplink AND batch.stream = lane.stream) +
         (SELECT coalesce(sum(samples), 0) FROM backlog WHERE backlog.uplink = lane.uplink AND backlog.stream = lane.stream)
         AS held
       FROM lane WHERE uplink <> '' ORDER BY uplink, stream`,
    );
    this.#backlogs = db.prepare(
      "SELECT uplink, stream, first, last, samples, bytes FROM backlog ORDER BY last",
    );
    this.#clearBacklog = db.prepare("DELETE FROM backlog WHERE uplink = ? AND stream = ?");
    this.#addBacklog = db.prepare("INSERT INTO backlog VALUES (?, ?, ?, ?, ?, ?)");
  }

  /** Makes the rows agree with the configuration; gives what that drops. Called once, before {@link load}. */
  reconcile(db: Connection): RemovedLane[] {
    const wanted = new Set(
      this.#plans.flatMap(({ name, streams }) => streams.map((stream) => `${name}/${stream}`)),
    );
    const rows = new Map(this.#select.all().map((row) => [`${row.uplink}/${row.stream}`, row]));
    const removed: RemovedLane[] = [];
    for (const [key, row] of rows) {
      const dropped = row.active === 1 && !wanted.has(key) ? this.#remove(db, row) : 0;
      if (dropped > 0) removed.push({ uplink: row.uplink, stream: row.stream, dropped });
    }
    const present = lastChunk(db);
    const add = db.prepare(
      `INSERT INTO lane (uplink, stream, active, cursor) VALUES (?, ?, 1, ?)
       ON CONFLICT DO UPDATE SET active = 1, cursor = excluded.cursor`,
    );
    for (const { name, streams } of this.#plans) {
      for (const stream of streams) {
        if (rows.get(`${name}/${stream}`)?.active !== 1) add.run(name, stream, present);
      }
    }
    return removed;
  }

  /** What a removed lane held is dropped; its counts stay. */
  #remove(db: Connection, { uplink, stream, cursor }: LaneRow): number {
    const chunks = `SELECT id, epoch, seq, samples, seq - sum(samples) OVER (PARTITION BY epoch ORDER BY id) + samples AS run
         FROM chunk WHERE stream = :stream AND (id > :cursor OR EXISTS (SELECT 1 FROM backlog
           WHERE uplink = :uplink AND stream = :stream AND chunk.id BETWEEN first AND last))`;
    const held = db.prepare<[string, string], { epoch: string; seq: number; last: number; span: number }>(
      "SELECT epoch, seq, seq + span - 1 AS last, span FROM batch WHERE uplink = ? AND stream = ? ORDER BY id",
    );
    // Chunks that follow each other have the same difference between their number and the samples before them.
    const pending = db.prepare<
      [{ uplink: string; stream: string; cursor: number }],
      { epoch: string; seq: number; last: number; span: number }
    >(
      `SELECT epoch, min(seq) AS seq, max(seq + samples - 1) AS last, sum(samples) AS span FROM (${chunks})
       GROUP BY epoch, run ORDER BY min(id)`,
    );
    let dropped = 0;
    for (const { epoch, seq, last, span } of [
      ...held.all(uplink, stream),
      ...pending.all({ uplink, stream, cursor }),
    ]) {
      this.#gaps.add(uplink, epoch, stream, seq, last, "uplink removed");
      dropped += span;
    }
    db.prepare("DELETE FROM batch WHERE uplink = ? AND stream = ?").run(uplink, stream);
    this.#clearBacklog.run(uplink, stream);
    db.prepare(
      `UPDATE lane SET active = 0, pending_samples = 0, pending_bytes = 0, dropped = dropped + ?
       WHERE uplink = ? AND stream = ?`,
    ).run(dropped, uplink, stream);
    return dropped;
  }

  /** Reads every lane from its row. */
  load(): void {
    const plans = new Map(this.#plans.map((plan) => [plan.name, plan]));
    this.#lanes = [];
    for (const row of this.#select.all()) {
      const plan = plans.get(row.uplink);
      if (row.active === 1 && plan !== undefined) this.#lanes.push(new Lane(row, plan));
    }
    const batches = this.#batches.all();
    const backlogs = this.#backlogs.all();
    for (const lane of this.#lanes) {
      lane.batches = batches.filter(({ uplink, stream }) => uplink === lane.uplink && stream === lane.stream);
      lane.backlog = backlogs
        .filter(({ uplink, stream }) => uplink === lane.uplink && stream === lane.stream)
        .map(({ first, last, samples, bytes }) => ({ first, last, samples, bytes }));
      this.findOldest(lane);
    }
    this.#byStream = new Map(
      STREAMS.map((stream) => [stream, this.#lanes.filter((lane) => lane.stream === stream)]),
    );
  }

  /** Looks up the oldest pending chunk of a lane whose pending chunks have changed at the front. */
  findOldest(lane: Lane): void {
    lane.oldest = lane.pendingSamples === 0 ? undefined : this.#oldest.get(lane.stream, lane.cursor);
  }

  /** Writes every lane that has changed. The last thing a transaction does. */
  flush(): void {
    for (const lane of this.#lanes) {
      if (!lane.dirty) continue;
      const { uplink, stream, cursor, committed, acked, dropped, rejected, lost } = lane;
      const pending = [lane.pendingSamples, lane.pendingBytes] as const;
      this.#update.run(cursor, ...pending, committed, acked, dropped, rejected, lost, uplink, stream);
      lane.dirty = false;
      if (!lane.backlogDirty) continue;
      this.#clearBacklog.run(uplink, stream);
      for (const { first, last, samples, bytes } of lane.backlog)
        this.#addBacklog.run(uplink, stream, first, last, samples, bytes);
      lane.backlogDirty = false;
    }
  }

  /** The ledger of every lane that ever was, from the rows: call {@link flush} first. */
  counts(): OutboxCount[] {
    return this.#counts.all();
  }

  /** Of each lane that holds something: when the oldest chunk that it needs was stored. */
  oldest(): OldestChunk[] {
    return this.#lanes.flatMap(({ uplink, stream, needs }) => {
      const chunk = this.#oldest.get(stream, needs - 1);
      return chunk === undefined ? [] : [{ uplink, stream, createdMs: chunk.created }];
    });
  }

  /** Every lane. */
  get all(): readonly Lane[] {
    return this.#lanes;
  }

  /** The lanes of a stream. */
  of(stream: Stream): readonly Lane[] {
    return this.#byStream.get(stream) ?? [];
  }

  /** The lanes of an uplink, in order of priority. */
  ofUplink(name: string): Lane[] {
    return STREAMS.flatMap((stream) => this.of(stream).filter(({ uplink }) => uplink === name));
  }

  /** An uplink's batch that is sealed and not done, with its lane. */
  find(uplink: string, id: number): { lane: Lane; batch: Batch } | undefined {
    for (const lane of this.#lanes) {
      if (lane.uplink !== uplink) continue;
      const batch = lane.batches.find((candidate) => candidate.id === id);
      if (batch !== undefined) return { lane, batch };
    }
    return undefined;
  }
}
