/**
 * Lanes: one stream at one uplink, with what is pending, what is sealed, and the ledger's counts. The rows are the
 * truth; these objects mirror them between transactions, and are loaded again after a rollback.
 */
import type { Statement } from "better-sqlite3";
import { type OutboxCount, STREAMS, type Stream } from "../core/ports.ts";
import type { Gaps } from "./gaps.ts";
import type { BatchPlan, UplinkPlan } from "./plan.ts";
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
}

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
  /** of the oldest pending chunk: when it was stored (ms since the Unix epoch), and in which epoch */
  oldest: { readonly created: number; readonly epoch: string } | undefined;
  /** differs from its row */
  dirty = false;

  constructor(row: LaneRow, plan: BatchPlan) {
    this.uplink = row.uplink;
    this.stream = row.stream;
    this.plan = plan;
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
    return this.batches[0]?.first ?? this.cursor + 1;
  }
}

const COLUMNS = `uplink, stream, active, cursor, pending_samples AS pendingSamples, pending_bytes AS pendingBytes,
  committed, acked, dropped, rejected, lost`;

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
  #lanes: Lane[] = [];
  #byStream = new Map<Stream, Lane[]>();
  /** batches that are given out and not done */
  leased = new Set<number>();

  constructor(db: Connection, plans: readonly UplinkPlan[], gaps: Gaps) {
    this.#plans = plans;
    this.#gaps = gaps;
    this.#select = db.prepare(`SELECT ${COLUMNS} FROM lane`);
    this.#batches = db.prepare(
      "SELECT uplink, id, epoch, stream, seq, span, first, last, bytes FROM batch ORDER BY id",
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
         (SELECT coalesce(sum(span), 0) FROM batch WHERE batch.uplink = lane.uplink AND batch.stream = lane.stream) AS held
       FROM lane ORDER BY uplink, stream`,
    );
  }

  /** Makes the rows agree with the configuration. Called once, before {@link load}. */
  reconcile(db: Connection): void {
    const wanted = new Set(
      this.#plans.flatMap(({ name, streams }) => streams.map((stream) => `${name}/${stream}`)),
    );
    const rows = new Map(this.#select.all().map((row) => [`${row.uplink}/${row.stream}`, row]));
    for (const [key, row] of rows) if (row.active === 1 && !wanted.has(key)) this.#remove(db, row);
    const present =
      db.prepare<[], number>("SELECT seq FROM sqlite_sequence WHERE name = 'chunk'").pluck().get() ?? 0;
    const add = db.prepare(
      `INSERT INTO lane (uplink, stream, active, cursor) VALUES (?, ?, 1, ?)
       ON CONFLICT DO UPDATE SET active = 1, cursor = excluded.cursor`,
    );
    for (const { name, streams } of this.#plans) {
      for (const stream of streams) {
        if (rows.get(`${name}/${stream}`)?.active !== 1) add.run(name, stream, present);
      }
    }
  }

  /** What a removed lane held is dropped; its counts stay. */
  #remove(db: Connection, { uplink, stream, cursor }: LaneRow): void {
    const held = db.prepare<[string, string], { epoch: string; seq: number; last: number; span: number }>(
      "SELECT epoch, seq, seq + span - 1 AS last, span FROM batch WHERE uplink = ? AND stream = ? ORDER BY id",
    );
    // Chunks that follow each other have the same difference between their number and the samples before them.
    const pending = db.prepare<[string, number], { epoch: string; seq: number; last: number; span: number }>(
      `SELECT epoch, min(seq) AS seq, max(seq + samples - 1) AS last, sum(samples) AS span FROM (
         SELECT id, epoch, seq, samples, seq - sum(samples) OVER (PARTITION BY epoch ORDER BY id) + samples AS run
         FROM chunk WHERE stream = ? AND id > ?)
       GROUP BY epoch, run ORDER BY min(id)`,
    );
    let dropped = 0;
    for (const { epoch, seq, last, span } of [...held.all(uplink, stream), ...pending.all(stream, cursor)]) {
      this.#gaps.add(uplink, epoch, stream, seq, last, "uplink removed");
      dropped += span;
    }
    db.prepare("DELETE FROM batch WHERE uplink = ? AND stream = ?").run(uplink, stream);
    db.prepare(
      `UPDATE lane SET active = 0, pending_samples = 0, pending_bytes = 0, dropped = dropped + ?
       WHERE uplink = ? AND stream = ?`,
    ).run(dropped, uplink, stream);
  }

  /** Reads every lane from its row. */
  load(): void {
    const plans = new Map(this.#plans.map((plan) => [plan.name, plan.batch]));
    this.#lanes = [];
    for (const row of this.#select.all()) {
      const plan = plans.get(row.uplink);
      if (row.active === 1 && plan !== undefined) this.#lanes.push(new Lane(row, plan));
    }
    const batches = this.#batches.all();
    for (const lane of this.#lanes) {
      lane.batches = batches.filter(({ uplink, stream }) => uplink === lane.uplink && stream === lane.stream);
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
      const {
        cursor,
        pendingSamples,
        pendingBytes,
        committed,
        acked,
        dropped,
        rejected,
        lost,
        uplink,
        stream,
      } = lane;
      this.#update.run(
        cursor,
        pendingSamples,
        pendingBytes,
        committed,
        acked,
        dropped,
        rejected,
        lost,
        uplink,
        stream,
      );
      lane.dirty = false;
    }
  }

  /** The ledger of every lane that ever was, from the rows: call {@link flush} first. */
  counts(): OutboxCount[] {
    return this.#counts.all();
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
