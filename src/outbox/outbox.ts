/** The outbox on the main thread: the port of `core`, over a worker that does all of the work. */
import { type Transferable, Worker } from "node:worker_threads";
import type { DeviceNews, RememberedDevice } from "../core/device.ts";
import { messageOf, WeirError } from "../core/errors.ts";
import type { Frame } from "../core/frame.ts";
import type {
  AppendOptions,
  Chunk,
  Effect,
  Gap,
  LeasedBatch,
  LeaseLimits,
  Outbox,
  OutboxCount,
  StateEntry,
} from "../core/ports.ts";
import { checkAlarm } from "./alarms.ts";
import type { OutboxPlan, Trouble } from "./plan.ts";
import { fromWire, type Notice, type Op, type Operations, packState, type Reply } from "./protocol.ts";
import type { Purge, StoreInfo } from "./store.ts";

/** Longest wait between tries to open the database again, in milliseconds. */
const MOST_BACKOFF_MS = 10_000;
/** Calls of people and of the metrics page: they are told at once that there is no database, the others wait for it. */
const ASKING: ReadonlySet<Op> = new Set(["counts", "info", "purge", "setting", "setSetting"]);

/** What the outbox tells whoever put it together. */
export interface OutboxHooks {
  /** a worker ended unasked, and why */
  readonly onCrash?: (error: WeirError) => void;
  /** the database can't be written to, or (undefined) can again */
  readonly onTrouble?: (trouble: Trouble | undefined) => void;
  /** called before the database is opened again after trouble; what it throws counts as a failed try */
  readonly beforeReopen?: () => void;
}

/** A call that waits for a worker. */
interface Gated {
  readonly op: Op;
  readonly send: () => void;
  readonly reject: (error: WeirError) => void;
}

/** Promises of calls that are under way. */
interface Waiting<K extends Op> {
  readonly resolve: (value: Operations[K]["result"]) => void;
  readonly reject: (error: WeirError) => void;
}

/** The durable queue; see the port for what each method promises. */
export class WorkerOutbox implements Outbox {
  readonly #workerUrl: URL;
  #plan: OutboxPlan;
  readonly #hooks: OutboxHooks;
  readonly #waiting: { readonly [K in Op]: Map<number, Waiting<K>> } = {
    append: new Map(),
    resume: new Map(),
    state: new Map(),
    lease: new Map(),
    ack: new Map(),
    release: new Map(),
    reject: new Map(),
    gaps: new Map(),
    gapDone: new Map(),
    effects: new Map(),
    effectsDone: new Map(),
    setting: new Map(),
    setSetting: new Map(),
    purge: new Map(),
    counts: new Map(),
    info: new Map(),
    refresh: new Map(),
    learn: new Map(),
    remembered: new Map(),
    stop: new Map(),
  };
  readonly #listeners = new Set<() => void>();
  readonly #epochListeners = new Set<() => void>();
  /** batches that uplinks have */
  readonly #leased = new Set<number>();
  /** calls that wait for a worker, in order; undefined while there is one */
  #gate: Gated[] | undefined;
  #trouble: Trouble | undefined;
  /** a worker ended with chunks that may not be stored: later ones are refused until {@link resume} */
  #refusing = false;
  #restarts = 0;
  #retry: NodeJS.Timeout | undefined;
  readonly #fullListeners = new Set<(full: boolean) => void>();
  #full = false;
  readonly #ended = Promise.withResolvers<WeirError | undefined>();
  #worker: Worker | undefined;
  #epoch: string | undefined;
  #calls = 0;
  /** why no call is taken */
  #closed: WeirError | undefined = new WeirError("outbox.closed", "the outbox has not been started");
  #stopped: Promise<void> | undefined;

  /** `workerUrl`: the module that calls `serveOutbox` (src/worker.ts). Nothing runs before {@link start}. */
  constructor(workerUrl: URL, plan: OutboxPlan, hooks: OutboxHooks = {}) {
    this.#workerUrl = workerUrl;
    this.#plan = plan;
    this.#hooks = hooks;
  }

  get epoch(): string {
    if (this.#epoch === undefined) throw new WeirError("outbox.closed", "the outbox has not been started");
    return this.#epoch;
  }

  /** Workers started after the first because one had ended unasked. */
  get restarts(): number {
    return this.#restarts;
  }

  /** The part of the time that the worker's loop was busy since its start. */
  get busy(): number {
    return this.#worker?.performance.eventLoopUtilization().utilization ?? 0;
  }

  /** Since when the database can't be written to, and why; undefined while all is well. */
  get trouble(): Trouble | undefined {
    return this.#trouble;
  }

  /** Whether there is no database to speak to for now: {@link stop} is all that is left to somebody who can't wait. */
  get away(): boolean {
    return this.#gate !== undefined && this.#trouble !== undefined;
  }

  #setTrouble(trouble: Trouble | undefined): void {
    if (this.#trouble?.message === trouble?.message) return;
    this.#trouble = trouble && { ...trouble, sinceMs: this.#trouble?.sinceMs ?? trouble.sinceMs };
    this.#hooks.onTrouble?.(this.#trouble);
  }

  /** Calls `listener` when a new worker has begun a new epoch. Returns how to stop it. */
  onEpoch(listener: () => void): () => void {
    this.#epochListeners.add(listener);
    return () => this.#epochListeners.delete(listener);
  }

  /** Resolves when the outbox has ended: undefined after {@link stop}, else why, and no call is answered any more. */
  get ended(): Promise<WeirError | undefined> {
    return this.#ended.promise;
  }

  /**
   * Opens the database in a worker.
   * @returns this run's epoch
   * @throws WeirError `outbox.corrupt`, `outbox.newer-schema` or `data.unusable` (fatal)
   */
  async start(): Promise<string> {
    this.#epoch = await this.#open();
    this.#closed = undefined;
    return this.#epoch;
  }

  /**
   * Takes another plan: what is committed stays, a fresh worker goes on with it in a new epoch. Calls wait meanwhile; uplinks
   * keep what they have on lease.
   * @throws WeirError when the database can't be opened again: then it is tried until it can
   */
  async restart(plan: OutboxPlan): Promise<void> {
    if (this.#closed !== undefined) throw this.#closed;
    if (this.#gate !== undefined) {
      // The worker that is being waited for takes it.
      this.#plan = plan;
      return;
    }
    const before = this.#worker;
    const stopping = this.#call("stop", undefined);
    this.#plan = plan;
    this.#gate ??= [];
    // Its end is asked for: not a crash.
    this.#worker = undefined;
    const ended = before === undefined ? undefined : new Promise((resolve) => before.once("exit", resolve));
    await stopping.catch(() => {});
    await ended;
    await this.#reopen();
  }

  /** A fresh worker takes the place of one that has ended; tried again with back-off until it can. */
  async #reopen(failures = 0): Promise<void> {
    if (this.#stopped !== undefined) return;
    try {
      if (this.#trouble !== undefined) this.#hooks.beforeReopen?.();
      this.#epoch = await this.#open({ trouble: this.#trouble });
    } catch (thrown) {
      if (this.#stopped !== undefined) return;
      this.#setTrouble({ sinceMs: Date.now(), message: messageOf(thrown) });
      const asking = this.#gate?.filter(({ op }) => ASKING.has(op)) ?? [];
      this.#gate = this.#gate?.filter(({ op }) => !ASKING.has(op));
      for (const { reject } of asking) reject(this.#unreachable());
      const waitMs = Math.min(MOST_BACKOFF_MS, 100 * 2 ** Math.min(failures, 12));
      this.#retry = setTimeout(() => void this.#reopen(failures + 1).catch(() => {}), waitMs);
      throw thrown;
    }
    const waiting = this.#gate ?? [];
    this.#gate = undefined;
    this.#setFull(false);
    this.#setTrouble(undefined);
    for (const { send } of waiting) send();
    for (const listener of this.#epochListeners) listener();
    for (const listener of this.#listeners) listener();
  }

  async #open(reopened?: OutboxPlan["reopened"]): Promise<string> {
    const started = Promise.withResolvers<string>();
    const worker = new Worker(this.#workerUrl, {
      workerData: {
        ...this.#plan,
        leased: [...this.#leased],
        ...(reopened && { reopened }),
      } satisfies OutboxPlan,
      name: "outbox",
      // What it makes is short-lived or outside the heap.
      resourceLimits: { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 128 },
    });
    this.#worker = worker;
    let cause: WeirError | undefined;
    let running = false;
    worker.on("message", (notice: Notice) => {
      if (notice.type === "replies") for (const reply of notice.replies) this.#settle(reply);
      else if (notice.type === "ready") for (const listener of this.#listeners) listener();
      else if (notice.type === "full") this.#setFull(notice.full);
      else if (notice.type === "trouble") this.#setTrouble(notice.trouble);
      else if (notice.type === "failed") cause = fromWire(notice.error);
      else {
        running = true;
        started.resolve(notice.epoch);
      }
    });
    worker.on("error", (error) => {
      cause = new WeirError("outbox.closed", `the outbox's worker failed: ${messageOf(error)}`, {
        cause: error,
      });
    });
    worker.on("exit", (code) => {
      const error = cause ?? new WeirError("outbox.closed", `the outbox's worker ended (${code})`);
      started.reject(error);
      if (running) this.#lost(worker, error);
      else this.#worker = undefined;
    });
    return await started.promise;
  }

  /** A worker that ran has ended. Asked to: all is well. Damaged database: the next start sets it aside. Else it was a crash. */
  #lost(worker: Worker, error: WeirError): void {
    for (const calls of Object.values(this.#waiting)) {
      for (const { reject } of calls.values()) reject(error);
      calls.clear();
    }
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    if (this.#stopped !== undefined || error.disposition === "fatal") {
      this.#closed = this.#stopped === undefined ? error : new WeirError("outbox.closed");
      this.#ended.resolve(this.#stopped === undefined ? error : undefined);
      return;
    }
    this.#restarts += 1;
    this.#gate ??= [];
    this.#refusing = true;
    if (this.#trouble === undefined) this.#hooks.onCrash?.(error);
    void this.#reopen().catch(() => {});
  }

  async append(chunk: Chunk, options?: AppendOptions): Promise<void> {
    if (this.#refusing) throw new WeirError("outbox.commit", "an earlier chunk may not be stored");
    const state = packState(chunk.state);
    const effects = chunk.effects.map(own);
    const transfer: Transferable[] = [];
    if (options?.transfer !== false) transfer.push(chunk.frame.buffer);
    if (state !== undefined) transfer.push(state.ends.buffer, state.bytes.buffer);
    const { stream, frame, traces } = chunk;
    const ticket = options?.ticket;
    await this.#call("append", { stream, frame: frame.buffer, state, effects, traces, ticket }, transfer);
  }

  resume(): Promise<number> {
    this.#refusing = false;
    return this.#call("resume", undefined);
  }

  state(plugin: string): Promise<readonly StateEntry[]> {
    return this.#call("state", plugin);
  }

  async lease(uplink: string, count: number, limits: LeaseLimits = {}): Promise<readonly LeasedBatch[]> {
    const batches = await this.#call("lease", { uplink, count, limits });
    for (const { id } of batches) if (id > 0) this.#leased.add(id);
    return batches;
  }

  async ack(uplink: string, ids: readonly number[]): Promise<void> {
    for (const id of ids) this.#leased.delete(id);
    await this.#call("ack", { uplink, ids });
  }

  async release(uplink: string, ids: readonly number[]): Promise<void> {
    for (const id of ids) this.#leased.delete(id);
    await this.#call("release", { uplink, ids });
  }

  async reject(uplink: string, id: number, reason: string): Promise<void> {
    this.#leased.delete(id);
    await this.#call("reject", { uplink, id, reason });
  }

  gaps(uplink: string): Promise<readonly Gap[]> {
    return this.#call("gaps", uplink);
  }

  async gapDone(uplink: string, id: number): Promise<void> {
    await this.#call("gapDone", { uplink, id });
  }

  effects(): Promise<readonly { readonly id: number; readonly effect: Effect }[]> {
    return this.#call("effects", undefined);
  }

  async effectsDone(ids: readonly number[]): Promise<void> {
    await this.#call("effectsDone", ids);
  }

  /** What an operator decided at run time, by key; undefined when nothing was. */
  setting(key: string): Promise<string | undefined> {
    return this.#call("setting", key);
  }

  /** Keeps a decision for later runs; undefined forgets it. Resolves when it is committed. */
  async setSetting(key: string, value: string | undefined): Promise<void> {
    await this.#call("setSetting", { key, value });
  }

  /** Drops what is stored and not on lease, by uplink, stream and time; gives how many samples went, each at each uplink. */
  async purge(what: Purge): Promise<number> {
    for (let all = 0; ; ) {
      const { dropped, more } = await this.#call("purge", what);
      all += dropped;
      if (!more) return all;
    }
  }

  counts(): Promise<readonly OutboxCount[]> {
    return this.#call("counts", undefined);
  }

  /** Size, earlier epochs, and counts beside the ledger. */
  info(): Promise<StoreInfo> {
    return this.#call("info", undefined);
  }

  /** Takes what a broker had kept into the latest values, and stores no samples. The frame's buffer is given away. */
  async refresh(frame: Frame): Promise<void> {
    await this.#call("refresh", frame.buffer, [frame.buffer]);
  }

  /** Takes in what was learnt of devices, for their `meta`. */
  async learn(news: readonly DeviceNews[]): Promise<void> {
    await this.#call("learn", news);
  }

  /** Every device that is known, also from earlier runs. */
  remembered(): Promise<readonly RememberedDevice[]> {
    return this.#call("remembered", undefined);
  }

  get full(): boolean {
    return this.#full;
  }

  onFull(listener: (full: boolean) => void): () => void {
    this.#fullListeners.add(listener);
    return () => this.#fullListeners.delete(listener);
  }

  #setFull(full: boolean): void {
    this.#full = full;
    for (const listener of this.#fullListeners) listener(full);
  }

  onReady(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    if (this.#closed !== undefined) return;
    clearTimeout(this.#retry);
    const closed = new WeirError("outbox.closed");
    if (this.#gate !== undefined) {
      // No worker, or a new one that nobody waits for: nothing is open that would have to be closed in order.
      this.#closed = closed;
      for (const { send } of this.#gate.splice(0)) send();
      this.#gate = undefined;
      await this.#worker?.terminate();
      this.#ended.resolve(undefined);
      return;
    }
    const stopping = this.#call("stop", undefined);
    this.#closed = closed;
    await stopping;
    await this.#ended.promise;
  }

  #call<K extends Op>(
    op: K,
    args: Operations[K]["args"],
    transfer: readonly Transferable[] = [],
  ): Promise<Operations[K]["result"]> {
    if (this.#closed !== undefined) return Promise.reject(this.#closed);
    const { promise, resolve, reject } = Promise.withResolvers<Operations[K]["result"]>();
    const send = (): void => {
      const worker = this.#worker;
      if (this.#closed !== undefined || worker === undefined) {
        reject(this.#closed ?? new WeirError("outbox.closed"));
        return;
      }
      this.#calls += 1;
      worker.postMessage({ id: this.#calls, op, args }, transfer);
      this.#waiting[op].set(this.#calls, { resolve, reject });
    };
    if (this.#gate === undefined) send();
    else if (this.away && ASKING.has(op)) reject(this.#unreachable());
    else this.#gate.push({ op, send, reject });
    return promise;
  }

  #unreachable(): WeirError {
    return new WeirError("outbox.commit", `there is no database for now: ${this.#trouble?.message}`);
  }

  #settle<K extends Op>(reply: Reply<K>): void {
    const calls = this.#waiting[reply.op];
    const call = calls.get(reply.id);
    calls.delete(reply.id);
    if (reply.ok) call?.resolve(reply.value);
    else call?.reject(fromWire(reply.error));
  }
}

/** An effect with bytes of its own: a view would take its whole buffer along. Refuses alarms that can't become samples. */
function own(effect: Effect): Effect {
  if (effect.type === "publish") return { ...effect, payload: effect.payload.slice() };
  checkAlarm(effect);
  return effect;
}
