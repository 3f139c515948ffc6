/**
 * The plugin host from the agent's side: one jailed process, a control channel, and a pool of socketpairs of which each
 * instance takes one. A socketpair serves one instance, ever; when they run out, the next instance starts in a fresh
 * process, the others move there between two chunks (rollout.ts), and the old one ends with its last instance.
 */
import type { Duplex } from "node:stream";
import { messageOf, WeirError } from "../core/errors.ts";
import type { HostCommand } from "./host-child.ts";
import type { WorkerData } from "./host-worker.ts";
import { type Jailed, spawnJailed } from "./jail.ts";
import type { JailLayer, LayerReport } from "./jail-report.ts";
import { type HostRuntime, sourceRuntime } from "./runtime.ts";

/** A line on the control channel is at most this long. */
const MOST_LINE = 4_096;
/** How long a host has to end a thread, which takes 3-10 ms, before it is killed. */
const STOP_MS = 1_000;

/** What a thread is started with. */
export type ThreadData = Omit<WorkerData, "fd">;

/** A place for one instance in a host. */
export interface Slot {
  /** its socketpair; bytes from it are untrusted */
  readonly pipe: Duplex;
  /** whether its host starts nothing more: the instance should move to another */
  readonly retired: boolean;
  /** whether we killed the host, for something that another plugin did */
  readonly killed: boolean;
  /** starts the thread */
  start(data: ThreadData, heapMiB: number): void;
  /** ends the thread; kills the host when it doesn't end in time. Resolves when it is gone; never rejects. */
  stop(): Promise<void>;
  /** the last words of the thread or its process, if there were any */
  lastWords(): string | undefined;
}

/** How hosts are made. */
export interface HostOptions {
  /** folder of vetted components, the only one that a host reads besides its own code */
  readonly cacheDir: string;
  /** instances that one process can start in its life */
  readonly slots: number;
  /** what a process may hold in all */
  readonly memoryMiB: number;
  readonly onOutput: (line: string) => void;
  /** a process starts nothing more, and still runs something */
  readonly onRetired?: () => void;
  /** its own code; by default as it lies in the source tree */
  readonly runtime?: HostRuntime;
  /** tests only */
  readonly without?: readonly JailLayer[];
}

/** The processes that run plugins: one, but for the time that an old one takes to empty. */
export class HostPool {
  readonly #options: HostOptions;
  readonly #hosts = new Set<Host>();
  #layers: LayerReport | undefined;
  #memoryMiB: number;
  #slots: number;
  #stopped = false;

  constructor(options: HostOptions) {
    this.#options = options;
    this.#memoryMiB = options.memoryMiB;
    this.#slots = options.slots;
  }

  /** How the jail of the newest process stands; undefined before there was one. */
  get layers(): LayerReport | undefined {
    return this.#layers;
  }

  /** The processes that run, for tests and `weir plugin inspect`. */
  get pids(): readonly number[] {
    return [...this.#hosts].flatMap((host) => host.pid ?? []);
  }

  /**
   * A place for an instance, in a fresh process where needed.
   * @throws WeirError `plugin.failed` after {@link HostPool.stop}
   */
  lease(): Slot {
    if (this.#stopped) throw new WeirError("plugin.failed", "the plugin host has stopped");
    for (const host of this.#hosts) {
      const slot = host.lease();
      if (slot !== undefined) return slot;
      host.retire();
    }
    const slot = this.begin().lease();
    if (slot === undefined) throw new WeirError("plugin.failed", "the plugin host did not start");
    return slot;
  }

  /** Starts a process, so that it is there by the time of the first {@link lease}. Throws like `spawnJailed`. */
  begin(): Host {
    const size = { memoryMiB: this.#memoryMiB, slots: this.#slots };
    const host = new Host({ ...this.#options, ...size }, () => this.#hosts.delete(host));
    this.#hosts.add(host);
    void host.layers.then((layers) => {
      this.#layers = layers;
    });
    return host;
  }

  /** What a process may hold from now on. When that is more than before, the next instance starts a fresh process. */
  resize(memoryMiB: number, slots: number): void {
    if (memoryMiB <= this.#memoryMiB && slots <= this.#slots) return;
    this.#memoryMiB = Math.max(this.#memoryMiB, memoryMiB);
    this.#slots = Math.max(this.#slots, slots);
    for (const host of this.#hosts) host.retire();
  }

  /** Ends all processes. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all([...this.#hosts].map((host) => host.kill("the agent stops")));
  }
}

/** One process. */
class Host {
  readonly #jailed: Jailed;
  readonly #control: Duplex | undefined;
  readonly #ended: Promise<void>;
  /** threads that run, by slot, with what waits for their end */
  readonly #running = new Map<number, () => void>();
  readonly #words = new Map<number, string>();
  #free: number;
  #next = 1;
  #retired = false;
  readonly #onRetired: (() => void) | undefined;
  #dead = false;
  #killed = false;
  #end: string | undefined;
  #line = "";

  constructor(options: HostOptions, onEnd: () => void) {
    const { script, folders } = options.runtime ?? sourceRuntime();
    this.#free = options.slots;
    this.#onRetired = options.onRetired;
    this.#jailed = spawnJailed({
      script,
      readPaths: [...folders, options.cacheDir],
      pipes: 1 + options.slots,
      memoryMiB: options.memoryMiB,
      allowWorker: true,
      nodeFlags: ["--v8-pool-size=1", "--max-semi-space-size=2", "--expose-gc", "--disable-warning=PERM0006"],
      onOutput: options.onOutput,
      ...(options.without === undefined ? {} : { without: options.without }),
    });
    const { child, pipes } = this.#jailed;
    for (const pipe of pipes) pipe.on("error", () => {});
    this.#control = pipes[0];
    this.#control?.on("data", (part: unknown) => this.#hear(String(part)));
    this.#ended = new Promise((resolve) => {
      const end = (why: string): void => {
        this.#dead = true;
        this.#end ??= why;
        for (const pipe of pipes) pipe.destroy();
        for (const done of this.#running.values()) done();
        this.#running.clear();
        onEnd();
        resolve();
      };
      child.once("error", (thrown) => end(`its process did not start: ${messageOf(thrown)}`));
      child.once("exit", (code, signal) => end(`its process ended (${signal ?? `exit code ${code}`})`));
    });
  }

  get layers(): Promise<LayerReport> {
    return this.#jailed.layers;
  }

  get pid(): number | undefined {
    return this.#jailed.child.pid;
  }

  /** The next place; undefined when there is none left. */
  lease(): Slot | undefined {
    const slot = this.#next;
    const pipe = this.#jailed.pipes[slot];
    if (this.#free === 0 || this.#dead || this.#retired || pipe === undefined) return undefined;
    this.#free -= 1;
    this.#next += 1;
    const host = this;
    return {
      pipe,
      get retired() {
        return host.#retired;
      },
      get killed() {
        return host.#killed;
      },
      start: (data, heapMiB) => {
        this.#running.set(slot, () => {});
        this.#command({ start: slot, data, heapMiB });
      },
      stop: () => this.#stopThread(slot),
      lastWords: () => this.#words.get(slot) ?? this.#end,
    };
  }

  /** Nothing more is started here; it ends with its last thread. */
  retire(): void {
    if (this.#retired) return;
    this.#retired = true;
    if (this.#running.size === 0) void this.kill("it has no places left");
    else this.#onRetired?.();
  }

  async kill(why: string): Promise<void> {
    if (!this.#dead) {
      this.#killed = true;
      this.#end ??= why;
      this.#jailed.child.kill("SIGKILL");
    }
    await this.#ended;
  }

  async #stopThread(slot: number): Promise<void> {
    if (!this.#running.has(slot)) return;
    const gone = new Promise<void>((resolve) => this.#running.set(slot, resolve));
    this.#command({ stop: slot });
    const timeout = setTimeout(() => void this.kill("a thread did not end in time"), STOP_MS);
    await gone;
    clearTimeout(timeout);
  }

  #command(command: HostCommand): void {
    this.#control?.write(`${JSON.stringify(command)}\n`);
  }

  /** The only thing that a host has to say is that a thread has ended, once for each that was started. */
  #hear(part: string): void {
    if (this.#dead) return;
    this.#line += part;
    for (;;) {
      const end = this.#line.indexOf("\n");
      if (end < 0) break;
      const said = readExit(this.#line.slice(0, end));
      this.#line = this.#line.slice(end + 1);
      const done = said === undefined ? undefined : this.#running.get(said.exited);
      if (said === undefined || done === undefined) {
        void this.kill("it broke the control protocol");
        return;
      }
      this.#running.delete(said.exited);
      this.#words.set(said.exited, said.reason);
      done();
      if (this.#retired && this.#running.size === 0) void this.kill("it has no places left");
    }
    if (this.#line.length > MOST_LINE) void this.kill("it broke the control protocol");
  }
}

function readExit(line: string): { exited: number; reason: string } | undefined {
  try {
    const said: unknown = JSON.parse(line);
    if (typeof said !== "object" || said === null || !("exited" in said) || !("reason" in said))
      return undefined;
    if (typeof said.exited !== "number" || typeof said.reason !== "string") return undefined;
    return { exited: said.exited, reason: said.reason.slice(0, 500) };
  } catch {
    return undefined;
  }
}
