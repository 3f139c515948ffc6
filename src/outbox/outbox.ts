/** The outbox on the main thread: the port of `core`, over a worker that does all of the work (outbox-worker.ts). */
import type { Transferable, Worker } from "node:worker_threads";
import type { DeviceNews, RememberedDevice } from "../core/device.ts";
import { WeirError } from "../core/errors.ts";
import type { Frame } from "../core/frame.ts";
import type {
  AppendOptions,
  Chunk,
  Effect,
  Gap,
  KeptRows,
  LeasedBatch,
  LeaseLimits,
  Outbox,
  OutboxCount,
  StateEntry,
} from "../core/ports.ts";
import { checkAlarm } from "./alarms.ts";
import { type OutboxHooks, OutboxWorker, type WorkerEvents } from "./outbox-worker.ts";
import type { OutboxPlan, Trouble } from "./plan.ts";
import { packState } from "./protocol.ts";
import type { Purge, StoreInfo } from "./store.ts";

/** The durable queue; see the port for what each method promises. */
export class WorkerOutbox implements Outbox {
  readonly #worker: OutboxWorker;
  readonly #listeners = new Set<(uplinks?: readonly string[]) => void>();
  /** uplinks whose last lease gave all that there was */
  readonly #dry = new Set<string>();
  readonly #epochListeners = new Set<() => void>();
  readonly #fullListeners = new Set<(full: boolean) => void>();
  #full = false;
  /** batches that uplinks have */
  readonly #leased = new Set<number>();
  /** a worker ended with chunks that may not be stored: later ones are refused until {@link resume} */
  #refusing = false;

  /**
   * `workerUrl`: the module that calls `serveOutbox` (src/worker.ts). Nothing runs before {@link start}, but for `first`: its first
   * thread, where that has been started already (outbox-thread.ts).
   */
  constructor(workerUrl: URL, plan: OutboxPlan, hooks: OutboxHooks = {}, first?: Worker) {
    const events: WorkerEvents = {
      leased: () => this.#leased,
      ready: (uplinks) => {
        if (uplinks === undefined) this.#dry.clear();
        else for (const uplink of uplinks) this.#dry.delete(uplink);
        for (const listener of this.#listeners) listener(uplinks);
      },
      dry: (uplink) => this.#dry.add(uplink),
      full: (full) => this.#setFull(full),
      epoch: () => {
        for (const listener of this.#epochListeners) listener();
      },
      lost: () => {
        this.#refusing = true;
      },
    };
    this.#worker = new OutboxWorker(workerUrl, plan, hooks, events, first);
  }

  get epoch(): string {
    return this.#worker.epoch;
  }

  /** See {@link OutboxWorker.restarts}. */
  get restarts(): number {
    return this.#worker.restarts;
  }

  /** See {@link OutboxWorker.busy}. */
  get busy(): number {
    return this.#worker.busy;
  }

  /** See {@link OutboxWorker.trouble}. */
  get trouble(): Trouble | undefined {
    return this.#worker.trouble;
  }

  /** See {@link OutboxWorker.walHeld}. */
  get walHeld(): string | undefined {
    return this.#worker.walHeld;
  }

  /** See {@link OutboxWorker.away}. */
  get away(): boolean {
    return this.#worker.away;
  }

  /** See {@link OutboxWorker.ended}. */
  get ended(): Promise<WeirError | undefined> {
    return this.#worker.ended;
  }

  /** Calls `listener` when a new worker has begun a new epoch. Returns how to stop it. */
  onEpoch(listener: () => void): () => void {
    this.#epochListeners.add(listener);
    return () => this.#epochListeners.delete(listener);
  }

  /** See {@link OutboxWorker.start}. */
  start(): Promise<string> {
    return this.#worker.start();
  }

  /** See {@link OutboxWorker.restart}. */
  restart(plan: OutboxPlan): Promise<void> {
    return this.#worker.restart(plan);
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
    await this.#worker.call(
      "append",
      { stream, frame: frame.buffer, state, effects, traces, ticket },
      transfer,
    );
  }

  resume(): Promise<number> {
    this.#refusing = false;
    return this.#worker.call("resume", undefined);
  }

  state(plugin: string): Promise<readonly StateEntry[]> {
    return this.#worker.call("state", plugin);
  }

  async lease(uplink: string, count: number, limits: LeaseLimits = {}): Promise<readonly LeasedBatch[]> {
    const { batches } = await this.#worker.call("lease", { uplink, count, limits });
    for (const { id } of batches) if (id > 0) this.#leased.add(id);
    return batches;
  }

  async ack(uplink: string, ids: readonly number[]): Promise<void> {
    for (const id of ids) this.#leased.delete(id);
    await this.#worker.call("ack", { uplink, ids });
  }

  async release(uplink: string, ids: readonly number[]): Promise<void> {
    for (const id of ids) this.#leased.delete(id);
    await this.#worker.call("release", { uplink, ids });
  }

  async reject(uplink: string, id: number, reason: string): Promise<void> {
    this.#leased.delete(id);
    await this.#worker.call("reject", { uplink, id, reason });
  }

  gaps(uplink: string): Promise<readonly Gap[]> {
    return this.#worker.call("gaps", uplink);
  }

  async gapDone(uplink: string, id: number): Promise<void> {
    await this.#worker.call("gapDone", { uplink, id });
  }

  effects(): Promise<readonly { readonly id: number; readonly effect: Effect }[]> {
    return this.#worker.call("effects", undefined);
  }

  async effectsDone(ids: readonly number[]): Promise<void> {
    await this.#worker.call("effectsDone", ids);
  }

  /** What an operator decided at run time, by key; undefined when nothing was. */
  setting(key: string): Promise<string | undefined> {
    return this.#worker.call("setting", key);
  }

  /** Keeps a decision for later runs; undefined forgets it. Resolves when it is committed. */
  async setSetting(key: string, value: string | undefined): Promise<void> {
    await this.#worker.call("setSetting", { key, value });
  }

  /** What is kept of each plugin. */
  kept(): Promise<readonly KeptRows[]> {
    return this.#worker.call("kept", undefined);
  }

  /** Deletes a plugin's state. */
  async dropState(plugin: string): Promise<void> {
    while (await this.#worker.call("dropState", plugin));
  }

  /** Drops what is stored and not on lease, by uplink, stream and time; gives how many samples went, each at each uplink. */
  async purge(what: Purge): Promise<number> {
    for (let all = 0; ; ) {
      const { dropped, more } = await this.#worker.call("purge", what);
      all += dropped;
      if (!more) return all;
    }
  }

  counts(): Promise<readonly OutboxCount[]> {
    return this.#worker.call("counts", undefined);
  }

  /** Size, earlier epochs, and counts beside the ledger. */
  info(): Promise<StoreInfo> {
    return this.#worker.call("info", undefined);
  }

  /** Takes what a broker had kept into the latest values, and stores no samples. The frame's buffer is given away. */
  async refresh(frame: Frame): Promise<void> {
    await this.#worker.call("refresh", frame.buffer, [frame.buffer]);
  }

  /** Takes in what was learnt of devices, for their `meta`. */
  async learn(news: readonly DeviceNews[]): Promise<void> {
    await this.#worker.call("learn", news);
  }

  /** Every device that is known, also from earlier runs. */
  remembered(): Promise<readonly RememberedDevice[]> {
    return this.#worker.call("remembered", undefined);
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

  isDry(uplink: string): boolean {
    return this.#dry.has(uplink);
  }

  onReady(listener: (uplinks?: readonly string[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  stop(): Promise<void> {
    return this.#worker.stop();
  }
}

/** An effect with bytes of its own: a view would take its whole buffer along. Refuses alarms that can't become samples. */
function own(effect: Effect): Effect {
  if (effect.type === "publish") return { ...effect, payload: effect.payload.slice() };
  checkAlarm(effect);
  return effect;
}
