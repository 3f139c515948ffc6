/**
 * The worker's side of the outbox. Whatever waits in the mailbox becomes one transaction, then all of it is answered;
 * leased batches are encoded after that, one at a time between transactions, so that commits never wait for them.
 */
import { type MessagePort, receiveMessageOnPort, type Transferable } from "node:worker_threads";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";
import { Frame } from "../core/frame.ts";
import type { LeasedBatch } from "../core/ports.ts";
import { isDamage } from "./blocks.ts";
import type { Batch } from "./lanes.ts";
import { LateCheck } from "./late-check.ts";
import type { BatchEncoder, Damage, OutboxParts, OutboxPlan } from "./plan.ts";
import {
  type Notice,
  type Op,
  type Operations,
  type Reply,
  type Request,
  toWire,
  unpackState,
} from "./protocol.ts";
import { markDamaged } from "./quarantine.ts";
import { Retained } from "./retained.ts";
import { refuseUnread, storageError } from "./schema.ts";
import { Store } from "./store.ts";
import { TroubleWatch } from "./trouble.ts";

/** Calls that share one transaction at most. */
const MOST_CALLS = 512;
const WAL_LOST =
  "the database's WAL was removed while it was in use: what was in it is saved, and the database opened anew";
/** How often the database is tidied up, in milliseconds. */
const MAINTAIN_MS = 1_000;
/**
 * Least time between two notices that there is something to lease, in milliseconds: a lease and its acknowledgement are a
 * transaction each, and what comes in within it shares them.
 */
const READY_MS = 20;
/** Longest timer, in milliseconds: clocks are set, so it is worth looking now and then. */
const LONGEST_WAIT_MS = 60_000;

/** One uplink in the worker. */
interface Consumer {
  readonly name: string;
  readonly encoder: BatchEncoder;
  /** its devices' retained messages; undefined: it gets none */
  readonly retained: Retained | undefined;
  /** its last lease gave less than it asked for, and it has not been told of more since */
  hungry: boolean;
}

/** A lease whose batches are committed and not all encoded. */
interface Job {
  readonly id: number;
  readonly consumer: Consumer;
  readonly mostBytes: number;
  readonly batches: Batch[];
  readonly done: LeasedBatch[];
}

/**
 * Opens the outbox and answers calls on the port until `stop`. Reports `started` or `failed` first.
 */
export function serveOutbox(port: MessagePort, plan: OutboxPlan, parts: OutboxParts): void {
  const notify = (notice: Notice): void => port.postMessage(notice);
  try {
    const store = openStore(plan, parts);
    const consumers = plan.uplinks.map((uplink) => {
      const encoder = parts.encoder(uplink, plan);
      const retained = encoder.devices && new Retained(store.devices, encoder.devices, uplink.retainedAtOnce);
      return { name: uplink.name, encoder, retained, hungry: true };
    });
    new Server(port, store, consumers, parts.available, plan.path).start();
    notify({ type: "started", epoch: store.epoch });
  } catch (thrown) {
    notify({ type: "failed", error: toWire(thrown instanceof WeirError ? thrown : storageError(thrown)) });
    port.close();
  }
}

/** Opens the store; where its first steps find damage, the database is set aside as one that was found damaged while in use. */
function openStore(plan: OutboxPlan, { crc32c }: OutboxParts): Store {
  try {
    return new Store(plan, crc32c, Date.now, () => performance.now());
  } catch (thrown) {
    if (thrown instanceof WeirError || storageError(thrown).code !== "outbox.corrupt") throw thrown;
    refuseUnread(plan);
    markDamaged(plan.path, messageOf(thrown));
    return new Store(plan, crc32c, Date.now, () => performance.now());
  }
}

class Server {
  readonly #port: MessagePort;
  readonly #store: Store;
  readonly #consumers: readonly Consumer[];
  readonly #available: string;
  readonly #jobs: Job[] = [];
  /** an append failed: the ones after it are refused until `resume` */
  #failed = false;
  /** what `Outbox.full` (core/ports.ts) says */
  #full = false;
  readonly #trouble: TroubleWatch;
  readonly #lateCheck: LateCheck;
  #isDamaged = false;
  /** what was said of the WAL last; at first nothing, so that what the worker before has said is over */
  #walHeld: string | undefined = "";
  #carriers = 0;
  #timer: NodeJS.Timeout | undefined;
  #maintenance: NodeJS.Timeout | undefined;
  #idle = false;
  /** when `ready` was said last, on the monotonic clock */
  #readyAt = -READY_MS;
  /** a gap waits, and nobody knows */
  #gaps = false;

  constructor(
    port: MessagePort,
    store: Store,
    consumers: readonly Consumer[],
    available: string,
    path: string,
  ) {
    this.#port = port;
    this.#store = store;
    this.#trouble = new TroubleWatch(store, {
      tell: (trouble) => port.postMessage({ type: "trouble", trouble } satisfies Notice),
      end: (error) => this.#end(error),
    });
    this.#consumers = consumers;
    this.#available = available;
    this.#lateCheck = new LateCheck(
      { path, epoch: store.epoch },
      () => store.next,
      (damage) => this.#damaged(damage),
    );
  }

  start(): void {
    this.#port.on("message", (first: Request) => this.#receive(first));
    this.#maintenance = setInterval(() => this.#maintain(), MAINTAIN_MS);
    if (this.#store.unchecked) this.#lateCheck.run(false);
  }

  #receive(first: Request): void {
    const requests = [first];
    while (requests.length < MOST_CALLS) {
      const more: { message: Request } | undefined = receiveMessageOnPort(this.#port);
      if (more === undefined) break;
      requests.push(more.message);
    }
    this.#idle = false;
    const stop = requests.find(({ op }) => op === "stop");
    this.#reply(this.#commit(requests));
    this.#store.absorb();
    // At once: at full rate, what waits for the collector would be tens of megabytes.
    for (const { op, args } of requests)
      if (op === "append" && !this.#store.keeps(args.frame)) args.frame.transfer(0);
    if (this.#full && this.#store.roomy) this.#setFull(false);
    if (stop !== undefined) void this.#stop(stop.id);
    else this.#announce();
  }

  /** Applies all calls in one transaction; if that fails, each in one of its own, so that each has its own outcome. */
  #commit(requests: readonly Request[]): Reply[] {
    const failed = this.#failed;
    const queued = this.#jobs.length;
    try {
      return this.#store.transaction(() => requests.flatMap((request) => this.#apply(request)));
    } catch (thrown) {
      this.#failed = failed;
      this.#jobs.length = queued;
      if (requests.length > 1) return requests.flatMap((request) => this.#commit([request]));
      const [request] = requests;
      if (request === undefined) return [];
      const error = thrown instanceof WeirError ? thrown : storageError(thrown);
      if (request.op === "append") {
        this.#failed = true;
        if (error.code === "outbox.full") this.#setFull(true);
      }
      this.#notice(error);
      this.#trouble.note(error);
      return [refuse(request, error)];
    }
  }

  #setFull(full: boolean): void {
    if (this.#full === full) return;
    this.#full = full;
    this.#port.postMessage({ type: "full", full } satisfies Notice);
  }

  /** Whatever SQLite is asked may find damage. */
  #notice(thrown: unknown): void {
    const error = thrown instanceof WeirError ? thrown : storageError(thrown);
    if (error.code === "outbox.corrupt") this.#damaged({ why: error.message, isSure: false });
  }

  /** The database can't be relied on any more: this worker ends, and the next one sets the file aside. */
  #damaged(damage: Damage): void {
    if (this.#isDamaged) return;
    this.#isDamaged = true;
    if (damage.isSure) this.#store.markDamaged(damage.why);
    this.#end(new WeirError("outbox.corrupt", damage.why), damage);
  }

  #end(error: WeirError, damage?: Damage): void {
    this.#port.postMessage({ type: "failed", error: toWire(error), damage } satisfies Notice);
    setImmediate(() => process.exit(1));
  }

  /** One call, inside a transaction. No reply: it comes later, from elsewhere. */
  #apply(request: Request): Reply[] {
    const store = this.#store;
    switch (request.op) {
      case "append": {
        const { frame, state, ...rest } = request.args;
        if (this.#failed)
          return [refuse(request, new WeirError("outbox.commit", "an earlier chunk was not stored"))];
        store.append({ ...rest, frame: new Frame(frame), state: unpackState(state) });
        return [done(request, undefined)];
      }
      case "resume":
        this.#failed = false;
        return [done(request, store.ticket)];
      case "state":
        return [done(request, store.kept.state(request.args))];
      case "lease": {
        const { uplink, count, limits } = request.args;
        const consumer = this.#consumers.find(({ name }) => name === uplink);
        if (consumer === undefined) return [done(request, { uplink, batches: [], dry: true })];
        if (limits.anew === true) consumer.retained?.connected();
        const batches = store.lease(uplink, count, limits.stream);
        // A lease that was cut short, as by its bytes, is followed by another one at once.
        consumer.hungry = batches.length === 0 || (batches.length < count && !this.#isDue(consumer));
        const mostBytes = limits.payloadBytes ?? Number.POSITIVE_INFINITY;
        if (this.#jobs.push({ id: request.id, consumer, mostBytes, batches, done: [] }) === 1)
          setImmediate(() => this.#work());
        return [];
      }
      case "ack":
        store.ends.ack(request.args.uplink, request.args.ids);
        return [done(request, undefined)];
      case "release":
        store.release(request.args.ids);
        for (const consumer of this.#consumers) {
          if (consumer.name !== request.args.uplink) continue;
          consumer.retained?.released();
          consumer.hungry = true;
        }
        return [done(request, undefined)];
      case "reject":
        store.ends.reject(request.args.uplink, request.args.id, request.args.reason);
        return [done(request, undefined)];
      case "gaps":
        return [done(request, store.gaps.list(request.args))];
      case "gapDone":
        store.gaps.done(request.args.uplink, request.args.id);
        return [done(request, undefined)];
      case "effects":
        return [done(request, store.effects.list())];
      case "effectsDone":
        store.effects.done(request.args);
        return [done(request, undefined)];
      case "setting":
        return [done(request, store.kept.setting(request.args))];
      case "setSetting":
        store.kept.setSetting(request.args.key, request.args.value);
        return [done(request, undefined)];
      case "kept":
        return [done(request, store.kept.kept())];
      case "dropState":
        return [done(request, store.kept.dropState(request.args))];
      case "purge":
        return [done(request, store.purge(request.args))];
      case "counts":
        return [done(request, store.counts())];
      case "info":
        return [done(request, store.info())];
      case "refresh":
        store.devices.refresh(new Frame(request.args), this.#available, Date.now());
        return [done(request, undefined)];
      case "learn":
        store.devices.learn(request.args);
        return [done(request, undefined)];
      case "remembered":
        return [done(request, store.devices.remembered())];
      case "tell":
        store.putTrouble(request.args);
        return [done(request, undefined)];
      case "stop":
        return [];
    }
  }

  /** Encodes one batch of the oldest lease, and answers that when it was the last. */
  #work(): void {
    const [job] = this.#jobs;
    if (job === undefined) return;
    const batch = job.batches.shift();
    if (batch !== undefined) this.#encode(job, batch);
    if (job.batches.length === 0) {
      this.#jobs.shift();
      this.#finish(job);
    }
    if (this.#jobs.length > 0) setImmediate(() => this.#work());
  }

  #encode({ consumer, mostBytes, done: encoded }: Job, batch: Batch): void {
    const { id, epoch, stream, seq, span } = batch;
    const key = { epoch, stream, seq, span };
    try {
      const frames = this.#store.read(batch);
      const made = consumer.encoder.encode(key, frames, mostBytes, this.#store.tracesOf(batch));
      const { samples, messages } = made;
      if (made.filtered > 0 || made.tooLarge.length > 0)
        this.#store.transaction(() => this.#store.ends.leaveOut(consumer.name, batch, made, mostBytes));
      encoded.push({ id, key, samples, messages });
      for (const { buffer } of frames)
        if (!this.#store.keeps(buffer) && messages.every(({ payload }) => payload.buffer !== buffer))
          buffer.transfer(0);
    } catch (thrown) {
      try {
        if (!isDamage(thrown)) throw thrown;
        this.#store.transaction(() => this.#store.ends.lose(consumer.name, id));
      } catch (failed) {
        if (errnoOf(failed)?.startsWith("SQLITE_") !== true) throw failed;
        // Not now, as on a full disk: the next lease finds it again.
        this.#store.release([id]);
        this.#notice(failed);
        this.#trouble.note(storageError(failed));
      }
    }
  }

  #finish({ id, consumer, done: encoded }: Job): void {
    const derived = consumer.retained?.take(performance.now()) ?? [];
    if (derived.length > 0) {
      const last = encoded.pop();
      if (last !== undefined) encoded.push({ ...last, messages: [...last.messages, ...derived] });
      else {
        // Nothing to carry them: a batch of no samples, which no row stands for. Acknowledging it does nothing.
        this.#carriers += 1;
        const key = { epoch: this.#store.epoch, stream: "data" as const, seq: 0, span: 0 };
        encoded.push({ id: -this.#carriers, key, samples: 0, messages: derived });
      }
    }
    // Nothing of it could be read: whoever asked waits for more all the same.
    if (encoded.length === 0) consumer.hungry = true;
    const payloads = new Set<Transferable>();
    for (const { messages } of encoded) {
      for (const { payload } of messages)
        if (payload.buffer instanceof ArrayBuffer) payloads.add(payload.buffer);
    }
    const value = { uplink: consumer.name, batches: encoded, dry: consumer.hungry };
    this.#reply([{ id, op: "lease", ok: true, value }], [...payloads]);
    this.#announce();
  }

  #reply(replies: readonly Reply[], transfer: Transferable[] = []): void {
    if (replies.length === 0) return;
    const notice: Notice = { type: "replies", replies };
    this.#port.postMessage(notice, transfer);
  }

  /** Says `ready` when a lease would now give something that it did not before, or a gap waits; else sets the clock for it. */
  #announce(): void {
    const now = Date.now();
    const monotonic = performance.now();
    const quiet = this.#readyAt + READY_MS - monotonic;
    this.#gaps = this.#store.gaps.takeFresh() || this.#gaps;
    let wait = this.#gaps && quiet > 0 ? quiet : LONGEST_WAIT_MS;
    const ready: string[] = [];
    if (this.#gaps && quiet <= 0) ready.push(...this.#consumers.map(({ name }) => name));
    for (const consumer of this.#consumers) {
      if (!consumer.hungry) continue;
      const dueIn = Math.min(
        (this.#store.dueAt(consumer.name) ?? Number.POSITIVE_INFINITY) - now,
        (consumer.retained?.dueMs ?? Number.POSITIVE_INFINITY) - monotonic,
      );
      if (dueIn <= 0 && quiet <= 0) {
        ready.push(consumer.name);
        consumer.hungry = false;
      } else wait = Math.min(wait, Math.max(dueIn, quiet));
    }
    if (ready.length > 0) {
      this.#readyAt = monotonic;
      this.#gaps = false;
      this.#port.postMessage({ type: "ready", uplinks: ready } satisfies Notice);
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#announce(), Math.ceil(wait));
  }

  /** Whether a lease would give it something now. */
  #isDue({ name }: Consumer): boolean {
    return (this.#store.dueAt(name) ?? Number.POSITIVE_INFINITY) <= Date.now();
  }

  #maintain(): void {
    const idle = this.#idle;
    this.#idle = true;
    try {
      this.#store.maintain(idle);
      if (this.#store.savedFromWal()) this.#end(new WeirError("outbox.commit", WAL_LOST));
    } catch (thrown) {
      // Tidying up can wait, as while another connection reads or the disk is full; commits report their own errors.
      this.#notice(thrown);
    }
    if (this.#walHeld !== this.#store.walHeld) {
      this.#walHeld = this.#store.walHeld;
      this.#port.postMessage({ type: "wal", held: this.#walHeld } satisfies Notice);
    }
    const touch = this.#store.takeTouch();
    // A connection that found no byte would remove the WAL.
    if (touch === "empty") this.#damaged({ why: "the file was emptied while it was in use", isSure: true });
    else if (touch !== undefined) this.#lateCheck.run(true);
    this.#trouble.look();
    if (this.#full && this.#store.roomy) this.#setFull(false);
    this.#announce();
  }

  /** The last call: leases that are not answered get nothing, their batches come out after the next start. */
  async #stop(id: number): Promise<void> {
    clearTimeout(this.#timer);
    clearInterval(this.#maintenance);
    for (const { id: lease, consumer } of this.#jobs.splice(0)) {
      const value = { uplink: consumer.name, batches: [], dry: true };
      this.#reply([{ id: lease, op: "lease", ok: true, value }]);
    }
    // The last connection that closes leaves no WAL.
    await this.#lateCheck.stop();
    this.#store.close();
    this.#reply([{ id, op: "stop", ok: true, value: undefined }]);
    this.#port.close();
  }
}

function done<K extends Op>(
  { id, op }: Pick<Request<K>, "id" | "op">,
  value: Operations[K]["result"],
): Reply<K> {
  return { id, op, ok: true, value };
}

function refuse(request: Request, error: WeirError): Reply {
  return { id: request.id, op: request.op, ok: false, error: toWire(error) };
}
