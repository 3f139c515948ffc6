/** One plugin of the chain: its instance, its failures, and whether it may run. */
import { messageOf } from "../core/errors.ts";
import type { StateEntry } from "../core/ports.ts";
import { type Binding, RowBinding } from "./binding.ts";
import type { Slot } from "./host.ts";
import { type Callable, Instance, type InstanceFailure, type InstanceSpec } from "./instance.ts";
import { Lanes } from "./lanes.ts";
import type { Exports } from "./vet-checks.ts";
import type { InstanceMemory } from "./wire.ts";

/** So many failures within this time put a plugin into quarantine. */
const MOST_FAILURES = 5;
const FAILURE_WINDOW_MS = 60_000;
/** From this failure within the window on, a plugin rests before it is started again: one bad input fails it twice, at no one's cost. */
const REST_FROM = 3;
/** How long it rests the first time; twice as long each further time. */
const REST_MS = 1_000;
/** `configure` between two chunks gets no longer: data waits for it. */
export const SWITCH_MS = 1_000;
/** A new version that fails before it has got through so many calls gives way to the one before it. */
const PROBATION_CALLS = 8;

/** Before the place of every call. */
export const NEVER = -1;

/** What a plugin is run from. */
export interface RunnerSpec extends Omit<InstanceSpec, "lane"> {
  readonly name: string;
  /** as its manifest has it */
  readonly version: string;
  /** SHA-256 of the component */
  readonly hash: string;
  /** of component and manifest (versions.ts) */
  readonly id: string;
  readonly order: number;
  /** 1 where its manifest doesn't say `perDevice` */
  readonly lanes: number;
  /** all it keeps is kept for a device */
  readonly perDevice: boolean;
  readonly binding: Binding;
  readonly onFailure: "bypass" | "drop";
  readonly scheduleMs: number;
  readonly exports: Exports;
}

/** Of a plugin that doesn't run. */
export const NO_MEMORY: InstanceMemory = { wasmBytes: 0, heapBytes: 0 };

/** What a runner needs from outside. */
export interface RunnerParts {
  readonly lease: () => Slot;
  /** the plugin's committed state */
  readonly loadState: (plugin: string) => Promise<readonly StateEntry[]>;
  /** runs an action between two chunks */
  readonly exclusively: (action: () => Promise<void>) => Promise<void>;
  readonly onChange: (runner: Runner) => void;
}

/**
 * `off`: not started yet, or stopped. `failed`: it could not be started; nothing of it was tried on data. `resting`: it failed again
 * and is started anew in a moment; nobody waits for it.
 */
export type RunnerState = "off" | "on" | "resting" | "quarantined" | "failed";

/** A plugin, running or not. */
export class Runner {
  #spec: RunnerSpec;
  #binding: RowBinding;
  readonly #parts: RunnerParts;
  /** the version before this one, while this one is on probation */
  #fallback: RunnerSpec | undefined;
  #revertedFor: string | undefined;
  #calls = 0;
  #instance: Callable | undefined;
  /** in a fresh host, to take the instance's place */
  #next: Callable | undefined;
  #state: RunnerState = "off";
  /** when it failed, within the window, in milliseconds of the monotonic clock */
  #failures: number[] = [];
  #failureCount = 0;
  #restarts = 0;
  #busyBeforeMs = 0;
  #lastError: string | undefined;
  #opening = false;
  #isRetried = false;
  #rest: NodeJS.Timeout | undefined;
  /** the place of the last call that gave the instance input, since the chain's last restart */
  lastSeen: number = NEVER;
  /** when `tick` is due next, on the monotonic clock */
  dueMs: number;

  /** `fallback`: the version to go back to when this one fails its first calls. */
  constructor(spec: RunnerSpec, parts: RunnerParts, fallback?: RunnerSpec) {
    this.#spec = spec;
    this.#parts = parts;
    this.#fallback = fallback;
    this.#binding = new RowBinding(spec.binding);
    this.dueMs = performance.now() + spec.scheduleMs;
  }

  get name(): string {
    return this.#spec.name;
  }

  /** What it runs from; changes when it goes back to the version before. */
  get spec(): RunnerSpec {
    return this.#spec;
  }

  get binding(): RowBinding {
    return this.#binding;
  }

  /** Why the new version failed its first calls, so that the one before it runs again. */
  get revertedFor(): string | undefined {
    return this.#revertedFor;
  }

  get state(): RunnerState {
    return this.#state;
  }

  /** Why it isn't on, or why it last failed. */
  get lastError(): string | undefined {
    return this.#lastError;
  }

  /** Whether it could not be started for a reason that may pass, such as its deadline on a machine that is slow just now. */
  get mayStartLater(): boolean {
    return this.#isRetried;
  }

  /** {@link lastError}, and whether that is the end of it. */
  get problem(): string | undefined {
    return this.mayStartLater ? `${this.#lastError}; it is tried again` : this.#lastError;
  }

  /** Failures since the agent's start. */
  get failures(): number {
    return this.#failureCount;
  }

  /** Instances started after the first. */
  get restarts(): number {
    return this.#restarts;
  }

  /** Time that its instances had a call to answer, in milliseconds. */
  get busyMs(): number {
    return this.#busyBeforeMs + (this.#instance?.busyMs ?? 0);
  }

  /** Bytes of state that it keeps. */
  get stateBytes(): number {
    return this.#instance?.stateBytes ?? 0;
  }

  /** What it holds, all its threads together, as of its latest calls. */
  get memory(): InstanceMemory {
    return this.#instance?.memory ?? NO_MEMORY;
  }

  /** The instance to call; undefined while the plugin is out. */
  get instance(): Callable | undefined {
    return this.#state === "on" ? this.#instance : undefined;
  }

  /** Starts the first instance. A plugin that can't start is out at once, the reason kept: no data waits for it. */
  async start(): Promise<void> {
    await this.prepare();
    await this.open();
  }

  /** The slow part of a start, which needs no state: a thread with the component compiled. Never throws. */
  async prepare(): Promise<void> {
    try {
      this.#busyBeforeMs = this.busyMs;
      this.#instance = this.#make();
      await this.#instance.prepare();
    } catch (thrown) {
      this.#lastError = messageOf(thrown);
    }
  }

  /**
   * The quick part, from committed state. After {@link prepare}; the state is `on` or `failed` afterwards.
   * `limitMs`: for instantiating and `configure`, when less than a start may take.
   */
  async open(limitMs?: number): Promise<void> {
    const failure = await this.#openInstance(limitMs);
    if (failure === undefined) return;
    this.#record(failure.reason);
    this.#isRetried = failure.mayPass === true;
    this.#become("failed");
  }

  /** A call went through. */
  succeed(): void {
    this.#calls += 1;
    if (this.#calls === PROBATION_CALLS) this.#fallback = undefined;
  }

  /** Notes a failure that was the plugin's doing. */
  fail(failure: InstanceFailure): void {
    if (!failure.blame || this.#state !== "on") {
      this.#lastError ??= failure.reason;
      return;
    }
    this.#record(failure.reason);
    if (this.#failures.length >= MOST_FAILURES) this.#become("quarantined");
  }

  /**
   * Throws the instance away where it has ended, or has seen input that is not committed (`ahead`), and starts another from committed
   * state. A plugin that keeps failing rests first, its rows treated as its manifest says meanwhile, and goes to quarantine in the end.
   */
  async restart(ahead: boolean): Promise<void> {
    const before = this.#instance;
    if (this.#opening) return;
    if (this.#state !== "on") {
      this.#instance = undefined;
      await before?.stop(`is ${this.#state}`);
      return;
    }
    if (before !== undefined && before.failure === undefined && !ahead) return;
    await before?.stop("restarts");
    if (before?.failure !== undefined && this.#lastError !== undefined) this.#goBack(this.#lastError);
    while (this.#state === "on") {
      if (this.#recent().length >= REST_FROM) {
        this.#instance = undefined;
        this.#goToRest();
        return;
      }
      this.#restarts += 1;
      const failure = await this.#open();
      if (failure === undefined) return;
      this.fail({ ...failure, blame: true });
    }
  }

  #goToRest(): void {
    this.#become("resting");
    const restMs = REST_MS * 2 ** (this.#recent().length - REST_FROM);
    this.#rest = setTimeout(() => void this.#wake(), Math.max(REST_MS, restMs));
    this.#rest.unref();
  }

  /** After its rest: a fresh instance, opened between two chunks. */
  async #wake(): Promise<void> {
    let next: Callable | undefined;
    try {
      next = this.#make();
      await next.prepare();
    } catch (thrown) {
      this.#lastError = messageOf(thrown);
    }
    await this.#parts.exclusively(async () => {
      if (this.#state !== "resting") {
        await next?.stop("is not needed any more");
        return;
      }
      this.#restarts += 1;
      this.#instance = next;
      const failure = await this.#openInstance(SWITCH_MS);
      if (failure === undefined) return;
      this.#record(failure.reason);
      if (this.#failures.length >= MOST_FAILURES) this.#become("quarantined");
      else this.#goToRest();
    });
  }

  /** Whether it should move: its host starts nothing more, and ends when nothing is left in it. */
  get retired(): boolean {
    return this.instance?.retired === true;
  }

  /** The slow part of a move to a fresh host, beside the instance that runs. Never throws. */
  async prepareMove(): Promise<void> {
    try {
      this.#next = this.#make();
      await this.#next.prepare();
      if (!this.#spec.grants.state) await this.#next.open([]);
    } catch (thrown) {
      this.#lastError = messageOf(thrown);
    }
  }

  /** The quick part, between two chunks: it goes on in the fresh host from committed state, or stays where it can't. */
  async move(limitMs: number): Promise<void> {
    const next = this.#next;
    const before = this.#instance;
    this.#next = undefined;
    if (next === undefined) return;
    try {
      const opens = this.#spec.grants.state && this.#state === "on" && next.failure === undefined;
      if (opens) await next.open(await this.#parts.loadState(this.name), limitMs);
    } catch (thrown) {
      this.#lastError = messageOf(thrown);
      await next.stop("it could not move");
    }
    const moves = this.#state === "on" && before?.failure === undefined && next.failure === undefined;
    if (moves) this.#instance = next;
    // Nobody waits for its end.
    void (moves ? before : next)?.stop("moved to another host");
  }

  /** Lets a plugin in again that was out. */
  async revive(): Promise<void> {
    if (this.#state === "on") return;
    await this.#instance?.stop("restarts");
    clearTimeout(this.#rest);
    this.#failures = [];
    this.#restarts += 1;
    this.#instance = undefined;
    await this.start();
  }

  async stop(): Promise<void> {
    const instance = this.#instance;
    clearTimeout(this.#rest);
    this.#instance = undefined;
    this.#become("off");
    await instance?.stop("the agent stops");
  }

  #make(): Callable {
    const { lanes: count, perDevice } = this.#spec;
    const lanes = Array.from({ length: count }, (_, index) => {
      const lane = perDevice ? { lane: { index, count } } : {};
      return new Instance(this.#parts.lease(), { ...this.#spec, ...lane });
    });
    const [only] = lanes;
    return lanes.length === 1 && only !== undefined ? only : new Lanes(lanes);
  }

  async #open(): Promise<InstanceFailure | undefined> {
    this.#opening = true;
    await this.prepare();
    return await this.#openInstance();
  }

  async #openInstance(limitMs?: number): Promise<InstanceFailure | undefined> {
    this.#opening = true;
    try {
      const state = await this.#parts.loadState(this.name);
      const opened = await this.#instance?.open(state, limitMs);
      if (opened === undefined) throw new Error(this.#lastError ?? "it was not started");
      if (!opened.ok) return opened;
      this.#isRetried = false;
      this.#become("on");
      return undefined;
    } catch (thrown) {
      return { ok: false, disposition: "retry", reason: messageOf(thrown), blame: true, mayPass: true };
    } finally {
      this.#opening = false;
    }
  }

  /** On probation, the version before takes its place again, with a clean record. */
  #goBack(reason: string): void {
    const fallback = this.#fallback;
    if (fallback === undefined || this.#failures.length === 0) return;
    this.#fallback = undefined;
    this.#spec = fallback;
    this.#binding = new RowBinding(fallback.binding);
    this.#failures = [];
    this.#revertedFor = reason;
    this.#parts.onChange(this);
  }

  #recent(): number[] {
    const since = performance.now() - FAILURE_WINDOW_MS;
    this.#failures = this.#failures.filter((at) => at >= since);
    return this.#failures;
  }

  #record(reason: string): void {
    this.#failureCount += 1;
    this.#lastError = reason;
    this.#recent().push(performance.now());
  }

  #become(state: RunnerState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#parts.onChange(this);
  }
}
