/**
 * The outbox over its database: every operation, synchronous, for the one thread that owns the connection.
 * Operations run inside {@link Store.transaction}, several in one; what they answer holds once that returns.
 */
import { randomBytes } from "node:crypto";
import type { Crc32c } from "../core/block.ts";
import { WeirError } from "../core/errors.ts";
import type { Frame } from "../core/frame.ts";
import {
  type Effect,
  type Gap,
  type OutboxCount,
  STREAMS,
  type StateChange,
  type StateEntry,
  type Stream,
} from "../core/ports.ts";
import { type AlarmEffect, alarmFrame } from "./alarms.ts";
import { estimateJsonBytes, loadFrame, storeFrame } from "./blocks.ts";
import { Gaps } from "./gaps.ts";
import { type Batch, Lanes } from "./lanes.ts";
import type { OutboxPlan } from "./plan.ts";
import { Room } from "./room.ts";
import { type Connection, openDatabase } from "./schema.ts";
import { Sealer } from "./sealing.ts";

/** A publish effect that waits to be done. */
export type PublishEffect = Extract<Effect, { type: "publish" }>;

/** What one transaction stores of one chunk. */
export interface StoredChunk {
  readonly stream: Stream;
  readonly frame: Frame;
  readonly state: Iterable<StateChange>;
  readonly effects: readonly Effect[];
}

/** The numbers that an epoch gave to a stream: 0 to `lastSeq`. */
export interface EpochRange {
  readonly epoch: string;
  readonly stream: Stream;
  readonly lastSeq: number;
}

/** How the store is doing. */
export interface StoreInfo {
  /** earlier epochs that are remembered, oldest first */
  readonly epochs: readonly EpochRange[];
  readonly fileBytes: number;
  /** bytes of the file that hold something */
  readonly usedBytes: number;
  /** publish effects given up because too many waited */
  readonly effectsDropped: number;
}

/** Publish effects that may wait; beyond it the oldest are given up, and counted. */
const MOST_EFFECTS = 10_000;
/** Effects given out by one call. */
const EFFECTS_AT_ONCE = 256;
/** Batches given out by one lease have at most this many (estimated) bytes, or are one. */
const LEASE_BYTES = 2 ** 20;
const DEAD_ROWS = 256;
/** Earlier epochs remembered after nothing is left of them. */
const EPOCHS_KEPT = 64;

interface EffectRow {
  readonly id: number;
  readonly plugin: string;
  readonly topic: string;
  readonly payload: Buffer;
  readonly qos: 0 | 1;
  readonly retain: number;
}

/** The outbox's database, open. */
export class Store {
  readonly epoch: string = randomBytes(4).toString("hex");
  readonly #db: Connection;
  readonly #crc32c: Crc32c;
  readonly #now: () => number;
  readonly #gaps: Gaps;
  readonly #lanes: Lanes;
  readonly #sealer: Sealer;
  readonly #room: Room;
  readonly #deadBytes: number;
  readonly #sql: ReturnType<typeof statements>;
  /** the next number of each stream in this epoch */
  #next = new Map<Stream, number>();
  #numbered = new Set<Stream>();
  #forgetting = false;

  /**
   * Opens the database, or makes it, and fits it to the plan.
   * @throws WeirError `outbox.corrupt`, `outbox.newer-schema` or `data.unusable` (fatal)
   */
  constructor(plan: OutboxPlan, crc32c: Crc32c, now: () => number = Date.now) {
    const db = openDatabase(plan);
    this.#db = db;
    this.#crc32c = crc32c;
    this.#now = now;
    this.#sql = statements(db);
    this.#gaps = new Gaps(db);
    this.#lanes = new Lanes(db, plan.uplinks, this.#gaps);
    this.#sealer = new Sealer(db);
    this.#room = new Room(db, this.#lanes, this.#gaps, plan.maxBytes);
    this.#deadBytes = Math.floor(plan.maxBytes / 16);
    try {
      db.transaction(() => {
        this.#sql.setMeta.run(0, "clean");
        this.#sql.forgetEpochs.run(EPOCHS_KEPT);
        this.#lanes.reconcile(db);
      })();
      this.#lanes.load();
    } catch (thrown) {
      db.close();
      throw thrown;
    }
  }

  /**
   * Runs operations as one transaction. When any of them or the commit throws, nothing of them is stored, and the
   * store is as it was before.
   */
  transaction<T>(work: () => T): T {
    const leased = new Set(this.#lanes.leased);
    const handed = new Set(this.#gaps.handed);
    const next = new Map(this.#next);
    try {
      this.#sql.begin.run();
      const result = work();
      this.#forgetting = this.#room.forget();
      this.#lanes.flush();
      for (const stream of this.#numbered)
        this.#sql.number.run(this.epoch, stream, this.#next.get(stream) ?? 0);
      this.#numbered.clear();
      this.#sql.commit.run();
      this.#room.reset();
      return result;
    } catch (thrown) {
      // SQLite rolls back by itself on some errors (a full disk, as one).
      if (this.#db.inTransaction) this.#sql.rollback.run();
      this.#lanes.leased = leased;
      this.#gaps.handed = handed;
      this.#next = next;
      this.#numbered.clear();
      this.#lanes.load();
      this.#room.reload();
      throw thrown;
    }
  }

  /** Stores a chunk: samples, alarms as samples, state and publish effects. */
  append(chunk: StoredChunk): void {
    const alarms: AlarmEffect[] = [];
    for (const effect of chunk.effects) {
      if (effect.type === "alarm") alarms.push(effect);
      else
        this.#sql.addEffect.run(
          effect.plugin,
          effect.topic,
          effect.payload,
          effect.qos,
          effect.retain ? 1 : 0,
        );
    }
    if (alarms.length < chunk.effects.length) this.#boundEffects();
    this.#put(chunk.stream, chunk.frame);
    if (alarms.length > 0) this.#put("alarm", alarmFrame(alarms, this.#now()));
    for (const { plugin, scope, key, value } of chunk.state) {
      if (value === undefined) this.#sql.deleteState.run(plugin, scope, key);
      else this.#sql.setState.run(plugin, scope, key, value);
    }
  }

  #put(stream: Stream, frame: Frame): void {
    if (frame.rows === 0) return;
    const seq = this.#next.get(stream) ?? 0;
    this.#next.set(stream, seq + frame.rows);
    this.#numbered.add(stream);
    const lanes = this.#lanes.of(stream);
    if (lanes.length === 0) return;
    const block = storeFrame(frame, this.#crc32c);
    const bytes = estimateJsonBytes(frame);
    const created = this.#now();
    this.#room.make(block.byteLength);
    this.#sql.addChunk.run(stream, this.epoch, seq, frame.rows, bytes, created, block);
    for (const lane of lanes) {
      lane.oldest ??= { created, epoch: this.epoch };
      lane.pendingSamples += frame.rows;
      lane.pendingBytes += bytes;
      lane.committed += frame.rows;
      lane.dirty = true;
    }
  }

  #boundEffects(): void {
    const { changes } = this.#sql.dropEffects.run(MOST_EFFECTS);
    if (changes > 0)
      this.#sql.setMeta.run((this.#sql.getMeta.get("effects_dropped") ?? 0) + changes, "effects_dropped");
  }

  /** Leases up to `count` batches of an uplink: sealed ones first in each stream, then those that are due. */
  lease(uplink: string, count: number): Batch[] {
    const taken: Batch[] = [];
    let bytes = 0;
    const nowMs = this.#now();
    for (const lane of this.#lanes.ofUplink(uplink)) {
      const waiting = lane.batches.filter(({ id }) => !this.#lanes.leased.has(id));
      for (;;) {
        if (taken.length >= count || (bytes > LEASE_BYTES && taken.length > 0)) return taken;
        const batch = waiting.shift() ?? this.#sealer.seal(lane, this.epoch, nowMs);
        if (batch === undefined) break;
        this.#lanes.leased.add(batch.id);
        taken.push(batch);
        bytes += batch.bytes;
      }
    }
    return taken;
  }

  /**
   * The frames of a leased batch, in order.
   * @throws WeirError `frame.invalid` when a chunk is damaged or missing
   */
  read(batch: Batch): Frame[] {
    const frames: Frame[] = [];
    let rows = 0;
    for (const bytes of this.#sql.blocks.iterate(batch.stream, batch.first, batch.last)) {
      const frame = loadFrame(bytes, this.#crc32c);
      rows += frame.rows;
      frames.push(frame);
    }
    if (rows !== batch.span)
      throw new WeirError("frame.invalid", `batch ${batch.id}: ${rows} of ${batch.span} samples are there`);
    return frames;
  }

  /** Forgets batches that the consumer has. Unknown ones were forgotten before. */
  ack(uplink: string, ids: readonly number[]): void {
    for (const id of ids) this.#finish(uplink, id, "acked");
  }

  /** Gives batches back. */
  release(ids: readonly number[]): void {
    for (const id of ids) this.#lanes.leased.delete(id);
  }

  /** Sets a batch aside as dead letters. */
  reject(uplink: string, id: number, reason: string): void {
    const batch = this.#lanes.find(uplink, id)?.batch;
    if (batch === undefined) return;
    this.#sql.bury.run(uplink, reason, this.#now(), batch.stream, batch.first, batch.last);
    this.#sql.boundDead.run(this.#deadBytes, DEAD_ROWS);
    this.#finish(uplink, id, "rejected");
  }

  /** Gives a batch up whose chunks can't be read. */
  lose(uplink: string, id: number): void {
    const batch = this.#finish(uplink, id, "lost");
    if (batch === undefined) return;
    this.#gaps.add(uplink, batch.epoch, batch.stream, batch.seq, batch.seq + batch.span - 1, "corrupt");
  }

  #finish(uplink: string, id: number, how: "acked" | "rejected" | "lost"): Batch | undefined {
    const found = this.#lanes.find(uplink, id);
    if (found === undefined) return undefined;
    const { lane, batch } = found;
    lane[how] += batch.span;
    lane.dirty = true;
    lane.batches.splice(lane.batches.indexOf(batch), 1);
    this.#lanes.leased.delete(id);
    this.#sql.deleteBatch.run(id);
    return batch;
  }

  /** Gaps to announce to an uplink, oldest first, some at a time. */
  gaps(uplink: string): Gap[] {
    return this.#gaps.list(uplink);
  }

  gapDone(uplink: string, id: number): void {
    this.#gaps.done(uplink, id);
  }

  /** Everything that a plugin keeps. */
  state(plugin: string): StateEntry[] {
    return this.#sql.state.all(plugin);
  }

  /** Publish effects to do, oldest first, some at a time. */
  effects(): { readonly id: number; readonly effect: PublishEffect }[] {
    return this.#sql.effects.all(EFFECTS_AT_ONCE).map(({ id, plugin, topic, payload, qos, retain }) => ({
      id,
      effect: { type: "publish", plugin, topic, payload, qos, retain: retain === 1 },
    }));
  }

  effectsDone(ids: readonly number[]): void {
    for (const id of ids) this.#sql.deleteEffect.run(id);
  }

  /** What an operator decided at run time, by key; undefined when nothing was. */
  setting(key: string): string | undefined {
    return this.#sql.setting.get(key)?.value;
  }

  /** Keeps a decision; undefined forgets it. */
  setSetting(key: string, value: string | undefined): void {
    if (value === undefined) this.#sql.deleteSetting.run(key);
    else this.#sql.setSetting.run(key, value);
  }

  /** The ledger. */
  counts(): OutboxCount[] {
    this.#lanes.flush();
    return this.#lanes.counts();
  }

  info(): StoreInfo {
    return {
      epochs: this.#sql.epochs.all(this.epoch),
      effectsDropped: this.#sql.getMeta.get("effects_dropped") ?? 0,
      ...this.#room.size(),
    };
  }

  /** When a lease gives an uplink something: 0 for now, else ms since the Unix epoch; undefined when nothing is stored for it. */
  dueAt(uplink: string): number | undefined {
    let due: number | undefined;
    const nowMs = this.#now();
    for (const lane of this.#lanes.ofUplink(uplink)) {
      if (lane.batches.some(({ id }) => !this.#lanes.leased.has(id))) return 0;
      const at = lane.dueAt(this.epoch, nowMs);
      if (at !== undefined && (due === undefined || at < due)) due = at;
    }
    return due;
  }

  /**
   * One slice of tidying up: call it now and then, between transactions.
   * @returns whether there is more to do
   */
  maintain(idle: boolean): boolean {
    if (this.#forgetting) this.transaction(() => {});
    return this.#room.vacuum(idle) || this.#forgetting;
  }

  /** Marks the stop as clean and closes. Whatever was on lease is leased again after the next start. */
  close(): void {
    try {
      this.#sql.setMeta.run(1, "clean");
    } catch {
      // On a full disk, as one: the next start then checks the database, and is a little slower.
    }
    this.#db.close();
  }
}

function statements(db: Connection) {
  return {
    begin: db.prepare<[]>("BEGIN IMMEDIATE"),
    commit: db.prepare<[]>("COMMIT"),
    rollback: db.prepare<[]>("ROLLBACK"),
    getMeta: db.prepare<[string], number>("SELECT value FROM meta WHERE key = ?").pluck(),
    setMeta: db.prepare<[number, string]>("UPDATE meta SET value = ? WHERE key = ?"),
    number: db.prepare<[string, Stream, number]>(
      "INSERT INTO epoch VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next = excluded.next",
    ),
    epochs: db.prepare<[string], EpochRange>(
      "SELECT epoch, stream, next - 1 AS lastSeq FROM epoch WHERE epoch <> ? ORDER BY rowid",
    ),
    forgetEpochs: db.prepare<[number]>(
      // Chunks are in the order of their epochs, so the oldest chunk has the oldest epoch that is still needed.
      `DELETE FROM epoch WHERE rowid <= (SELECT max(rowid) FROM epoch) - ? * ${STREAMS.length} AND rowid < coalesce(
         (SELECT min(rowid) FROM epoch WHERE epoch = (SELECT epoch FROM chunk ORDER BY id LIMIT 1)),
         (SELECT max(rowid) FROM epoch))`,
    ),
    addChunk: db.prepare<[Stream, string, number, number, number, number, Uint8Array]>(
      "INSERT INTO chunk (stream, epoch, seq, samples, bytes, created, block) VALUES (?, ?, ?, ?, ?, ?, ?)",
    ),
    blocks: db
      .prepare<[Stream, number, number], Buffer>(
        "SELECT block FROM chunk WHERE stream = ? AND id BETWEEN ? AND ? ORDER BY id",
      )
      .pluck(),
    deleteBatch: db.prepare<[number]>("DELETE FROM batch WHERE id = ?"),
    bury: db.prepare<[string, string, number, Stream, number, number]>(
      `INSERT INTO dead (uplink, stream, epoch, seq, samples, reason, rejected, block)
       SELECT ?, stream, epoch, seq, samples, ?, ?, block FROM chunk
       WHERE stream = ? AND id BETWEEN ? AND ? ORDER BY id`,
    ),
    boundDead: db.prepare<[number, number]>(
      `DELETE FROM dead WHERE id <= (
         SELECT max(id) FROM (
           SELECT id, sum(length(block)) OVER newest AS bytes, row_number() OVER newest AS place
           FROM dead WINDOW newest AS (ORDER BY id DESC))
         WHERE bytes > ? OR place > ?)`,
    ),
    state: db.prepare<[string], StateEntry>("SELECT scope, key, value FROM state WHERE plugin = ?"),
    setState: db.prepare<[string, string, string, Uint8Array]>(
      "INSERT INTO state VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
    ),
    deleteState: db.prepare<[string, string, string]>(
      "DELETE FROM state WHERE plugin = ? AND scope = ? AND key = ?",
    ),
    addEffect: db.prepare<[string, string, Uint8Array, number, number]>(
      "INSERT INTO effect (plugin, topic, payload, qos, retain) VALUES (?, ?, ?, ?, ?)",
    ),
    dropEffects: db.prepare<[number]>(
      "DELETE FROM effect WHERE id <= (SELECT id FROM effect ORDER BY id DESC LIMIT 1 OFFSET ?)",
    ),
    effects: db.prepare<[number], EffectRow>("SELECT * FROM effect ORDER BY id LIMIT ?"),
    deleteEffect: db.prepare<[number]>("DELETE FROM effect WHERE id = ?"),
    setting: db.prepare<[string], { value: string }>("SELECT value FROM setting WHERE key = ?"),
    setSetting: db.prepare<[string, string]>(
      "INSERT INTO setting VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
    ),
    deleteSetting: db.prepare<[string]>("DELETE FROM setting WHERE key = ?"),
  };
}
