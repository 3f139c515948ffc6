/**
 * One running instance of a plugin, from the agent's side: its calls and their deadlines. What it answers passes answer-guard.ts.
 * Calls are answered in order. The first failure ends the instance: it, and every call after it, fails.
 */

import { messageOf } from "../core/errors.ts";
import { Frame, type SliceHash } from "../core/frame.ts";
import { freeNow } from "../core/free.ts";
import type { Messages } from "../core/messages.ts";
import type { StateEntry } from "../core/ports.ts";
import { AnswerGuard } from "./answer-guard.ts";
import type { Slot } from "./host.ts";
import type { LanePlace } from "./lane-of.ts";
import type { PluginLimits } from "./limits.ts";
import type { Vetted } from "./vet.ts";
import {
  decodeResult,
  encodeHead,
  encodeOpen,
  type InstanceMemory,
  LOG_LEVELS,
  type LogLevel,
  MessageReader,
  MOST_EFFECT_BYTES,
  MOST_TEXT,
  type OpenRequest,
  type ResultFields,
  Wire,
  type WireMessage,
} from "./wire.ts";
import { brokenWire, FieldReader, FieldWriter } from "./wire-fields.ts";

/** JS heap of a worker: generated code, and frames as they pass through. */
const HEAP_MIB = 64;
/** What an instance is made from. */
export interface InstanceSpec {
  readonly vetted: Pick<Vetted, "dir" | "exports" | "files" | "memories">;
  readonly limits: PluginLimits;
  readonly grants: OpenRequest["grants"];
  /** set where it keeps state for devices alone: the lane that this instance is */
  readonly lane?: LanePlace;
  /** JSON */
  readonly config: string;
  /** how long loading and `configure` may take together */
  readonly startMs: number;
  readonly onLog: (level: LogLevel, text: string) => void;
  /** for the check of what it returns; by default one in JavaScript */
  readonly hashSlices?: SliceHash | undefined;
}

/** Why a call failed. */
export interface InstanceFailure {
  readonly ok: false;
  /** `reject`: the component answered `err` */
  readonly disposition: "reject" | "retry";
  readonly reason: string;
  /** it was this plugin's doing, as far as can be told */
  readonly blame: boolean;
  /** it did not answer in time, or the process it was in ended: on another occasion it might not fail */
  readonly mayPass?: boolean;
}

/** What a call gave. */
export interface InstanceResult extends ResultFields {
  readonly ok: true;
  readonly frame: Frame;
}

interface Call {
  readonly id: number;
  readonly messages: number;
  readonly sentMs: number;
  readonly limitMs: number;
  readonly resolve: (reply: InstanceResult | InstanceFailure) => void;
}

const NOTHING = new Uint8Array(0);

/** What the chain calls: one instance, or a plugin's lanes as one. */
export type Callable = Pick<
  Instance,
  | "failure"
  | "retired"
  | "busyMs"
  | "stateBytes"
  | "memory"
  | "prepare"
  | "open"
  | "transform"
  | "decode"
  | "tick"
  | "stop"
>;

/** An instance; {@link Instance.prepare} comes first, then {@link Instance.open}. */
export class Instance {
  readonly #slot: Slot;
  readonly #spec: InstanceSpec;
  readonly #reader: MessageReader;
  /** unanswered, oldest first */
  readonly #calls: Call[] = [];
  readonly #guard: AnswerGuard;
  #nextId = 1;
  #headSinceMs = 0;
  #busyMs = 0;
  #timer: NodeJS.Timeout | undefined;
  readonly #prepared = Promise.withResolvers<void>();
  #failure: InstanceFailure | undefined;
  #gone: Promise<void> | undefined;
  #memory: InstanceMemory = { wasmBytes: 0, heapBytes: 0 };

  constructor(slot: Slot, spec: InstanceSpec) {
    this.#slot = slot;
    this.#spec = spec;
    this.#guard = new AnswerGuard(spec);
    this.#reader = new MessageReader({
      metaBytes:
        2 * spec.limits.stateBytes + 2 * MOST_EFFECT_BYTES + 1024 * spec.limits.effectsPerBatch + 1024 * 1024,
      blockBytes: spec.limits.outputBytes,
    });
  }

  /** Why it no longer answers; undefined while it does. */
  get failure(): InstanceFailure | undefined {
    return this.#failure;
  }

  /** Time that it had a call to answer, in milliseconds. */
  get busyMs(): number {
    return this.#busyMs;
  }

  /** Bytes of state that it keeps. */
  get stateBytes(): number {
    return this.#guard.stateBytes;
  }

  /** What it said it holds, when it was last called; nothing once it has ended. */
  get memory(): InstanceMemory {
    return this.#failure === undefined ? this.#memory : { wasmBytes: 0, heapBytes: 0 };
  }

  /** Whether its host starts nothing more: it should move to another. */
  get retired(): boolean {
    return this.#slot.retired;
  }

  /**
   * Starts the thread, which compiles the component and then waits for {@link open}. Resolves when it waits, or has
   * failed, at the latest after the time a start may take.
   */
  async prepare(): Promise<void> {
    const { pipe } = this.#slot;
    const { vetted, startMs } = this.#spec;
    pipe.on("data", (chunk: unknown) => this.#receive(chunk));
    pipe.once("close", () => this.#close());
    const names = vetted.files.map(({ name }) => name);
    this.#slot.start({ dir: vetted.dir, exports: vetted.exports, files: names }, HEAP_MIB);
    const timer = setTimeout(this.#prepared.resolve, startMs);
    await this.#prepared.promise;
    clearTimeout(timer);
  }

  /** Instantiates the component, gives it its configuration and committed state. After {@link prepare}. */
  async open(
    state: readonly StateEntry[],
    limitMs: number = this.#spec.startMs,
  ): Promise<InstanceResult | InstanceFailure> {
    const { config, grants, lane, limits } = this.#spec;
    this.#guard.give(state);
    return this.#ask(
      Wire.open,
      encodeOpen({ config, grants, limits, ...(lane === undefined ? {} : { lane }) }, state),
      [],
      0,
      limitMs,
    );
  }

  /** Runs `transform`. The frame's buffer must stay unchanged until the answer. */
  transform(frame: Frame): Promise<InstanceResult | InstanceFailure> {
    return this.#ask(Wire.transform, NOTHING, [new Uint8Array(frame.buffer)]);
  }

  /** Runs `decode`. The columns must stay unchanged until the answer. */
  decode(messages: Messages): Promise<InstanceResult | InstanceFailure> {
    const { devices, channels, topics } = messages;
    const count = messages.device.length;
    const fields = new FieldWriter().u32(count).u32(devices.length).u32(channels.length).u32(topics.length);
    for (const name of [...devices, ...channels, ...topics]) fields.text(name);
    const columns = [
      messages.time,
      messages.device,
      messages.channel,
      messages.topic,
      messages.end,
      messages.payload,
    ];
    const parts = columns.map(
      (column) => new Uint8Array(column.buffer, column.byteOffset, column.byteLength),
    );
    return this.#ask(Wire.decode, fields.done(), parts, count);
  }

  /** Runs `tick`. */
  tick(nowUs: number): Promise<InstanceResult | InstanceFailure> {
    return this.#ask(Wire.tick, new FieldWriter().f64(nowUs).done(), []);
  }

  /** Ends it; calls that are still unanswered fail. Resolves when the thread is gone. */
  async stop(reason: string): Promise<void> {
    this.#fail({ ok: false, disposition: "retry", reason, blame: false });
    await this.#gone;
  }

  #ask(
    type: number,
    meta: Uint8Array,
    block: readonly Uint8Array[],
    messages = 0,
    limitMs = this.#spec.limits.timeMs,
  ): Promise<InstanceResult | InstanceFailure> {
    if (this.#failure !== undefined) return Promise.resolve(this.#failure);
    const { pipe } = this.#slot;
    const id = this.#nextId++;
    const size = block.reduce((sum, part) => sum + part.byteLength, 0);
    const head = encodeHead(type, id, meta, size);
    if (block.length === 0) pipe.write(head);
    else {
      pipe.cork();
      pipe.write(head);
      for (const part of block) pipe.write(part);
      pipe.uncork();
    }
    const sentMs = performance.now();
    return new Promise((resolve) => {
      this.#calls.push({ id, messages, sentMs, limitMs, resolve });
      if (this.#calls.length === 1) {
        this.#headSinceMs = sentMs;
        this.#timer ??= setTimeout(() => this.#checkDeadline(), limitMs);
      }
    });
  }

  /** The timer isn't moved with every call: it looks when it fires, and sets itself for what is left. */
  #checkDeadline(): void {
    this.#timer = undefined;
    const [head] = this.#calls;
    if (head === undefined) return;
    const left = this.#headSinceMs + head.limitMs - performance.now();
    if (left > 0) {
      this.#timer = setTimeout(() => this.#checkDeadline(), Math.max(1, left));
      return;
    }
    // This loop itself may have stood still while the answer was there: it is read first.
    setImmediate(() => {
      if (this.#calls[0] === head) this.#failNow(`took longer than ${head.limitMs} ms`, true);
      else if (this.#timer === undefined) this.#checkDeadline();
    });
  }

  #receive(chunk: unknown): void {
    if (this.#failure !== undefined || !(chunk instanceof Uint8Array)) return;
    try {
      this.#reader.push(chunk, (message) => this.#take(message));
      // The reader has copied it. What a stream reads has a buffer of its own; waiting for the collector it would be megabytes.
      freeNow(chunk);
    } catch (thrown) {
      this.#failNow(messageOf(thrown));
    }
  }

  #take(message: WireMessage): void {
    if (this.#failure !== undefined) return;
    if (message.type === Wire.log) {
      this.#log(message);
      return;
    }
    if (message.type === Wire.memory) {
      this.#remember(message);
      return;
    }
    if (message.type === Wire.ready && message.id === 0) {
      this.#prepared.resolve();
      return;
    }
    const [call] = this.#calls;
    if (call === undefined || call.id !== message.id) throw brokenWire("an answer to nothing that was asked");
    if (message.type === Wire.failure) {
      const fields = new FieldReader(message.meta);
      const disposition = fields.u8() === 0 ? "reject" : "retry";
      const reason = fields.text(4 * MOST_TEXT);
      this.#fail({ ok: false, disposition, reason, blame: true });
      return;
    }
    const opens = call.id === 1;
    if (message.type !== (opens ? Wire.ready : Wire.result)) throw brokenWire("an answer of another kind");
    const result = decodeResult(message.meta);
    this.#guard.check(result, call.messages);
    const frame = opens ? Frame.empty() : Frame.fromRaw(message.block, this.#spec.hashSlices);
    if (frame.rows > this.#spec.limits.outputRows) throw brokenWire("more rows than its limit");
    this.#calls.shift();
    const nowMs = performance.now();
    this.#busyMs += nowMs - this.#headSinceMs;
    this.#headSinceMs = nowMs;
    if (opens) {
      // Set for the start's longer limit.
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    if (this.#calls.length > 0)
      this.#timer ??= setTimeout(() => this.#checkDeadline(), this.#calls[0]?.limitMs);
    call.resolve({ ok: true, frame, ...result });
  }

  #log({ meta }: WireMessage): void {
    this.#guard.countLine();
    const fields = new FieldReader(meta);
    const level = LOG_LEVELS[fields.u8()];
    if (level === undefined) throw brokenWire("an unknown log level");
    this.#spec.onLog(level, fields.text(4 * MOST_TEXT));
  }

  #remember({ meta }: WireMessage): void {
    this.#guard.countLine();
    const fields = new FieldReader(meta);
    const memory = { wasmBytes: fields.f64(), heapBytes: fields.f64() };
    for (const bytes of Object.values(memory))
      if (!Number.isSafeInteger(bytes) || bytes < 0) throw brokenWire("a memory that can't be");
    this.#memory = memory;
  }

  /** The other end is closed: the thread or its process has ended. */
  #close(): void {
    if (this.#failure !== undefined) return;
    const blame = this.#calls.length > 0 && !this.#slot.killed;
    // The host's own account of the end travels on another socket and may come a little later.
    setImmediate(() => {
      const reason = this.#slot.lastWords() ?? "its thread ended";
      this.#fail({ ok: false, disposition: "retry", reason, blame, mayPass: true });
    });
  }

  #failNow(reason: string, mayPass = false): void {
    this.#fail({ ok: false, disposition: "retry", reason, blame: true, mayPass });
  }

  #fail(failure: InstanceFailure): void {
    if (this.#failure !== undefined) return;
    // Later calls fail with it, but are not its doing.
    this.#failure = { ...failure, disposition: "retry", blame: false };
    clearTimeout(this.#timer);
    this.#prepared.resolve();
    // Its end first: the thread may wait in a read, which nothing else interrupts.
    this.#slot.pipe.destroy();
    this.#gone = this.#slot.stop();
    const [head, ...others] = this.#calls.splice(0);
    head?.resolve(failure);
    for (const call of others) call.resolve(this.#failure);
  }
}
