/** One plugin of the chain: its instance, its failures, and whether it may run. */
import type { StateEntry } from "../core/ports.ts";
import { RowBinding } from "./binding.ts";
import type { Slot } from "./host.ts";
import { Instance, type InstanceFailure, type InstanceSpec } from "./instance.ts";
import type { Binding } from "./options.ts";
import type { Exports } from "./vet-checks.ts";

/** So many failures within this time put a plugin into quarantine. */
const MOST_FAILURES = 5;
const FAILURE_WINDOW_MS = 60_000;
/** Wait before the second restart within the window; it doubles with each further one. */
const BACKOFF_MS = 50;

/** What a plugin is run from. */
export interface RunnerSpec extends InstanceSpec {
  readonly name: string;
  readonly order: number;
  readonly binding: Binding;
  readonly onFailure: "bypass" | "drop";
  readonly scheduleMs: number;
  readonly exports: Exports;
}

/** What a runner needs from outside. */
export interface RunnerParts {
  readonly lease: () => Slot;
  /** the plugin's committed state */
  readonly loadState: (plugin: string) => Promise<readonly StateEntry[]>;
  readonly onChange: (runner: Runner) => void;
}

/** `off`: not started yet, or stopped. `failed`: it could not be started; nothing of it was tried on data. */
export type RunnerState = "off" | "on" | "quarantined" | "failed";

/** A plugin, running or not. */
export class Runner {
  readonly spec: RunnerSpec;
  readonly binding: RowBinding;
  readonly #parts: RunnerParts;
  #instance: Instance | undefined;
  #state: RunnerState = "off";
  /** when it failed, within the window, in milliseconds of the monotonic clock */
  #failures: number[] = [];
  #failureCount = 0;
  #restarts = 0;
  #lastError: string | undefined;
  #opening = false;
  /** the instance has been given input since its start */
  used = false;
  /** when `tick` is due next, on the monotonic clock */
  dueMs: number;

  constructor(spec: RunnerSpec, parts: RunnerParts) {
    this.spec = spec;
    this.#parts = parts;
    this.binding = new RowBinding(spec.binding);
    this.dueMs = performance.now() + spec.scheduleMs;
  }

  get name(): string {
    return this.spec.name;
  }

  get state(): RunnerState {
    return this.#state;
  }

  /** Why it isn't on, or why it last failed. */
  get lastError(): string | undefined {
    return this.#lastError;
  }

  /** Failures since the agent's start. */
  get failures(): number {
    return this.#failureCount;
  }

  /** Instances started after the first. */
  get restarts(): number {
    return this.#restarts;
  }

  /** The instance to call; undefined while the plugin is out. */
  get instance(): Instance | undefined {
    return this.#state === "on" ? this.#instance : undefined;
  }

  /** Starts the first instance. A plugin that can't start is out at once, the reason kept: no data waits for it. */
  async start(): Promise<void> {
    const failure = await this.#open();
    if (failure !== undefined) {
      this.#record(failure.reason);
      this.#become("failed");
    }
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
   * Throws the instance away where it has seen input or has ended, and starts another from committed state; a plugin
   * that keeps failing on that goes to quarantine.
   */
  async restart(): Promise<void> {
    const before = this.#instance;
    if (this.#opening) return;
    if (this.#state !== "on") {
      this.#instance = undefined;
      await before?.stop(`is ${this.#state}`);
      return;
    }
    if (before !== undefined && before.failure === undefined && !this.used) return;
    await before?.stop("restarts");
    while (this.#state === "on") {
      const recent = this.#recent().length;
      if (recent > 1) await new Promise((resolve) => setTimeout(resolve, BACKOFF_MS * 2 ** (recent - 2)));
      this.#restarts += 1;
      const failure = await this.#open();
      if (failure === undefined) return;
      this.fail({ ...failure, blame: true });
    }
  }

  /** Lets a plugin in again that was out. */
  async revive(): Promise<void> {
    if (this.#state === "on") return;
    await this.#instance?.stop("restarts");
    this.#failures = [];
    this.#restarts += 1;
    await this.start();
  }

  async stop(): Promise<void> {
    const instance = this.#instance;
    this.#instance = undefined;
    this.#become("off");
    await instance?.stop("the agent stops");
  }

  async #open(): Promise<InstanceFailure | undefined> {
    this.used = false;
    this.#opening = true;
    try {
      const state = await this.#parts.loadState(this.name);
      const instance = new Instance(this.#parts.lease(), this.spec);
      this.#instance = instance;
      const opened = await instance.open(state);
      if (!opened.ok) return opened;
      this.#become("on");
      return undefined;
    } catch (thrown) {
      const reason = thrown instanceof Error ? thrown.message : String(thrown);
      return { ok: false, disposition: "retry", reason, blame: true };
    } finally {
      this.#opening = false;
    }
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
