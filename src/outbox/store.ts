/**
 * The outbox over its database: every operation, synchronous, for the one thread that owns the connection.
 * Operations run inside {@link Store.transaction}, several in one; what they answer holds once that returns.
 */
import type { Crc32c } from "../core/block.ts";
import { type OwnAlarm, WeirError } from "../core/errors.ts";
import { type Frame, Status } from "../core/frame.ts";
import type { Effect, OutboxCount, StateChange, Stream } from "../core/ports.ts";
import type { Traces } from "../core/trace.ts";
import { Ages } from "./ages.ts";
import { alarmFrame, ownAlarm } from "./alarms.ts";
import { BatchEnds } from "./batch-ends.ts";
import { estimateJsonBytes, loadFrame, storeFrame } from "./blocks.ts";
import { DeadLetters } from "./dead-letters.ts";
import { DeviceKeeper } from "./device-keeper.ts";
import type { Devices } from "./devices.ts";
import { Discard } from "./discard.ts";
import { DiskGuard } from "./disk-guard.ts";
import { EffectQueue } from "./effect-queue.ts";
import { type EpochRange, Epochs } from "./epochs.ts";
import { Gaps } from "./gaps.ts";
import { Home } from "./home.ts";
import { Keepsakes } from "./keepsakes.ts";
import { type Batch, Lanes, lastChunk, type OldestChunk, type RemovedLane } from "./lanes.ts";
import { Leasing, type Moment } from "./leasing.ts";
import type { OutboxPlan, Trouble } from "./plan.ts";
import { markDamaged, putBack, setWalAside } from "./quarantine.ts";
import { RecentFrames } from "./recent-frames.ts";
import { Reserve } from "./reserve.ts";
import { Room } from "./room.ts";
import { type Connection, openDatabase, WAL_PAGES } from "./schema.ts";
import { Sealer } from "./sealing.ts";
import { takeOver } from "./take-over.ts";
import { TraceBook } from "./trace-book.ts";
import { WalWatch } from "./wal-watch.ts";

/** What one transaction stores of one chunk. */
export interface StoredChunk {
  readonly stream: Stream;
  readonly frame: Frame;
  readonly state: Iterable<StateChange>;
  readonly effects: readonly Effect[];
  readonly traces?: Traces | undefined;
  /** see `Outbox.append` (core/ports.ts) */
  readonly ticket?: number | undefined;
}

/** What {@link Store.purge} drops. */
export interface Purge {
  readonly uplink: string | undefined;
  readonly stream: Stream | undefined;
  /** ms since the Unix epoch */
  readonly untilMs: number;
}

/** How the store is doing. */
export interface StoreInfo {
  /** earlier epochs that are remembered, oldest first */
  readonly epochs: readonly EpochRange[];
  readonly fileBytes: number;
  /** bytes of the file that hold something */
  readonly usedBytes: number;
  /** size of the WAL, as of the last second */
  readonly walBytes: number;
  /** publish effects given up because too many waited */
  readonly effectsDropped: number;
  /** devices whose latest values are known */
  readonly devices: number;
  /** samples whose value found no room among the latest ones, since the start */
  readonly valuesUnkept: number;
  /** where a damaged database was moved at this start */
  readonly quarantined: string | undefined;
  /** why the database was found to be a copy at this start */
  readonly copied: string | undefined;
  /** what was dropped at this start because its uplink or stream is not configured any more */
  readonly removed: readonly RemovedLane[];
  /** when the oldest chunk that each lane holds was stored */
  readonly oldest: readonly OldestChunk[];
}

/** Why nothing is stored in a file that was moved away. */
export const DISPLACED =
  "the database was removed or replaced while it was in use: put it back, or restart Weir";
/** Why nothing is stored while the WAL is as large as it may get. */
export const WAL_FULL =
  "the database's WAL can't be emptied, and is as large as it may get, or the disk nearly full";
/** The file beside the database that counts its uses is written so long after the start: that has enough to do. */
const SETTLE_MS = 60_000;
/** The reserve for a full disk: at most this, and a sixteenth of the database's limit. */
const MOST_RESERVE_BYTES = 4 * 2 ** 20;

/** The outbox's database, open. */
export class Store {
  /** where a damaged database was moved at this start */
  readonly quarantined: string | undefined;
  /** why the database was found to be a copy at this start */
  readonly copied: string | undefined;
  /** it was not closed in order, and is too large to be checked before it is used: {@link LateCheck} */
  readonly unchecked: boolean;
  /** what is to be told of samples that an uplink will not get */
  readonly gaps: Gaps;
  /** what becomes of batches that were leased */
  readonly ends: BatchEnds;
  readonly effects: EffectQueue;
  readonly kept: Keepsakes;
  readonly #keeper: DeviceKeeper;
  readonly #db: Connection;
  readonly #crc32c: Crc32c;
  readonly #now: () => number;
  readonly #lanes: Lanes;
  readonly #leasing: Leasing;
  readonly #room: Room;
  readonly #ages: Ages;
  readonly #epochs: Epochs;
  readonly #traces: TraceBook;
  readonly #recent = new RecentFrames();
  readonly #sql: ReturnType<typeof statements>;
  /** id of the newest chunk */
  #lastChunk: number;
  readonly #discard: Discard;
  #forgetting = false;
  readonly #openedMs: number;
  #settled = false;
  #removed: readonly RemovedLane[] = [];
  readonly #expires: boolean;
  readonly #path: string;
  readonly #disk: DiskGuard;
  readonly #home: Home;
  readonly #wal: WalWatch;

  /**
   * Opens the database, or makes it, and fits it to the plan. A damaged one is set aside. `now` and `monotonic` are in ms; the
   * second is never set.
   * @throws WeirError `outbox.newer-schema` or `data.unusable` (fatal)
   */
  constructor(plan: OutboxPlan, crc32c: Crc32c, now: () => number = Date.now, monotonic: () => number = now) {
    const { db, salvage, unchecked, recovered } = openDatabase(plan, now());
    this.quarantined = salvage?.movedTo;
    this.unchecked = unchecked;
    this.#db = db;
    this.#path = plan.path;
    this.#crc32c = crc32c;
    this.#now = now;
    this.#openedMs = now();
    this.#sql = statements(db);
    this.gaps = new Gaps(db);
    this.#lanes = new Lanes(db, plan.uplinks, this.gaps);
    this.#leasing = new Leasing(this.#lanes, new Sealer(db, now()));
    this.#discard = new Discard(db, this.#lanes, this.gaps);
    this.#room = new Room(db, this.#lanes, this.gaps, plan.maxBytes, () => this.#disk.watch());
    const reserve = new Reserve(plan.path, Math.min(MOST_RESERVE_BYTES, Math.floor(plan.maxBytes / 16)));
    this.#disk = new DiskGuard(db, reserve, this.#room);
    this.#expires = plan.uplinks.some(({ ttlMs }) => ttlMs !== undefined);
    this.#traces = new TraceBook(plan.uplinks.some(({ traceparent }) => traceparent));
    this.ends = new BatchEnds(db, {
      lanes: this.#lanes,
      gaps: this.gaps,
      room: this.#room,
      dead: new DeadLetters(db, plan.maxBytes),
      crc32c,
      now,
    });
    this.effects = new EffectQueue(db);
    this.kept = new Keepsakes(db);
    this.#ages = new Ages(this.kept, now, monotonic);
    this.#epochs = new Epochs(db);
    this.#keeper = new DeviceKeeper(db, crc32c, plan.maxBytes, now());
    this.#home = new Home(plan.path);
    this.#wal = new WalWatch(plan.path, db, plan.maxBytes);
    const { kept, gaps } = this;
    try {
      db.transaction(() => {
        this.#sql.setMeta.run("clean", 0);
        if (salvage !== undefined) takeOver(db, salvage, { epochs: this.#epochs, kept, gaps }, now());
        this.#epochs.begin(db, plan.reopened !== undefined);
        this.#removed = this.#lanes.reconcile(db);
        this.#keeper.load(now());
      })();
      this.#lastChunk = lastChunk(db);
      this.#lanes.load();
      const sealed = new Set(this.#lanes.all.flatMap(({ batches }) => batches.map(({ id }) => id)));
      this.#lanes.leased = new Set((plan.leased ?? []).filter((id) => sealed.has(id)));
      this.copied = this.#home.settleIn(this.kept, plan.machine, (work) => db.transaction(work)());
      // Before anything is built upon it. At a start after an orderly stop there is nothing, and it takes no time.
      if (recovered) this.#harden(plan.reopened?.trouble !== undefined);
      const damage = salvage && `the database was damaged (${salvage.reason}); it is now ${salvage.movedTo}`;
      this.#tell("outbox-corrupt", "alarm", damage);
      this.#tell("outbox-copied", "copied", this.copied);
      this.#tell("outbox-wal", "wal", undefined);
      const trouble = plan.reopened?.trouble;
      if (trouble !== undefined) this.tellOfTrouble(trouble);
      this.#home.wrote();
      this.#home.takeTouch();
    } catch (thrown) {
      db.close();
      if (salvage !== undefined) putBack(plan.path, salvage);
      throw thrown;
    }
  }

  /** this run's epoch */
  get epoch(): string {
    return this.#epochs.current;
  }

  /** The greatest ticket of a chunk that is stored, in this run of the agent; 0 before the first. */
  get ticket(): number {
    return this.#epochs.ticket;
  }

  /**
   * Runs operations as one transaction. When any of them or the commit throws, nothing of them is stored, and the
   * store is as it was before.
   */
  transaction<T>(work: () => T): T {
    const leased = new Set(this.#lanes.leased);
    const handed = new Set(this.gaps.handed);
    const numbers = this.#epochs.numbers;
    const lastChunk = this.#lastChunk;
    const { waiting } = this.#keeper;
    this.#home.look();
    try {
      this.#sql.begin.run();
      const result = work();
      this.#forgetting = this.#room.forget();
      this.#lanes.flush();
      this.#epochs.flush();
      this.#sql.commit.run();
      this.#home.wrote();
      this.#room.reset();
      this.#recent.commit();
      return result;
    } catch (thrown) {
      // SQLite rolls back by itself on some errors (a full disk, as one).
      if (this.#db.inTransaction) this.#sql.rollback.run();
      this.#lanes.leased = leased;
      this.gaps.handed = handed;
      this.#epochs.restore(numbers);
      this.#lastChunk = lastChunk;
      this.#recent.rollBack();
      this.#keeper.rollBack(waiting);
      this.#lanes.load();
      this.#room.reload();
      this.#disk.failed(thrown);
      this.#home.wrote();
      throw thrown;
    }
  }

  /**
   * Puts everything that is in the WAL where it belongs, on the disk. `all`: after trouble, all of it or nothing is trusted: what an
   * fsync has failed for may be read as if it were there, and never be written.
   */
  #harden(all: boolean): void {
    const { log, checkpointed } = this.#sql.checkpoint.get() ?? { log: 0, checkpointed: 0 };
    if (all && checkpointed < log)
      throw new WeirError(
        "outbox.commit",
        "another program reads the database, and what is in its WAL can't be secured",
      );
  }

  /** The disk is full, and the database makes do with the pages it has. */
  get tight(): boolean {
    return this.#disk.tight;
  }

  /** Writes the time, which nobody reads: throws as a commit would. (SQLite writes no page that stays the same.) */
  probe(): void {
    this.transaction(() => this.#sql.setMeta.run("looked", this.#now()));
  }

  /** Whether the file at the database's path is another one than the one that is open, or none. */
  get displaced(): boolean {
    this.#home.look();
    return this.#home.isElsewhere;
  }

  /** Whether nothing is stored because the WAL can't be emptied. */
  get walFull(): boolean {
    return this.#wal.isFull(this.#disk.low);
  }

  /** Why the WAL can't be emptied, and grows; undefined: it can. */
  get walHeld(): string | undefined {
    return this.#wal.held;
  }

  /**
   * Whether the WAL was removed or replaced while it is in use. What was in it is in the database, and on the disk, then, and the
   * database is to be opened anew.
   */
  savedFromWal(): boolean {
    if (!this.#home.lacksWal) return false;
    this.#harden(true);
    return true;
  }

  /** The next number of each stream. */
  get next(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#epochs.numbers.next);
  }

  /** See {@link Home.takeTouch}. */
  takeTouch(): "empty" | "touched" | undefined {
    return this.#home.takeTouch();
  }

  /** Whether a chunk would find room now. */
  get roomy(): boolean {
    return this.#room.roomy;
  }

  /** Says to the next start that the database is damaged, and how. */
  markDamaged(why: string): void {
    markDamaged(this.#path, why);
  }

  /** Stores a chunk: samples, alarms as samples, state and publish effects. Its frame is to stay as it is while {@link keeps} says so. */
  append(chunk: StoredChunk): void {
    // What goes to a file that is nobody's any more is not stored.
    if (this.#home.isElsewhere) throw new WeirError("outbox.commit", DISPLACED);
    if (this.walFull) throw new WeirError("outbox.commit", WAL_FULL);
    const alarms = chunk.effects.filter((effect) => effect.type === "alarm");
    this.effects.add(chunk.effects.filter((effect) => effect.type === "publish"));
    this.#put(chunk.stream, chunk.frame, chunk.traces);
    this.#keeper.add(chunk.stream, chunk.frame);
    this.#epochs.mark(chunk.stream, chunk.ticket ?? 0);
    if (alarms.length > 0) this.#put("alarm", alarmFrame(alarms, this.#now()), chunk.traces);
    this.kept.change(chunk.state);
  }

  /** Whether a frame over this buffer may still be {@link read}. */
  keeps(buffer: ArrayBuffer): boolean {
    return this.#recent.keeps(buffer);
  }

  /** What is known of devices, as of the last {@link absorb}. */
  get devices(): Devices {
    return this.#keeper.devices;
  }

  /** Takes what was committed since the last call into {@link devices}: it need not be waited for. */
  absorb(): void {
    this.#keeper.absorb(this.#now());
  }

  /** Stores what is known of devices: some of what is old enough, or all. */
  storeDevices(all: boolean): void {
    const due = this.#keeper.due(all);
    if (due === undefined) return;
    const written = this.transaction(() => {
      // At a stop it takes what room there is. Before, the oldest samples go for it, but none that a policy keeps.
      if (!all && due.grows > 0 && !this.#room.make("host", due.grows)) return false;
      this.#keeper.write(due);
      return true;
    });
    if (!written) return;
    this.#keeper.written(due);
    // A page that was parted has left some of its devices.
    if (all) this.storeDevices(true);
  }

  #put(stream: Stream, frame: Frame, traces?: Traces): void {
    if (frame.rows === 0) return;
    const seq = this.#epochs.take(stream, frame.rows);
    const lanes = this.#lanes.of(stream);
    if (lanes.length === 0) return;
    const block = storeFrame(frame, this.#crc32c);
    const bytes = estimateJsonBytes(frame);
    const created = this.#now();
    if (!this.#room.make(stream, block.byteLength)) {
      for (const lane of lanes) {
        lane.committed += frame.rows;
        lane.dropped += frame.rows;
        lane.dirty = true;
        this.gaps.add(lane.uplink, this.epoch, stream, seq, seq + frame.rows - 1, "overflow");
      }
      return;
    }
    this.#lastChunk += 1;
    this.#traces.note(this.#lastChunk, traces);
    this.#sql.addChunk.run(this.#lastChunk, stream, this.epoch, seq, frame.rows, bytes, created, block);
    this.#recent.note(this.#lastChunk, stream, frame, lanes.length);
    for (const lane of lanes) {
      lane.oldest ??= { created, epoch: this.epoch };
      lane.pendingSamples += frame.rows;
      lane.pendingBytes += bytes;
      lane.committed += frame.rows;
      lane.dirty = true;
    }
  }

  /** An alarm of the gateway's own that begins with the start that found its reason, and ends with the next one. `key` of `meta`: 1 while raised. */
  #tell(code: OwnAlarm, key: string, message: string | undefined): void {
    if (message === undefined && this.#sql.getMeta.get(key) !== 1) return;
    this.transaction(() => {
      this.#put("alarm", alarmFrame([ownAlarm(code, message)], this.#now()));
      this.#sql.setMeta.run(key, message === undefined ? 0 : 1);
    });
  }

  /** The alarm `outbox-unwritable` can't be stored before it is over: it is raised, and ended. */
  tellOfTrouble(trouble: Trouble): void {
    this.transaction(() => this.putTrouble(trouble));
  }

  /** The same, inside a transaction. */
  putTrouble({ sinceMs, message }: Trouble): void {
    const code = "outbox-unwritable";
    const text = `nothing could be stored since ${new Date(sinceMs).toISOString()}: ${message}`;
    for (const alarm of [ownAlarm(code, text), ownAlarm(code, undefined)])
      this.#put("alarm", alarmFrame([alarm], this.#now()));
  }

  /** See {@link Leasing.lease}. */
  lease(uplink: string, count: number, stream?: Stream): Batch[] {
    return this.#leasing.lease(uplink, count, this.#moment, stream);
  }

  /** See {@link Leasing.dueAt}. */
  dueAt(uplink: string): number | undefined {
    return this.#leasing.dueAt(uplink, this.#moment);
  }

  get #moment(): Moment {
    return { epoch: this.epoch, lastChunk: this.#lastChunk, nowMs: this.#now() };
  }

  /**
   * The frames of a leased batch, in order. They are the caller's, but for those that the store {@link keeps}.
   * @throws WeirError `frame.invalid` when a chunk is damaged or missing
   */
  read(batch: Batch): Frame[] {
    if (batch.historical === 0) {
      const recent = this.#recent.take(batch.stream, batch.first, batch.last, batch.span);
      if (recent !== undefined) return recent;
    }
    const frames: Frame[] = [];
    let rows = 0;
    for (const bytes of this.#sql.blocks.iterate(batch.stream, batch.first, batch.last)) {
      const frame = loadFrame(bytes, this.#crc32c);
      rows += frame.rows;
      // The frame is this call's own. The mark is the batch's, so every time it is sent it has the same bytes.
      if (batch.historical === 1)
        for (const [row, status] of frame.status.entries()) frame.status[row] = status | Status.historical;
      frames.push(frame);
    }
    if (rows !== batch.span)
      throw new WeirError("frame.invalid", `batch ${batch.id}: ${rows} of ${batch.span} samples are there`);
    return frames;
  }

  /** The trace contexts that are remembered of a batch. */
  tracesOf({ stream, first, last }: Batch): Traces | undefined {
    return this.#traces.isEmpty ? undefined : this.#traces.of(this.#sql.chunks.all(stream, first, last));
  }

  /** Gives batches back. */
  release(ids: readonly number[]): void {
    for (const id of ids) this.#lanes.leased.delete(id);
  }

  /**
   * Drops what an uplink, or every one, holds of a stream, or of all: what was stored until `untilMs` and is not on lease.
   * One slice: call it again while `more`.
   */
  purge({ uplink, stream, untilMs }: Purge): { readonly dropped: number; readonly more: boolean } {
    let dropped = 0;
    let more = false;
    for (const lane of this.#lanes.all) {
      if ((uplink ?? lane.uplink) !== lane.uplink || (stream ?? lane.stream) !== lane.stream) continue;
      const slice = this.#discard.older(lane, untilMs, "purge");
      dropped += slice.dropped;
      more ||= slice.more;
    }
    return { dropped, more };
  }

  /** Drops what has outlived its lane's TTL; returns whether there is more. */
  #expire(): boolean {
    const lanes = this.#lanes.all;
    this.#ages.look(Math.min(...lanes.map(({ needs }) => needs)), this.#lastChunk);
    const nowMs = this.#now();
    let more = false;
    for (const lane of lanes) {
      const { ttlMs } = lane;
      if (ttlMs === undefined) continue;
      const untilMs = nowMs - this.#ages.seemsOlderMs(lane.needs) - ttlMs;
      more = this.#discard.older(lane, untilMs, "ttl").more || more;
    }
    return more;
  }

  /** The ledger. */
  counts(): OutboxCount[] {
    this.#lanes.flush();
    return this.#lanes.counts();
  }

  info(): StoreInfo {
    return {
      epochs: this.#epochs.earlier(),
      quarantined: this.quarantined,
      copied: this.copied,
      removed: this.#removed,
      oldest: this.#lanes.oldest(),
      effectsDropped: this.effects.dropped,
      devices: this.devices.size,
      valuesUnkept: this.devices.unkept,
      walBytes: this.#wal.bytes,
      ...this.#room.size(),
    };
  }

  /**
   * One slice of tidying up: call it now and then, between transactions.
   * @returns whether there is more to do
   */
  maintain(idle: boolean): boolean {
    this.#home.look();
    try {
      return this.#maintain(idle);
    } finally {
      this.#home.wrote();
    }
  }

  #maintain(idle: boolean): boolean {
    this.#disk.maintain();
    this.#watchWal();
    if (!this.#settled && this.#now() - this.#openedMs >= SETTLE_MS) {
      this.#settled = true;
      this.#harden(false);
      this.#home.settled();
    }
    let more = false;
    if (this.#expires)
      this.transaction(() => {
        more = this.#expire();
      });
    else if (this.#forgetting) this.transaction(() => {});
    this.#recent.age();
    this.devices.sweep(this.#now());
    more = this.#room.vacuum(idle) || this.#forgetting || more;
    this.storeDevices(false);
    return more;
  }

  #watchWal(): void {
    const before = this.#wal.held;
    this.#wal.look();
    const { held } = this.#wal;
    // A write begins the WAL anew, once it can.
    if (held !== undefined) this.probe();
    if ((held === undefined) === (before === undefined)) return;
    // Meanwhile a try at every commit would read all of the WAL, and sync it.
    if (!this.#disk.tight) this.#db.pragma(`wal_autocheckpoint = ${held === undefined ? WAL_PAGES : 0}`);
    this.#tell("outbox-wal", "wal", held && `the database's WAL can't be emptied: ${held}`);
  }

  /** Marks the stop as clean and closes. Whatever was on lease is leased again after the next start. */
  close(): void {
    try {
      this.storeDevices(true);
    } catch {
      // On a full disk, as one: they are as old as they are.
    }
    try {
      this.#sql.setMeta.run("clean", 1);
    } catch {
      // On a full disk, as one: the next start then checks the database, and is a little slower.
    }
    const stray = this.#home.leavesWal;
    this.#home.leave(this.kept, () => this.#db.close());
    if (stray) setWalAside(this.#path, this.#now());
  }
}

function statements(db: Connection) {
  return {
    begin: db.prepare<[]>("BEGIN IMMEDIATE"),
    commit: db.prepare<[]>("COMMIT"),
    rollback: db.prepare<[]>("ROLLBACK"),
    checkpoint: db.prepare<[], { log: number; checkpointed: number }>("PRAGMA wal_checkpoint(PASSIVE)"),
    getMeta: db.prepare<[string], number>("SELECT value FROM meta WHERE key = ?").pluck(),
    setMeta: db.prepare<[string, number]>(
      "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
    ),
    addChunk: db.prepare<[number, Stream, string, number, number, number, number, Uint8Array]>(
      "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    ),
    blocks: db
      .prepare<[Stream, number, number], Buffer>(
        "SELECT block FROM chunk WHERE stream = ? AND id BETWEEN ? AND ? ORDER BY id",
      )
      .pluck(),
    chunks: db
      .prepare<[Stream, number, number], number>(
        "SELECT id FROM chunk WHERE stream = ? AND id BETWEEN ? AND ? ORDER BY id",
      )
      .pluck(),
  };
}
