/**
 * The first of the two loops: from sources to the outbox.
 *
 *     message ─► decode ─► chunk (2,048 samples or 5 ms) ─► chain of plugins ─► commit ─► settle (PUBACK) ─► effects
 *
 * Chunks go through strictly in order, several at a time. An input is kept until its output is committed; after a failure
 * everything uncommitted is discarded, the chain restarts from committed state, and the kept inputs run again one at
 * a time.
 */
import type { GatewayClock } from "../core/clock.ts";
import { messageOf, WeirError } from "../core/errors.ts";
import { type Frame, Status } from "../core/frame.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import type { Histogram } from "../core/histogram.ts";
import type { Ledger, StageCount } from "../core/ledger.ts";
import { type Messages, MessagesBuilder } from "../core/messages.ts";
import type {
  ChainFailure,
  ChainOutput,
  ChainResult,
  DeviceMessage,
  Effect,
  Intake,
  MessageDecoder,
  Outbox,
  PluginChain,
  Stream,
} from "../core/ports.ts";
import type { RejectedLog } from "./rejected.ts";

/** Sizes and times of the loop; all have defaults in the configuration. */
export interface IngestOptions {
  /** samples that seal a chunk */
  readonly chunkSamples: number;
  /** milliseconds after its first message that seal a chunk */
  readonly lingerMs: number;
  /** bytes of inputs held before QoS 0 and host frames are dropped */
  readonly queueBytes: number;
}

/** What the loop is made of. */
export interface IngestParts {
  readonly decoder: MessageDecoder;
  readonly chain: PluginChain;
  readonly outbox: Outbox;
  readonly ledger: Ledger;
  readonly rejected: RejectedLog;
  /** sources take the wall clock's time: here it is put right, and flagged, while that is not to be relied on */
  readonly clock: Pick<GatewayClock, "valid" | "offsetUs" | "nowUs">;
  readonly log: (level: "info" | "warn" | "error", message: string) => void;
  /** called when a commit carried publish effects */
  readonly onEffects: () => void;
  readonly options: IngestOptions;
}

/** Inputs that may be in the chain at a time; as many again may wait for their commit. */
const IN_FLIGHT = 8;
/** A chunk is sealed when its raw messages reach this many bytes … */
const CHUNK_BYTES = 1024 * 1024;
/** … or its frame these: one more message of the longest names still fits a frame. */
const FRAME_BYTES = 2 * 1024 * 1024;
/** Of so many messages of a chunk, one is measured for all. */
const MEASURE_EVERY = 16;
/**
 * While a chunk is under way, the next may grow to so many times its size: it would wait anyway, and half as many chunks cost a
 * fifth less CPU at a steady 165 k messages/s.
 */
const GROWTH = 2;
/** How often due plugin timers are looked for, in milliseconds. */
const TICK_MS = 50;
/** Longest wait between tries of a commit that fails, in milliseconds. */
const MOST_BACKOFF_MS = 5_000;

/** An input, kept until its output is committed or it is set aside. */
interface Pending {
  readonly stream: Stream;
  readonly source: string;
  readonly frame: Frame;
  readonly messages: ReadonlyMap<string, Messages>;
  /** messages by decoder plugin, in the order of their columns */
  readonly byPlugin: ReadonlyMap<string, readonly DeviceMessage[]>;
  /** messages that are to be settled; nobody waits for QoS 0 */
  readonly waiting: readonly DeviceMessage[];
  /** of all messages, those that turned out not to be valid */
  readonly refused: Set<DeviceMessage>;
  readonly bytes: number;
  readonly without: Set<string>;
  readonly failures: Map<string, number>;
  /** the rows came from a timer: there is no input to run again */
  readonly tick: (() => Promise<ChainResult> | undefined) | undefined;
}

/** The ingest loop. */
export class Ingest implements Intake {
  readonly #parts: IngestParts;
  #options: IngestOptions;
  readonly #source: StageCount;
  readonly #decode: StageCount;
  readonly #ackSeconds: Histogram;
  readonly #chainSeconds: Histogram;
  readonly #commitSeconds: Histogram;
  readonly #queue: Pending[] = [];
  readonly #inFlight: {
    readonly pending: Pending;
    readonly result: Promise<ChainResult>;
    readonly sentMs: number;
  }[] = [];
  /** commits that were asked for and have not answered, in order */
  readonly #commits = new Set<Promise<boolean>>();
  readonly #idle: (() => void)[] = [];
  /** inputs whose commit failed, in order */
  readonly #retry: Pending[] = [];
  #commitError: unknown;
  #builder = new FrameBuilder(4096);
  #waiting: DeviceMessage[] = [];
  #refused = new Set<DeviceMessage>();
  #byPlugin = new Map<string, { readonly builder: MessagesBuilder; readonly waiting: DeviceMessage[] }>();
  #openMessages = 0;
  #openBytes = 0;
  #linger: NodeJS.Timeout | undefined;
  #ticker: NodeJS.Timeout | undefined;
  #offFull: (() => void) | undefined;
  #queuedBytes = 0;
  #heldMessages = 0;
  /** samples on their way to the database */
  readonly #heldSamples: Record<Stream, number> = { alarm: 0, data: 0, host: 0 };
  /** inputs that still run one at a time after a failure */
  #careful = 0;
  #recovering = false;
  /** callers of {@link exclusively} that wait or run */
  #holds = 0;
  #exclusive: Promise<void> = Promise.resolve();
  readonly #quiet: (() => void)[] = [];
  #draining = false;
  #wake: (() => void) | undefined;
  #backoffMs = 0;
  #stopped = false;

  constructor(parts: IngestParts) {
    this.#parts = parts;
    this.#options = parts.options;
    this.#source = parts.ledger.stage("source", "devices", "messages");
    this.#decode = parts.ledger.stage("decode", "devices", "messages", () => this.#heldMessages);
    this.#decode.note("made", 0);
    this.#ackSeconds = parts.ledger.timing("device_ack");
    this.#chainSeconds = parts.ledger.timing("chain");
    this.#commitSeconds = parts.ledger.timing("commit");
  }

  /** Starts looking for due timers. Messages are taken from the constructor on. */
  start(): void {
    // Room again: what waits for its commit need not sit out the wait.
    this.#offFull = this.#parts.outbox.onFull((full) => {
      if (!full) this.#wake?.();
    });
    this.#ticker = setInterval(() => this.#tick(), TICK_MS);
    this.#ticker.unref();
  }

  /** Takes other sizes and times, from the next message on. */
  retune(options: IngestOptions): void {
    this.#options = options;
  }

  /** Whether QoS 0 and host frames are being dropped because what is held has reached its limit. */
  get behind(): boolean {
    return this.#parts.outbox.full || this.#queuedBytes + this.#openBytes > this.#options.queueBytes;
  }

  message(message: DeviceMessage): void {
    const source =
      message.source === undefined
        ? this.#source
        : this.#parts.ledger.stage("source", message.source, "messages");
    source.in += 1;
    if (this.#stopped || (message.qos === 0 && this.behind)) {
      source.dropped += 1;
      message.settle?.("dropped");
      return;
    }
    source.out += 1;
    this.#decode.in += 1;
    const plugin = message.route.plugin;
    if (plugin === undefined) this.#decodeNow(message);
    else this.#decodeLater(plugin, message);
    if (message.settle !== undefined) this.#waiting.push(message);
    this.#openMessages += 1;
    this.#openBytes += message.payload.byteLength + 64;
    const { chunkSamples, lingerMs } = this.#options;
    const most = this.#inFlight.length + this.#commits.size > 0 ? GROWTH * chunkSamples : chunkSamples;
    if (
      this.#builder.rows >= most ||
      this.#openMessages >= most ||
      this.#openBytes > CHUNK_BYTES ||
      this.#builder.byteLength > FRAME_BYTES
    ) {
      this.#seal();
    } else {
      this.#linger ??= setTimeout(() => this.#seal(), lingerMs);
    }
  }

  frame(source: string, frame: Frame): boolean {
    const count = this.#parts.ledger.stage("source", source, "samples");
    count.in += frame.rows;
    if (this.behind || this.#stopped) {
      count.dropped += frame.rows;
      return false;
    }
    count.out += frame.rows;
    if (!this.#parts.clock.valid) this.#setTime(frame, 0);
    this.#enqueue({
      ...emptyPending(source, "host", frame),
      bytes: frame.byteLength,
    });
    return true;
  }

  /**
   * Runs `action` between chunks: nothing is in the chain, and everything that was is committed. Inputs wait meanwhile, so
   * the action is to be short. Calls run one after the other.
   */
  async exclusively<T>(action: () => Promise<T>): Promise<T> {
    const before = this.#exclusive;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#exclusive = promise;
    await before;
    this.#holds += 1;
    try {
      if (this.#isWorking()) await new Promise<void>((done) => this.#quiet.push(done));
      return await action();
    } finally {
      this.#holds -= 1;
      resolve();
      this.#pump();
      this.#checkIdle();
    }
  }

  /** Seals what is open and waits until everything taken in is committed, at most `timeoutMs`. Takes in nothing more. */
  async stop(timeoutMs: number): Promise<boolean> {
    clearInterval(this.#ticker);
    this.#offFull?.();
    this.#seal();
    this.#stopped = true;
    const deadline = Date.now() + timeoutMs;
    const done = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), Math.max(0, deadline - Date.now()));
      this.#idle.push(() => {
        clearTimeout(timer);
        resolve(true);
      });
    });
    this.#checkIdle();
    const drained = await done;
    this.#wake?.();
    return drained;
  }

  #decodeNow(message: DeviceMessage): void {
    const before = this.#builder.rows;
    const reason = this.#parts.decoder.decode(message, this.#builder);
    if (reason === undefined) {
      this.#decode.out += 1;
      this.#decode.note("made", this.#builder.rows - before);
    } else {
      this.#refuse(message, reason, this.#refused);
    }
  }

  #decodeLater(plugin: string, message: DeviceMessage): void {
    let group = this.#byPlugin.get(plugin);
    if (group === undefined) {
      group = { builder: new MessagesBuilder(), waiting: [] };
      this.#byPlugin.set(plugin, group);
    }
    const { route, topic, timeUs, payload } = message;
    group.builder.add(route.device, route.channel, topic, timeUs + this.#parts.clock.offsetUs, payload);
    group.waiting.push(message);
    this.#heldMessages += 1;
  }

  #refuse(message: DeviceMessage, reason: string, refused: Set<DeviceMessage>): void {
    refused.add(message);
    this.#decode.rejected += 1;
    this.#parts.rejected.add(message, reason);
  }

  #seal(): void {
    clearTimeout(this.#linger);
    this.#linger = undefined;
    if (this.#openMessages === 0) return;
    const frame = this.#builder.build();
    if (!this.#parts.clock.valid) this.#setTime(frame, Status.gatewayTime);
    const messages = new Map<string, Messages>();
    const byPlugin = new Map<string, readonly DeviceMessage[]>();
    for (const [plugin, group] of this.#byPlugin) {
      messages.set(plugin, group.builder.build());
      byPlugin.set(plugin, group.waiting);
    }
    this.#enqueue({
      ...emptyPending("devices", "data", frame),
      messages,
      byPlugin,
      waiting: this.#waiting,
      refused: this.#refused,
      bytes: frame.byteLength + this.#openBytes,
    });
    this.#waiting = [];
    this.#refused = new Set();
    this.#byPlugin = new Map();
    this.#openMessages = 0;
    this.#openBytes = 0;
  }

  /** Rows in the gateway's time, those with `bit` in their status, get the time that is known, and are flagged. */
  #setTime({ rows, status, time }: Frame, bit: number): void {
    const { offsetUs } = this.#parts.clock;
    for (let row = 0; row < rows; row++) {
      const before = status[row] ?? 0;
      if ((before & bit) !== bit) continue;
      time[row] = (time[row] ?? 0) + offsetUs;
      status[row] = before | Status.clockUnsynchronised;
    }
  }

  #tick(): void {
    if (this.#recovering || this.#holds > 0 || this.#careful > 0 || this.#queue.length > 0) return;
    const result = this.#parts.chain.tick(this.#parts.clock.nowUs);
    if (result === undefined) return;
    this.#submit({ ...emptyPending("timer", "data", EMPTY), tick: () => result, bytes: 0 });
  }

  #enqueue(pending: Pending): void {
    this.#queue.push(pending);
    this.#queuedBytes += pending.bytes;
    this.#pump();
  }

  /** Hands waiting inputs to the chain while there is room. */
  #pump(): void {
    while (!this.#recovering && this.#holds === 0 && this.#queue.length > 0) {
      const room = this.#careful > 0 ? 1 : IN_FLIGHT;
      if (this.#inFlight.length >= room || this.#inFlight.length + this.#commits.size >= 2 * room - 1) return;
      const pending = this.#queue.shift();
      if (pending !== undefined) this.#submit(pending);
    }
  }

  #submit(pending: Pending): void {
    const { source, frame, messages, without } = pending;
    const result =
      pending.tick?.() ??
      (frame.rows === 0 && messages.size === 0
        ? Promise.resolve(untouched(frame))
        : this.#parts.chain.process({ source, frame, messages, without }));
    const sentMs = performance.now();
    this.#inFlight.push({ pending, result, sentMs });
    void this.#drain();
  }

  /** Takes results in the order of their inputs and hands them to the outbox. One at a time runs. */
  async #drain(): Promise<void> {
    if (this.#draining) return;
    this.#draining = true;
    for (;;) {
      const [head] = this.#inFlight;
      if (head === undefined) break;
      const result = await head.result;
      // A commit that failed meanwhile has taken everything in flight back into the queue.
      if (this.#inFlight[0] !== head) continue;
      if (!result.ok) {
        await this.#recover(result.failure);
        continue;
      }
      this.#inFlight.shift();
      this.#chainSeconds.observe((performance.now() - head.sentMs) / 1000);
      const commit = this.#commit(head.pending, result.output);
      this.#commits.add(commit);
      void commit.then((committed) => {
        this.#commits.delete(commit);
        if (
          this.#inFlight.length + this.#commits.size === 0 &&
          this.#builder.rows >= this.#options.chunkSamples
        )
          this.#seal();
        if (committed) this.#pump();
        else void this.#recoverFromCommit();
        this.#checkIdle();
      });
    }
    this.#draining = false;
    this.#checkIdle();
  }

  /** Stores one output. False when the transaction failed: then the input is back at the head of the queue. */
  async #commit(pending: Pending, output: ChainOutput): Promise<boolean> {
    const { outbox, ledger } = this.#parts;
    const { stream } = pending;
    const rows = output.frame.rows;
    const count = ledger.stage("commit", stream, "samples", () => this.#heldSamples[stream]);
    if (rows > 0 || output.state.length > 0 || output.effects.length > 0) {
      const chunk = {
        stream,
        frame: output.frame,
        state: output.state,
        effects: this.#timed(output.effects),
      };
      count.in += rows;
      this.#heldSamples[stream] += rows;
      const sentMs = performance.now();
      try {
        // The input's own frame is kept until the commit: it may have to run again.
        await outbox.append(chunk, { transfer: output.frame !== pending.frame });
      } catch (thrown) {
        if (thrown instanceof WeirError && thrown.disposition === "reject") {
          count.rejected += rows;
          this.#parts.log("error", `a chunk of ${rows} samples was rejected: ${thrown.message}`);
          for (const message of pending.waiting) pending.refused.add(message);
          this.#finish(pending, { ...output, effects: [] });
          return true;
        }
        count.in -= rows;
        this.#retry.push(pending);
        this.#commitError = thrown;
        return false;
      } finally {
        this.#heldSamples[stream] -= rows;
      }
      count.out += rows;
      this.#commitSeconds.observe((performance.now() - sentMs) / 1000);
    }
    this.#backoffMs = 0;
    this.#finish(pending, output);
    return true;
  }

  /** Alarms get the outbox's time, which is the wall clock's: where that is wrong, the known one goes with them. */
  #timed(effects: readonly Effect[]): readonly Effect[] {
    const { valid, nowUs } = this.#parts.clock;
    if (valid) return effects;
    return effects.map((effect) => (effect.type === "alarm" ? { ...effect, knownUs: nowUs } : effect));
  }

  /** The output is committed: counts, acknowledgements, effects. */
  #finish(pending: Pending, output: ChainOutput): void {
    const { ledger } = this.#parts;
    for (const { plugin, index, reason } of output.rejected) {
      const message = pending.byPlugin.get(plugin)?.[index];
      if (message !== undefined && !pending.refused.has(message))
        this.#refuse(message, reason, pending.refused);
    }
    for (const group of pending.byPlugin.values()) {
      this.#heldMessages -= group.length;
      for (const message of group) if (!pending.refused.has(message)) this.#decode.out += 1;
    }
    for (const part of output.counts) {
      const count = ledger.stage("plugin", part.plugin, "samples");
      count.in += part.in;
      count.out += part.out;
      count.rejected += part.rejected;
      count.dropped += part.dropped;
      count.note("emitted", part.emitted);
      count.note("refused", part.refused);
    }
    this.#queuedBytes -= pending.bytes;
    if (this.#careful > 0) this.#careful -= 1;
    // Its memory is free at once: what waits for the collector would be tens of megabytes.
    if (pending.source === "devices" && output.frame.buffer !== pending.frame.buffer)
      pending.frame.buffer.transfer(0);
    const { waiting, refused } = pending;
    this.#measure(waiting);
    for (const message of waiting)
      message.settle?.(refused.size > 0 && refused.has(message) ? "rejected" : "committed");
    if (output.effects.some((effect) => effect.type === "publish")) this.#parts.onEffects();
  }

  /** How long messages waited for their settlement. */
  #measure(waiting: readonly DeviceMessage[]): void {
    const nowUs = Date.now() * 1000;
    for (let i = 0; i < waiting.length; i += MEASURE_EVERY) {
      const timeUs = waiting[i]?.timeUs ?? nowUs;
      this.#ackSeconds.observe((nowUs - timeUs) / 1e6, Math.min(MEASURE_EVERY, waiting.length - i));
    }
  }

  /** A plugin failed on the head of what is in flight. */
  async #recover(failure: ChainFailure): Promise<void> {
    this.#recovering = true;
    const again = this.#inFlight.splice(0);
    const [head] = again;
    if (head !== undefined) blame(head.pending, failure);
    this.#parts.log("warn", `plugin ${failure.plugin}: ${failure.reason}`);
    await Promise.all(again.map((one) => one.result));
    await Promise.all(this.#commits);
    // A commit that failed meanwhile has its input in #retry already, before these.
    this.#requeue([...this.#retry.splice(0), ...again.map((one) => one.pending)]);
    await this.#restart();
  }

  /** A transaction failed: wait, then run everything uncommitted again. Runs once for a row of failed commits. */
  async #recoverFromCommit(): Promise<void> {
    if (this.#recovering || this.#retry.length === 0) return;
    this.#recovering = true;
    const again = this.#inFlight.splice(0);
    this.#parts.log("error", `commit failed, trying again: ${messageOf(this.#commitError)}`);
    await Promise.all(again.map((one) => one.result));
    await Promise.all(this.#commits);
    this.#requeue([...this.#retry.splice(0), ...again.map((one) => one.pending)]);
    this.#backoffMs = Math.min(MOST_BACKOFF_MS, Math.max(100, this.#backoffMs * 2));
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.#backoffMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    await this.#restart();
  }

  async #restart(): Promise<void> {
    try {
      await this.#parts.outbox.resume();
      await this.#parts.chain.restart();
    } catch (thrown) {
      this.#parts.log("error", `restart after a failure: ${messageOf(thrown)}`);
    }
    this.#recovering = false;
    this.#pump();
    this.#checkIdle();
  }

  /** Puts uncommitted inputs back in front, to run one at a time. A timer's rows have no input: it fires again. */
  #requeue(pending: readonly Pending[]): void {
    const inputs = pending.filter((one) => one.tick === undefined);
    this.#queue.unshift(...inputs);
    this.#careful = Math.max(this.#careful, inputs.length);
  }

  /** Whether anything is in the chain or on its way to the database. */
  #isWorking(): boolean {
    return this.#recovering || this.#draining || this.#inFlight.length > 0 || this.#commits.size > 0;
  }

  #checkIdle(): void {
    if (this.#isWorking()) return;
    for (const resolve of this.#quiet.splice(0)) resolve();
    if (this.#queue.length === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }
}

const EMPTY: Frame = new FrameBuilder(1).build();

function emptyPending(source: string, stream: Stream, frame: Frame): Omit<Pending, "bytes"> {
  return {
    stream,
    source,
    frame,
    messages: new Map(),
    byPlugin: new Map(),
    waiting: [],
    refused: new Set(),
    without: new Set(),
    failures: new Map(),
    tick: undefined,
  };
}

/** What comes out when nothing went in: only refused messages wait for their turn. */
const untouched = (frame: Frame): ChainResult => ({
  ok: true,
  output: { frame, state: [], effects: [], rejected: [], counts: [] },
});

/** An `err` answer is final for this input; after a second failure the plugin's rows are rejected, too. */
function blame(pending: Pending, failure: ChainFailure): void {
  const times = (pending.failures.get(failure.plugin) ?? 0) + 1;
  pending.failures.set(failure.plugin, times);
  if (failure.disposition === "reject" || times > 1) pending.without.add(failure.plugin);
}
