/** The outbox on the main thread: the port of `core`, over a worker that does all of the work. */
import { type Transferable, Worker } from "node:worker_threads";
import { messageOf, WeirError } from "../core/errors.ts";
import type { Chunk, Effect, Gap, LeasedBatch, Outbox, OutboxCount, StateEntry } from "../core/ports.ts";
import { checkAlarm } from "./alarms.ts";
import type { OutboxPlan } from "./plan.ts";
import {
  fromWire,
  type Notice,
  type Op,
  type Operations,
  type OutboxInfo,
  packState,
  type Reply,
} from "./protocol.ts";
import type { Purge } from "./store.ts";

/** Promises of calls that are under way. */
interface Waiting<K extends Op> {
  readonly resolve: (value: Operations[K]["result"]) => void;
  readonly reject: (error: WeirError) => void;
}

/** The durable queue; see the port for what each method promises. */
export class WorkerOutbox implements Outbox {
  readonly #workerUrl: URL;
  readonly #plan: OutboxPlan;
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
    stop: new Map(),
  };
  readonly #listeners = new Set<() => void>();
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
  constructor(workerUrl: URL, plan: OutboxPlan) {
    this.#workerUrl = workerUrl;
    this.#plan = plan;
  }

  get epoch(): string {
    if (this.#epoch === undefined) throw new WeirError("outbox.closed", "the outbox has not been started");
    return this.#epoch;
  }

  /** Resolves when the worker has ended: undefined after {@link stop}, else why, and no call is answered any more. */
  get ended(): Promise<WeirError | undefined> {
    return this.#ended.promise;
  }

  /**
   * Opens the database in a worker.
   * @returns this run's epoch
   * @throws WeirError `outbox.corrupt`, `outbox.newer-schema` or `data.unusable` (fatal)
   */
  async start(): Promise<string> {
    const started = Promise.withResolvers<string>();
    const worker = new Worker(this.#workerUrl, {
      workerData: this.#plan,
      name: "outbox",
      // What it makes is short-lived or outside the heap.
      resourceLimits: { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 128 },
    });
    this.#worker = worker;
    let cause: WeirError | undefined;
    worker.on("message", (notice: Notice) => {
      if (notice.type === "replies") for (const reply of notice.replies) this.#settle(reply);
      else if (notice.type === "ready") for (const listener of this.#listeners) listener();
      else if (notice.type === "full") this.#setFull(notice.full);
      else if (notice.type === "failed") cause = fromWire(notice.error);
      else started.resolve(notice.epoch);
    });
    worker.on("error", (error) => {
      cause = new WeirError("outbox.closed", `the outbox's worker failed: ${messageOf(error)}`, {
        cause: error,
      });
    });
    worker.on("exit", (code) => {
      const error = cause ?? new WeirError("outbox.closed", `the outbox's worker ended (${code})`);
      this.#closed = this.#stopped === undefined ? error : new WeirError("outbox.closed");
      started.reject(error);
      for (const calls of Object.values(this.#waiting)) {
        for (const { reject } of calls.values()) reject(error);
        calls.clear();
      }
      this.#ended.resolve(this.#stopped === undefined ? error : undefined);
    });
    this.#epoch = await started.promise;
    this.#closed = undefined;
    return this.#epoch;
  }

  async append(chunk: Chunk, options?: { readonly transfer: boolean }): Promise<void> {
    const state = packState(chunk.state);
    const effects = chunk.effects.map(own);
    const transfer: Transferable[] = [];
    if (options?.transfer !== false) transfer.push(chunk.frame.buffer);
    if (state !== undefined) transfer.push(state.ends.buffer, state.bytes.buffer);
    await this.#call("append", { stream: chunk.stream, frame: chunk.frame.buffer, state, effects }, transfer);
  }

  async resume(): Promise<void> {
    await this.#call("resume", undefined);
  }

  state(plugin: string): Promise<readonly StateEntry[]> {
    return this.#call("state", plugin);
  }

  lease(uplink: string, count: number): Promise<readonly LeasedBatch[]> {
    return this.#call("lease", { uplink, count });
  }

  async ack(uplink: string, ids: readonly number[]): Promise<void> {
    await this.#call("ack", { uplink, ids });
  }

  async release(uplink: string, ids: readonly number[]): Promise<void> {
    await this.#call("release", { uplink, ids });
  }

  async reject(uplink: string, id: number, reason: string): Promise<void> {
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
  info(): Promise<OutboxInfo> {
    return this.#call("info", undefined);
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
    const stopping = this.#call("stop", undefined);
    this.#closed = new WeirError("outbox.closed");
    await stopping;
    await this.#ended.promise;
  }

  #call<K extends Op>(
    op: K,
    args: Operations[K]["args"],
    transfer: readonly Transferable[] = [],
  ): Promise<Operations[K]["result"]> {
    const worker = this.#worker;
    if (this.#closed !== undefined || worker === undefined) return Promise.reject(this.#closed);
    this.#calls += 1;
    const id = this.#calls;
    const { promise, resolve, reject } = Promise.withResolvers<Operations[K]["result"]>();
    worker.postMessage({ id, op, args }, transfer);
    this.#waiting[op].set(id, { resolve, reject });
    return promise;
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
