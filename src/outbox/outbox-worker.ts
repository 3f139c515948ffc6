/**
 * The outbox's worker, from the main thread: it is asked, and replaced under its callers. While there is none, calls wait in order;
 * an end that nobody asked for has it started again, with back-off, until it can.
 */
import type { Transferable, Worker } from "node:worker_threads";
import { messageOf, WeirError } from "../core/errors.ts";
import { HangWatch } from "./hang-watch.ts";
import { startOutboxThread } from "./outbox-thread.ts";
import type { Damage, OutboxPlan, Trouble } from "./plan.ts";
import { fromWire, type Notice, type Op, type Operations, type Reply } from "./protocol.ts";

/** Longest wait between tries to open the database again, in milliseconds. */
const MOST_BACKOFF_MS = 10_000;
/** A database that is found damaged so soon after the one before is not the last one on this disk: the next one waits. */
const DAMAGED_AGAIN_MS = 60_000;
/** Tries to open a database that can't be read, before that counts as damage: about a minute. */
const PATIENT_TRIES = 12;
/** Calls of people and of the metrics page: they are told at once that there is no database, the others wait for it. */
const ASKING: ReadonlySet<Op> = new Set([
  "counts",
  "dropState",
  "info",
  "kept",
  "purge",
  "setting",
  "setSetting",
]);

/** What the outbox tells whoever put it together. */
export interface OutboxHooks {
  /** a worker ended unasked, and why */
  readonly onCrash?: (error: WeirError) => void;
  /** the database can't be written to, or (undefined) can again */
  readonly onTrouble?: (trouble: Trouble | undefined) => void;
  /** the database's WAL can't be emptied, and grows; or (undefined) it can again */
  readonly onWalHeld?: (why: string | undefined) => void;
  /** called before the database is opened again after trouble; what it throws counts as a failed try */
  readonly beforeReopen?: () => void;
}

/** What the worker's owner does about its life. */
export interface WorkerEvents {
  /** batches that uplinks have: a new worker leaves them alone */
  readonly leased: () => Iterable<number>;
  /** a lease may give these uplinks something new, or every one (undefined) */
  readonly ready: (uplinks?: readonly string[]) => void;
  /** a lease has given an uplink all that there is; `ready` comes when there is more */
  readonly dry: (uplink: string) => void;
  readonly full: (full: boolean) => void;
  /** a new worker has begun a new epoch */
  readonly epoch: () => void;
  /** it has ended unasked: chunks that were on their way may not be stored */
  readonly lost: () => void;
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

/** The worker, or the next one. */
export class OutboxWorker {
  readonly #url: URL;
  /** a thread that waits for its plan */
  #first: Worker | undefined;
  #plan: OutboxPlan;
  readonly #hooks: OutboxHooks;
  readonly #events: WorkerEvents;
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
    kept: new Map(),
    dropState: new Map(),
    purge: new Map(),
    counts: new Map(),
    info: new Map(),
    refresh: new Map(),
    learn: new Map(),
    remembered: new Map(),
    tell: new Map(),
    stop: new Map(),
  };
  /** calls that wait for a worker, in order; undefined while there is one */
  #gate: Gated[] | undefined;
  #trouble: Trouble | undefined;
  #walHeld: string | undefined;
  /** there is a worker, and it does not answer */
  #hung: Trouble | undefined;
  /** what a worker found the database damaged by: it is set aside when it is opened next */
  #damage: Damage | undefined;
  /** when that was last, on the monotonic clock */
  #damagedMs = -DAMAGED_AGAIN_MS;
  readonly #watch = new HangWatch({
    waits: () => Object.values(this.#waiting).some(({ size }) => size > 0),
    hangs: (trouble) => {
      this.#hung = trouble;
      this.#setTrouble(trouble);
    },
    goesOn: () => this.#goesOn(),
  });
  #restarts = 0;
  #retry: NodeJS.Timeout | undefined;
  readonly #ended = Promise.withResolvers<WeirError | undefined>();
  #worker: Worker | undefined;
  #epoch: string | undefined;
  #calls = 0;
  /** why no call is taken */
  #closed: WeirError | undefined = new WeirError("outbox.closed", "the outbox has not been started");
  #stopped: Promise<void> | undefined;

  /** As of `WorkerOutbox`. */
  constructor(url: URL, plan: OutboxPlan, hooks: OutboxHooks, events: WorkerEvents, first?: Worker) {
    this.#url = url;
    this.#first = first;
    this.#plan = plan;
    this.#hooks = hooks;
    this.#events = events;
  }

  /** This run's epoch. */
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

  /** Why the WAL can't be emptied, and grows; undefined: it can. */
  get walHeld(): string | undefined {
    return this.#walHeld;
  }

  #setWalHeld(why: string | undefined): void {
    if (this.#walHeld === why) return;
    this.#walHeld = why;
    this.#hooks.onWalHeld?.(why);
  }

  /** Whether there is no database to speak to for now: {@link stop} is all that is left to somebody who can't wait. */
  get away(): boolean {
    return this.#gate !== undefined && this.#trouble !== undefined;
  }

  /** It answers again: the alarm could not be stored before. */
  #goesOn(): void {
    const trouble = this.#hung;
    this.#hung = undefined;
    this.#setTrouble(undefined);
    if (trouble !== undefined && this.#worker !== undefined) this.call("tell", trouble).catch(() => {});
  }

  #setTrouble(trouble: Trouble | undefined): void {
    if (this.#trouble?.message === trouble?.message) return;
    this.#trouble = trouble && { ...trouble, sinceMs: this.#trouble?.sinceMs ?? trouble.sinceMs };
    this.#hooks.onTrouble?.(this.#trouble);
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
    const stopping = this.call("stop", undefined);
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
      this.#epoch = await this.#open({
        trouble: this.#trouble,
        damage: this.#damage,
        isPatient: failures < PATIENT_TRIES,
      });
      this.#damage = undefined;
      // It could not be read for a while: that was no damage.
      if (failures > 0) this.#damagedMs = -DAMAGED_AGAIN_MS;
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
    this.#events.full(false);
    this.#setTrouble(undefined);
    for (const { send } of waiting) send();
    this.#events.epoch();
    this.#events.ready();
  }

  async #open(reopened?: OutboxPlan["reopened"]): Promise<string> {
    const started = Promise.withResolvers<string>();
    // One that could not load its code is gone by now: the next says why.
    const first = (this.#first?.threadId ?? -1) < 0 ? undefined : this.#first;
    const worker = first ?? startOutboxThread(this.#url);
    this.#first = undefined;
    worker.ref();
    worker.postMessage({
      ...this.#plan,
      leased: [...this.#events.leased()],
      ...(reopened && { reopened }),
    } satisfies OutboxPlan);
    this.#worker = worker;
    let cause: WeirError | undefined;
    let running = false;
    worker.on("message", (notice: Notice) => {
      this.#watch.heard();
      if (notice.type === "replies") {
        for (const reply of notice.replies) {
          // At once, not when the caller goes on: a `ready` may be the next message.
          if (reply.op === "lease" && reply.ok && reply.value.dry) this.#events.dry(reply.value.uplink);
          this.#settle(reply);
        }
      } else if (notice.type === "ready") this.#events.ready(notice.uplinks);
      else if (notice.type === "full") this.#events.full(notice.full);
      else if (notice.type === "trouble") this.#setTrouble(notice.trouble);
      else if (notice.type === "wal") this.#setWalHeld(notice.held);
      else if (notice.type === "failed") {
        cause = fromWire(notice.error);
        if (notice.damage !== undefined) this.#damage = notice.damage;
      } else {
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

  /** A worker that ran has ended. Asked to: all is well. Damaged database: the next worker sets it aside. Else it was a crash. */
  #lost(worker: Worker, error: WeirError): void {
    for (const calls of Object.values(this.#waiting)) {
      for (const { reject } of calls.values()) reject(error);
      calls.clear();
    }
    this.#hung = undefined;
    this.#watch.heard();
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    if (this.#stopped !== undefined || error.disposition === "fatal") {
      this.#closed = this.#stopped === undefined ? error : new WeirError("outbox.closed");
      this.#ended.resolve(this.#stopped === undefined ? error : undefined);
      return;
    }
    this.#restarts += 1;
    this.#gate ??= [];
    this.#events.lost();
    if (this.#trouble === undefined) this.#hooks.onCrash?.(error);
    const reopen = (): void => void this.#reopen().catch(() => {});
    if (this.#damage === undefined) {
      reopen();
      return;
    }
    const beforeMs = this.#damagedMs;
    this.#damagedMs = performance.now();
    if (this.#damagedMs - beforeMs >= DAMAGED_AGAIN_MS) reopen();
    else {
      // Where nothing was found as it was looked through, what is found again and again is damage all the same.
      this.#damage = { ...this.#damage, isSure: true };
      this.#setTrouble({ sinceMs: Date.now(), message: error.message });
      this.#retry = setTimeout(reopen, MOST_BACKOFF_MS);
    }
  }

  /** Has everything that waits committed, and ends the worker. */
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
    const stopping = this.call("stop", undefined);
    this.#closed = closed;
    await stopping;
    await this.#ended.promise;
  }

  /**
   * Has the worker do something. Waits for a worker where there is none for now.
   * @throws WeirError what the operation threw; `outbox.closed` after {@link stop}, `outbox.commit` while there is no database
   */
  call<K extends Op>(
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
      this.#watch.asked();
    };
    if (this.#hung !== undefined && ASKING.has(op)) reject(this.#unreachable());
    else if (this.#gate === undefined) send();
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
