/**
 * The first of the two loops: from sources to the outbox.
 *
 *     message ─► decode ─► chunk (4,096 samples or 5 ms) ─► chain of plugins ─► commit ─► settle (PUBACK) ─► effects
 *
 * Chunks go through strictly in order, several at a time. An input is kept until its output is committed; after a failure
 * everything uncommitted is discarded, the chain restarts from committed state, and the kept inputs run again one at
 * a time.
 */
import { messageOf, WeirError } from "../core/errors.ts";
import type { Frame } from "../core/frame.ts";
import type { Histogram } from "../core/histogram.ts";
import type { StageCount } from "../core/ledger.ts";
import type {
  ChainFailure,
  ChainOutput,
  ChainResult,
  DeviceMessage,
  Intake,
  Outbox,
  Outcome,
  PluginChain,
  Stream,
} from "../core/ports.ts";
import { Decoding, type DecodingParts } from "./decoding.ts";
import { blame, frameInput, type Input, isEmpty, timerInput } from "./input.ts";
import { correctTimes, flagGiven, given, type KnownTime, withKnownTime } from "./known-time.ts";
import { OpenChunk } from "./open-chunk.ts";
import { RecentCommits } from "./recent-commits.ts";
import { Settlement, type SettlementParts } from "./settlement.ts";

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
export interface IngestParts extends DecodingParts, SettlementParts {
  readonly chain: PluginChain;
  readonly outbox: Outbox;
  readonly clock: KnownTime;
  readonly log: (level: "info" | "warn" | "error", message: string) => void;
  readonly options: IngestOptions;
}

/** Inputs that may be in the chain at a time; as many again may wait for their commit. */
const IN_FLIGHT = 8;
/** How long an action that is to run between chunks waits for a moment without any, before it holds up the next: at full load there is none. */
const LULL_MS = 50;
/** How often due plugin timers are looked for, in milliseconds. */
const TICK_MS = 50;
/** The same, while no plugin has a timer: an idle machine is not to be woken for nothing. */
const UNTIMED_MS = 500;
/** Longest wait between tries of a commit that fails, in milliseconds. */
const MOST_BACKOFF_MS = 5_000;

/** An input whose commit failed, with what it became. */
interface Uncommitted {
  readonly input: Input;
  readonly output: ChainOutput;
  /** of the output: its frame may be gone */
  readonly rows: number;
}

/** The ingest loop. */
export class Ingest implements Intake {
  readonly #parts: IngestParts;
  #options: IngestOptions;
  readonly #source: StageCount;
  readonly #open: OpenChunk;
  readonly #settlement: Settlement;
  readonly #chainSeconds: Histogram;
  readonly #commitSeconds: Histogram;
  readonly #holdSeconds: Histogram;
  readonly #queue: Input[] = [];
  readonly #inFlight: {
    readonly input: Input;
    readonly result: Promise<ChainResult>;
    readonly sentMs: number;
  }[] = [];
  /** commits that were asked for and have not answered, in order */
  readonly #commits = new Set<Promise<boolean>>();
  readonly #idle: (() => void)[] = [];
  /** inputs whose commit failed, in order */
  readonly #retry: Uncommitted[] = [];
  #commitError: unknown;
  #linger: NodeJS.Timeout | undefined;
  #ticker: NodeJS.Timeout | undefined;
  #offFull: (() => void) | undefined;
  #queuedBytes = 0;
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
  readonly #recent = new RecentCommits();

  constructor(parts: IngestParts) {
    this.#parts = parts;
    this.#options = parts.options;
    this.#source = parts.ledger.stage("source", "devices", "messages");
    const decoding = new Decoding(parts);
    this.#open = new OpenChunk(decoding, parts.clock);
    this.#settlement = new Settlement(parts, decoding);
    this.#chainSeconds = parts.ledger.timing("chain");
    this.#commitSeconds = parts.ledger.timing("commit");
    this.#holdSeconds = parts.ledger.timing("hold");
  }

  /** Starts looking for due timers. Messages are taken from the constructor on. */
  start(): void {
    // Room again: what waits for its commit need not sit out the wait.
    this.#offFull = this.#parts.outbox.onFull((full) => {
      if (!full) this.#wake?.();
    });
    this.#tickLater();
  }

  #tickLater(): void {
    const tick = (): void => {
      this.#tickLater();
      this.#tick();
    };
    this.#ticker = setTimeout(tick, this.#parts.chain.timed ? TICK_MS : UNTIMED_MS);
    this.#ticker.unref();
  }

  /** Takes other sizes and times, from the next message on. */
  retune(options: IngestOptions): void {
    this.#options = options;
  }

  /** Whether QoS 0 and host frames are being dropped because what is held has reached its limit. */
  get behind(): boolean {
    return this.#parts.outbox.full || this.#queuedBytes + this.#open.bytes > this.#options.queueBytes;
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
    this.#open.add(message);
    const { chunkSamples, lingerMs } = this.#options;
    if (this.#open.isFull(chunkSamples)) this.#seal();
    else if (this.#linger === undefined) this.#sealLater(lingerMs);
  }

  /** Not in {@link message}: a function that makes a closure takes an object for it at every call. */
  #sealLater(lingerMs: number): void {
    this.#linger = setTimeout(() => this.#seal(), lingerMs);
  }

  frame(source: string, frame: Frame): boolean {
    const count = this.#parts.ledger.stage("source", source, "samples");
    count.in += frame.rows;
    if (this.behind || this.#stopped) {
      count.dropped += frame.rows;
      return false;
    }
    count.out += frame.rows;
    correctTimes(frame, this.#parts.clock);
    this.#enqueue(frameInput(source, "host", frame));
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
    await this.#lull(LULL_MS);
    this.#holds += 1;
    const sinceMs = performance.now();
    try {
      await this.#lull();
      return await action();
    } finally {
      this.#holdSeconds.observe((performance.now() - sinceMs) / 1000);
      this.#holds -= 1;
      resolve();
      this.#pump();
      this.#checkIdle();
    }
  }

  /** Seals what is open and waits until everything taken in is committed, at most `timeoutMs`. Takes in nothing more. */
  async stop(timeoutMs: number): Promise<boolean> {
    clearTimeout(this.#ticker);
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

  #seal(): void {
    clearTimeout(this.#linger);
    this.#linger = undefined;
    if (!this.#open.isEmpty) this.#enqueue(this.#open.seal());
  }

  #tick(): void {
    if (this.#recovering || this.#holds > 0 || this.#careful > 0 || this.#queue.length > 0) return;
    const { valid, nowUs } = this.#parts.clock;
    const rows = this.#parts.chain.tick(nowUs);
    if (rows !== undefined) this.#submit(timerInput(rows, valid ? undefined : given(undefined, nowUs)));
  }

  #enqueue(input: Input): void {
    this.#queue.push(input);
    this.#queuedBytes += input.bytes;
    this.#pump();
  }

  /** Hands waiting inputs to the chain while there is room. */
  #pump(): void {
    while (!this.#recovering && this.#holds === 0 && this.#queue.length > 0) {
      const room = this.#careful > 0 ? 1 : IN_FLIGHT;
      if (this.#inFlight.length >= room || this.#inFlight.length + this.#commits.size >= 2 * room - 1) return;
      const input = this.#queue.shift();
      if (input !== undefined) this.#submit(input);
    }
  }

  #submit(input: Input): void {
    const { source, frame, messages, without } = input;
    const result =
      input.tick ??
      (isEmpty(input)
        ? Promise.resolve(untouched(frame))
        : this.#parts.chain.process({ source, frame, messages, without }));
    const sentMs = performance.now();
    this.#inFlight.push({ input, result, sentMs });
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
        await this.#recover(result.failures);
        continue;
      }
      this.#inFlight.shift();
      this.#chainSeconds.observe((performance.now() - head.sentMs) / 1000);
      const commit = this.#commit(head.input, result.output);
      this.#commits.add(commit);
      void commit.then((committed) => {
        this.#commits.delete(commit);
        if (committed) this.#pump();
        else void this.#recoverFromCommit();
        this.#checkIdle();
      });
    }
    this.#draining = false;
    this.#checkIdle();
  }

  /** Stores one output. False when the transaction failed: then the input is back at the head of the queue. */
  async #commit(input: Input, output: ChainOutput): Promise<boolean> {
    const { outbox, ledger } = this.#parts;
    const { stream } = input;
    const rows = output.frame.rows;
    if (input.given !== undefined) flagGiven(output.frame, input.given);
    const count = ledger.stage("commit", stream, "samples", () => this.#heldSamples[stream]);
    if (rows > 0 || output.state.length > 0 || output.effects.length > 0) {
      const chunk = {
        stream,
        frame: output.frame,
        state: output.state,
        effects: withKnownTime(output.effects, this.#parts.clock),
        traces: input.traces,
      };
      count.in += rows;
      this.#heldSamples[stream] += rows;
      const sentMs = performance.now();
      try {
        // The input's own frame is kept until the commit: it may have to run again.
        await outbox.append(chunk, { transfer: output.frame !== input.frame, ticket: input.ticket });
      } catch (thrown) {
        if (thrown instanceof WeirError && thrown.disposition === "reject") {
          count.rejected += rows;
          this.#parts.log("error", `a chunk of ${rows} samples was rejected: ${thrown.message}`);
          this.#finish(input, output, "rejected");
          return true;
        }
        count.in -= rows;
        this.#retry.push({ input, output, rows });
        this.#commitError = thrown;
        return false;
      } finally {
        this.#heldSamples[stream] -= rows;
      }
      count.out += rows;
      this.#recent.note({ ticket: input.ticket, count, rows });
      this.#commitSeconds.observe((performance.now() - sentMs) / 1000);
    } else if (this.#commits.size > 0 && (await Promise.all(this.#commits)).includes(false)) {
      // Nothing to store; but it is done only when what came before it is.
      this.#retry.push({ input, output, rows });
      return false;
    }
    this.#backoffMs = 0;
    this.#finish(input, output);
    return true;
  }

  /** The output is committed, or will never be. */
  #finish(input: Input, output: ChainOutput, outcome: Outcome = "committed"): void {
    if (!isEmpty(input)) this.#parts.chain.committed();
    this.#queuedBytes -= input.bytes;
    if (this.#careful > 0) this.#careful -= 1;
    this.#settlement.settle(input, output, outcome);
  }

  /** Plugins failed on the head of what is in flight. */
  async #recover(failures: readonly ChainFailure[]): Promise<void> {
    this.#recovering = true;
    const again = this.#inFlight.splice(0);
    const [head] = again;
    for (const failure of failures) {
      if (head !== undefined) blame(head.input, failure);
      this.#parts.log("warn", `plugin ${failure.plugin}: ${failure.reason}`);
    }
    await Promise.all(again.map((one) => one.result));
    await Promise.all(this.#commits);
    await this.#restart(again.map((one) => one.input));
  }

  /** A transaction failed: wait, then run everything uncommitted again. Runs once for a row of failed commits. */
  async #recoverFromCommit(): Promise<void> {
    if (this.#recovering || this.#retry.length === 0) return;
    this.#recovering = true;
    const again = this.#inFlight.splice(0);
    this.#parts.log("error", `commit failed, trying again: ${messageOf(this.#commitError)}`);
    await Promise.all(again.map((one) => one.result));
    await Promise.all(this.#commits);
    this.#backoffMs = Math.min(MOST_BACKOFF_MS, Math.max(100, this.#backoffMs * 2));
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.#backoffMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    await this.#restart(again.map((one) => one.input));
  }

  /** Runs everything uncommitted again: inputs whose commit failed, then these. */
  async #restart(uncommitted: readonly Input[]): Promise<void> {
    let stored = 0;
    try {
      stored = await this.#parts.outbox.resume();
      this.#countLost(stored);
    } catch (thrown) {
      this.#parts.log("error", `restart after a failure: ${messageOf(thrown)}`);
    }
    const failed = this.#retry.splice(0).sort((one, other) => one.input.ticket - other.input.ticket);
    for (const one of failed) if (one.input.ticket <= stored) this.#wasCommitted(one);
    const again = failed.map(({ input }) => input).filter(({ ticket }) => ticket > stored);
    this.#requeue([...again, ...uncommitted]);
    try {
      await this.#parts.chain.restart();
    } catch (thrown) {
      this.#parts.log("error", `restart after a failure: ${messageOf(thrown)}`);
    }
    this.#recovering = false;
    this.#pump();
    this.#checkIdle();
  }

  /** What was committed and is not there any more. */
  #countLost(stored: number): void {
    const lost = this.#recent.after(stored);
    if (lost > 0)
      this.#parts.log(
        "error",
        `${lost} samples that were committed and acknowledged are gone from the outbox: the disk lost what it had said was stored`,
      );
  }

  /** Its commit failed, and was done nevertheless. */
  #wasCommitted({ input, output, rows }: Uncommitted): void {
    const { stream } = input;
    const count = this.#parts.ledger.stage("commit", stream, "samples", () => this.#heldSamples[stream]);
    count.in += rows;
    count.out += rows;
    this.#finish(input, output);
  }

  /** Puts uncommitted inputs back in front, to run one at a time. A timer's rows have no input: it fires again. */
  #requeue(uncommitted: readonly Input[]): void {
    const inputs = uncommitted.filter((one) => one.tick === undefined);
    this.#queue.unshift(...inputs);
    this.#careful = Math.max(this.#careful, inputs.length);
  }

  /** Whether anything is in the chain or on its way to the database. */
  #isWorking(): boolean {
    return this.#recovering || this.#draining || this.#inFlight.length > 0 || this.#commits.size > 0;
  }

  /** Waits until nothing is under way, at most `limitMs`. */
  async #lull(limitMs?: number): Promise<void> {
    if (!this.#isWorking()) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#quiet.push(resolve);
    const timer = limitMs === undefined ? undefined : setTimeout(resolve, limitMs);
    await promise;
    clearTimeout(timer);
  }

  #checkIdle(): void {
    if (this.#isWorking()) return;
    for (const resolve of this.#quiet.splice(0)) resolve();
    if (this.#queue.length === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }
}

/** What comes out when nothing went in: only refused messages wait for their turn. */
const untouched = (frame: Frame): ChainResult => ({
  ok: true,
  output: { frame, state: [], effects: [], rejected: [], counts: [] },
});
