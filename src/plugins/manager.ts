/**
 * All plugins of the agent: finds them, vets them, starts them and keeps account. One that is refused or fails never
 * stops the others.
 */
import { chmod, mkdir } from "node:fs/promises";
import { resolve } from "node:path";
import { messageOf } from "../core/errors.ts";
import type { PluginChain, StateEntry } from "../core/ports.ts";
import { Chain } from "./chain.ts";
import { type Candidate, discover } from "./discover.ts";
import { HostPool } from "./host.ts";
import type { JailLayer, LayerReport } from "./jail-report.ts";
import { mergeConfig, mergeLimits, type PluginLimits } from "./manifest.ts";
import {
  type Binding,
  bindingOf,
  defaultPluginOptions,
  type PluginOptions,
  type PluginsOptions,
} from "./options.ts";
import { Runner } from "./runner.ts";
import { pruneCache, type Vetted, vet } from "./vet.ts";
import type { LogLevel } from "./wire.ts";

/** Loading and `configure` together, by default. */
const START_MS = 5_000;
/** Instances that one host can start in its life: restarts use them up, then a fresh host takes over. */
const SLOTS = 24;
/** Node itself, the host's main thread, and what is on its way. */
const HOST_BASE_MIB = 160;
/** A worker's heap and its frames, besides the component's memories. */
const WORKER_MIB = 64;
/** Vetting children at a time, and first starts: more would only slow each other into their deadlines. */
const VETS_AT_A_TIME = 2;
const STARTS_AT_A_TIME = 8;

/** What the manager needs from outside. */
export interface PluginManagerOptions {
  /** the `plugins` section of weir.yaml */
  readonly options: PluginsOptions;
  /** `<data>/cache`; made if it isn't there */
  readonly cacheDir: string;
  /** a plugin's committed state */
  readonly loadState: (plugin: string) => Promise<readonly StateEntry[]>;
  /** a plugin's log line, within its limit; or what happened to it */
  readonly onLog: (plugin: string, level: LogLevel, message: string) => void;
  /** default 5 s */
  readonly startMs?: number;
  /** instances that one host process can start; default 24 */
  readonly slots?: number;
  /** layers of the jail to leave out: tests only */
  readonly without?: readonly JailLayer[];
}

/** A plugin, for a person to look at. */
export interface PluginInfo {
  readonly name: string;
  readonly version: string | undefined;
  /** SHA-256 of the component */
  readonly hash: string | undefined;
  /** `failed`: it passed vetting but could not be started; `disabled`: by weir.yaml */
  readonly state: "vetting" | "on" | "refused" | "failed" | "quarantined" | "disabled" | "off";
  /** why it isn't on, or why it last failed */
  readonly reason: string | undefined;
  readonly order: number;
  readonly exports: readonly string[];
  readonly binding: Binding;
  readonly limits: PluginLimits | undefined;
  readonly failures: number;
  readonly restarts: number;
}

type Known = Pick<PluginInfo, "name" | "version" | "hash" | "state" | "reason" | "limits"> & {
  readonly options: PluginOptions;
  readonly runner: Runner | undefined;
};

/** The plugins of one agent. */
export class PluginManager {
  readonly #parts: PluginManagerOptions;
  readonly #known = new Map<string, Known>();
  #pool: HostPool | undefined;
  #chain: Chain = new Chain([]);

  constructor(parts: PluginManagerOptions) {
    this.#parts = parts;
  }

  /** The chain of the one lane. Empty before {@link PluginManager.start}. */
  get chain(): PluginChain {
    return this.#chain;
  }

  /** How the walls around the plugin host stand; undefined while there is none. */
  get layers(): LayerReport | undefined {
    return this.#pool?.layers;
  }

  /** Process ids of the plugin host. */
  get pids(): readonly number[] {
    return this.#pool?.pids ?? [];
  }

  /** Every plugin that was found or is named in weir.yaml, by name. */
  list(): PluginInfo[] {
    return [...this.#known.values()]
      .map(({ options, runner, ...known }): PluginInfo => {
        const binding = bindingOf(known.name, options);
        const { order } = options;
        if (runner === undefined) return { ...known, order, exports: [], binding, failures: 0, restarts: 0 };
        const { state, lastError, failures, restarts } = runner;
        const { decoder, transform, timer } = runner.spec.exports;
        const exports = [decoder, transform, timer].filter((name) => name !== undefined);
        return {
          ...known,
          state,
          reason: lastError ?? known.reason,
          order,
          exports,
          binding,
          failures,
          restarts,
        };
      })
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Finds, vets and starts the plugins. Resolves when each of them is on, or out with its reason. */
  async start(signal: AbortSignal): Promise<void> {
    const { options, cacheDir } = this.#parts;
    const { candidates, refused } = await discover(resolve(options.dir));
    for (const { name, reason } of refused) this.#refuse(name, reason);
    for (const name of options.plugins.keys()) {
      if (candidates.some((candidate) => candidate.name === name) || this.#known.has(name)) continue;
      this.#refuse(name, `named in the configuration, but not in ${options.dir}`);
    }
    const wanted = candidates.filter((candidate) => this.#optionsOf(candidate.name).enabled);
    for (const candidate of candidates) {
      this.#note(candidate, wanted.includes(candidate) ? "vetting" : "disabled");
    }
    if (wanted.length === 0 || signal.aborted) return;
    await mkdir(cacheDir, { recursive: true });
    await chmod(cacheDir, 0o755);
    const vetted = await this.#vetAll(wanted);
    if (vetted.length === 0 || signal.aborted) return;
    await this.#run(vetted);
    void pruneCache(cacheDir, new Set(vetted.map(([, { dir }]) => dir))).catch(() => {});
  }

  /** Lets a plugin in again that failed or was quarantined. False when there is nothing to start under that name. */
  async restart(name: string): Promise<boolean> {
    const runner = this.#known.get(name)?.runner;
    await runner?.revive();
    return runner?.state === "on";
  }

  /** Ends every instance and the host. Never throws. */
  async stop(): Promise<void> {
    await Promise.all([...this.#known.values()].map(({ runner }) => runner?.stop()));
    await this.#pool?.stop();
  }

  #optionsOf(name: string): PluginOptions {
    return this.#parts.options.plugins.get(name) ?? defaultPluginOptions();
  }

  #refuse(name: string, reason: string): void {
    const base = { name, version: undefined, hash: undefined, limits: undefined, ...this.#known.get(name) };
    this.#known.set(name, {
      ...base,
      state: "refused",
      reason,
      options: this.#optionsOf(name),
      runner: undefined,
    });
    this.#parts.onLog(name, "error", `refused: ${reason}`);
  }

  #note({ name, hash, manifest }: Candidate, state: "vetting" | "disabled"): void {
    const options = this.#optionsOf(name);
    const limits = mergeLimits(options.limits, manifest.limits);
    const { version } = manifest;
    this.#known.set(name, {
      name,
      version,
      hash,
      state,
      reason: undefined,
      limits,
      options,
      runner: undefined,
    });
  }

  async #vetAll(candidates: readonly Candidate[]): Promise<[Candidate, Vetted][]> {
    const { cacheDir, without } = this.#parts;
    const vetted: [Candidate, Vetted][] = [];
    await inTurns(VETS_AT_A_TIME, candidates, async (candidate) => {
      const { name, hash, component, manifest } = candidate;
      const { memoryMiB } = mergeLimits(this.#optionsOf(name).limits, manifest.limits);
      try {
        const jail = without === undefined ? {} : { without };
        vetted.push([candidate, await vet(hash, component, { cacheDir, memoryMiB, ...jail })]);
      } catch (thrown) {
        this.#refuse(name, messageOf(thrown));
      }
    });
    return vetted;
  }

  async #run(vetted: readonly [Candidate, Vetted][]): Promise<void> {
    const { cacheDir, without, slots = SLOTS, onLog, loadState } = this.#parts;
    const memory = vetted.map(([{ manifest, name }, { memories }]) => {
      const { memoryMiB } = mergeLimits(this.#optionsOf(name).limits, manifest.limits);
      return WORKER_MIB + memories * memoryMiB;
    });
    const pool = new HostPool({
      cacheDir,
      slots: Math.max(slots, vetted.length),
      memoryMiB: memory.reduce((sum, mib) => sum + mib, HOST_BASE_MIB),
      onOutput: (line) => onLog("host", "warn", line),
      ...(without === undefined ? {} : { without }),
    });
    this.#pool = pool;
    const runners: Runner[] = [];
    for (const [candidate, files] of vetted) {
      const spec = this.#specOf(candidate, files);
      if (spec === undefined) continue;
      const runner = new Runner(spec, {
        lease: () => pool.lease(),
        loadState,
        onChange: ({ state, lastError }) => {
          if (state === "quarantined" || state === "failed") {
            onLog(
              candidate.name,
              "error",
              `${state}: ${lastError}; its rows ${spec.onFailure === "drop" ? "are dropped" : "pass by"}`,
            );
          }
        },
      });
      runners.push(runner);
      const known = this.#known.get(candidate.name);
      if (known !== undefined) this.#known.set(candidate.name, { ...known, runner });
    }
    this.#chain = new Chain(runners);
    await inTurns(STARTS_AT_A_TIME, runners, (runner) => runner.start());
  }

  /** What a plugin is run from; undefined, and refused, when its configuration doesn't fit its own schema. */
  #specOf({ name, manifest }: Candidate, vetted: Vetted): Runner["spec"] | undefined {
    const { onLog, startMs = START_MS } = this.#parts;
    const options = this.#optionsOf(name);
    let config: string;
    try {
      config = mergeConfig(manifest, options.config);
    } catch (thrown) {
      this.#refuse(name, messageOf(thrown));
      return undefined;
    }
    const { needs, onFailure, scheduleMs } = manifest;
    const { grant, order } = options;
    return {
      name,
      order,
      config,
      startMs,
      onFailure,
      scheduleMs,
      vetted,
      binding: bindingOf(name, options),
      limits: mergeLimits(options.limits, manifest.limits),
      grants: {
        state: needs.state && grant.state,
        alarm: needs.alarm && grant.alarm,
        publish: grant.publish,
      },
      exports: vetted.exports,
      onLog: (level, text) => onLog(name, level, text),
    };
  }
}

/** Works through items, some at a time. */
async function inTurns<T>(
  atATime: number,
  items: readonly T[],
  work: (item: T) => Promise<void>,
): Promise<void> {
  const left = [...items];
  const turn = async (): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) await work(next);
  };
  await Promise.all(Array.from({ length: atATime }, turn));
}
