/**
 * All plugins of the agent: finds them, vets them, starts them, replaces them while data flows, and keeps account. One that
 * is refused or fails never stops the others.
 *
 * What should run is worked out anew whenever something changes: the folder, the configuration, or an operator's
 * decision. What is the same as before isn't touched. A new version is vetted and started beside the old, takes its place
 * between two chunks, and the old one ends; while the new one is refused or fails to start, the old one stays.
 */
import { chmod, mkdir } from "node:fs/promises";
import { resolve } from "node:path";
import { messageOf, WeirError } from "../core/errors.ts";
import type { SliceHash } from "../core/frame.ts";
import type { PluginChain, StateEntry } from "../core/ports.ts";
import { type PluginInfo, type PluginLine, PluginLines } from "./account.ts";
import { Chain } from "./chain.ts";
import { type Candidate, discover } from "./discover.ts";
import { HostPool } from "./host.ts";
import type { JailLayer, LayerReport } from "./jail-report.ts";
import { mergeConfig, mergeLimits, type PluginLimits } from "./manifest.ts";
import { bindingOf, defaultPluginOptions, type PluginOptions, type PluginsOptions } from "./options.ts";
import { Runner, type RunnerSpec, SWITCH_MS } from "./runner.ts";
import { type HostRuntime, hostRuntime } from "./runtime.ts";
import { type Decision, type Versions, versionOf } from "./versions.ts";
import { pruneCache, type Vetted, vet } from "./vet.ts";
import { FolderWatch } from "./watch.ts";
import type { LogLevel } from "./wire.ts";

/** Loading and `configure` together, by default. */
const START_MS = 5_000;
/** Instances that one host can start in its life beyond those it begins with: restarts use them up, then a fresh host takes over. */
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
  /** kept versions and decisions */
  readonly versions: Versions;
  /** a plugin's committed state */
  readonly loadState: (plugin: string) => Promise<readonly StateEntry[]>;
  /** runs an action between two chunks */
  readonly exclusively: (action: () => Promise<void>) => Promise<void>;
  /** a plugin's log line, within its limit; or what happened to it */
  readonly onLog: (plugin: string, level: LogLevel, message: string) => void;
  /** for the check of what plugins return; by default one in JavaScript */
  readonly hashSlices?: SliceHash | undefined;
  /** default 5 s */
  readonly startMs?: number;
  /** instances that one host process can start beyond those it begins with; default 24 */
  readonly slots?: number;
  /** layers of the jail to leave out: tests only */
  readonly without?: readonly JailLayer[];
}

/** What is known of one plugin. */
interface Known {
  readonly name: string;
  /** what it was made from: another key means a change */
  readonly key: string;
  /** the version that lies in the folder */
  readonly dropped: string | undefined;
  readonly candidate: Candidate | undefined;
  readonly decision: Decision | undefined;
  readonly runner: Runner | undefined;
  readonly state: "refused" | "disabled" | "off";
  readonly reason: string | undefined;
}

/** What a plugin takes of a host. */
interface Size {
  readonly lanes: number;
  readonly memoryMiB: number;
}

/** A version that is to run. */
interface Wish {
  readonly candidate: Candidate;
  readonly decision: Decision;
  readonly key: string;
  /** the version that lies in the folder */
  readonly dropped: string;
}

/** A runner that is to take a place in the chain. */
interface Change extends Wish {
  /** why it isn't the dropped version */
  readonly reason: string | undefined;
  readonly runner: Runner;
  readonly old: Runner | undefined;
}

/** The plugins of one agent. */
export class PluginManager {
  readonly #parts: PluginManagerOptions;
  readonly #known = new Map<string, Known>();
  readonly #lines = new PluginLines();
  readonly #chain = new Chain([]);
  #options: PluginsOptions;
  #runtime: HostRuntime | undefined;
  #pool: HostPool | undefined;
  #watch: FolderWatch | undefined;
  #work: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(parts: PluginManagerOptions) {
    this.#parts = parts;
    this.#options = parts.options;
  }

  /** The chain; the same object for the manager's whole life. */
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
      .map((known) => this.#infoOf(known))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** The latest log lines of a plugin, oldest first. */
  logs(name: string): readonly PluginLine[] {
    return this.#lines.list(name);
  }

  /** Finds, vets and starts the plugins, then watches the folder. Resolves when each of them is on, or out with its reason. */
  async start(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    await this.#reconcile();
    const watch = new FolderWatch(resolve(this.#options.dir), () => this.#reconcile());
    this.#watch = watch;
    await watch.start();
  }

  /** Takes another `plugins` section; what it doesn't change goes on untouched. The folder stays the one of the start. */
  async reconfigure(options: PluginsOptions): Promise<void> {
    this.#options = { ...options, dir: this.#options.dir };
    await this.#reconcile();
  }

  /** Lets a plugin in again that failed or was quarantined. False when there is nothing to start under that name. */
  async restart(name: string): Promise<boolean> {
    const runner = this.#known.get(name)?.runner;
    await this.#parts.exclusively(async () => runner?.revive());
    return runner?.state === "on";
  }

  /**
   * Takes a plugin out until {@link enable}, over restarts.
   * @throws WeirError `plugin.refused` for a name that isn't known
   */
  async disable(name: string): Promise<void> {
    await this.#decide(name, (decision) => ({ ...decision, disabled: true }));
  }

  /** Lets a disabled or quarantined plugin in again. Throws like {@link disable}. */
  async enable(name: string): Promise<void> {
    await this.#decide(name, (decision) => ({ ...decision, disabled: false }));
    const { runner } = this.#known.get(name) ?? {};
    if (runner !== undefined && runner.state !== "on") await this.restart(name);
  }

  /**
   * Goes back to the version before the one that runs, until the dropped file changes.
   * @throws WeirError `plugin.refused` when no earlier one is kept
   */
  async rollback(name: string): Promise<void> {
    await this.#decide(name, (decision) => {
      const { history, pin } = decision;
      const dropped = this.#known.get(name)?.dropped;
      const to = history[history.indexOf(pin?.to ?? history[0] ?? "") + 1];
      if (dropped === undefined || to === undefined) {
        throw new WeirError("plugin.refused", `${name}: no earlier version is kept`);
      }
      return { ...decision, pin: { to, dropped, why: "rolled back" } };
    });
  }

  /** Ends every instance and the host. Never throws. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#watch?.stop();
    await this.#work.catch(() => {});
    await Promise.all([...this.#known.values()].map(({ runner }) => runner?.stop()));
    await this.#pool?.stop();
  }

  async #decide(name: string, change: (decision: Decision) => Decision): Promise<void> {
    if (!this.#known.has(name)) throw new WeirError("plugin.refused", `${name}: no such plugin`);
    const { versions } = this.#parts;
    await versions.decide(name, change(await versions.decision(name)));
    await this.#reconcile();
  }

  #reconcile(): Promise<void> {
    return this.#inTurn(() => this.#reconcileNow());
  }

  /** One at a time, and never an exception: what goes wrong is some plugin's reason, or logged. */
  #inTurn(action: () => Promise<void>): Promise<void> {
    const run = this.#work.then(async () => {
      if (this.#stopped) return;
      try {
        await action();
      } catch (thrown) {
        this.#log("plugins", "error", messageOf(thrown));
      }
    });
    this.#work = run;
    return run;
  }

  async #reconcileNow(): Promise<void> {
    const { cacheDir, versions } = this.#parts;
    const { candidates, refused } = await discover(resolve(this.#options.dir));
    const seen = new Set([...candidates.map(({ name }) => name), ...refused.map(({ name }) => name)]);
    const wanted: Wish[] = [];
    const gone: Runner[] = [];

    for (const { name, reason } of refused) this.#refuse(name, `refused ${reason}`, reason);
    for (const name of this.#options.plugins.keys()) {
      if (seen.has(name)) continue;
      const reason = `named in the configuration, but not in ${this.#options.dir}`;
      gone.push(...this.#forget(name));
      this.#refuse(name, reason, reason);
    }
    for (const name of [...this.#known.keys()]) {
      if (!seen.has(name) && !this.#options.plugins.has(name)) gone.push(...this.#forget(name));
    }
    for (const dropped of candidates) {
      const { name } = dropped;
      const decision = await versions.dropped(dropped);
      const id = versionOf(dropped);
      const options = this.#optionsOf(name);
      const candidate =
        decision.pin === undefined ? dropped : await versions.load(decision.pin.to).catch(() => dropped);
      const by = options.enabled ? (decision.disabled ? "`weir plugin disable`" : undefined) : "weir.yaml";
      const key = JSON.stringify([versionOf(candidate), options, this.#lanesOf(candidate), by]);
      if (this.#known.get(name)?.key === key) continue;
      if (by === undefined) wanted.push({ candidate, decision, key, dropped: id });
      else {
        gone.push(...this.#forget(name));
        const reason = `disabled by ${by}`;
        const state = "disabled";
        this.#known.set(name, {
          name,
          key,
          dropped: id,
          candidate,
          decision,
          runner: undefined,
          state,
          reason,
        });
      }
    }
    if (wanted.length === 0 && gone.length === 0) return;

    if (wanted.length > 0) {
      await mkdir(cacheDir, { recursive: true });
      await chmod(cacheDir, 0o755);
    }
    const changes = await this.#prepare(wanted);
    await this.#parts.exclusively(() => this.#switch(changes));
    await Promise.all(gone.map((runner) => runner.stop()));
    for (const { name } of gone) this.#log(name, "info", "stopped: removed or disabled");
    const used = [...this.#known.values()].flatMap(({ runner }) => runner?.spec.vetted.dir ?? []);
    await pruneCache(cacheDir, new Set(used)).catch(() => {});
    await versions.prune([...this.#known.keys()]).catch(() => {});
  }

  /** What is left in a host that starts nothing more goes on in a fresh one, so that the old one can end. */
  async #moveFromRetired(): Promise<void> {
    const leaving = [...this.#known.values()].flatMap(({ runner }) =>
      runner?.retired === true ? [runner] : [],
    );
    await inTurns(STARTS_AT_A_TIME, leaving, (runner) => runner.prepareMove());
    await this.#parts.exclusively(() =>
      inTurns(STARTS_AT_A_TIME, leaving, (runner) => runner.move(SWITCH_MS)),
    );
  }

  /** Vets, and starts threads beside those that run. Nothing in the chain changes yet. */
  async #prepare(wanted: readonly Wish[]): Promise<Change[]> {
    const vetted: { wish: Wish; files: Vetted; reason: string | undefined }[] = [];
    await inTurns(VETS_AT_A_TIME, wanted, async (wish) => {
      try {
        vetted.push({ wish, files: await this.#vet(wish.candidate), reason: undefined });
      } catch (thrown) {
        const reason = messageOf(thrown);
        this.#refuse(wish.candidate.name, wish.key, reason, wish);
        const last = await this.#lastGood(wish);
        if (last !== undefined) vetted.push({ ...last, reason: `what was dropped is refused: ${reason}` });
      }
    });
    if (vetted.length > 0) this.#runtime ??= await hostRuntime(this.#parts.cacheDir);
    if (vetted.length > 0) this.#resize(vetted.map(({ wish, files }) => this.#sizeOf(wish.candidate, files)));
    const changes: Change[] = [];
    for (const { wish, files, reason } of vetted) {
      const old = this.#known.get(wish.candidate.name)?.runner;
      try {
        const spec = this.#specOf(wish.candidate, files);
        const runner = this.#makeRunner(spec, wish, old?.state === "on" ? old.spec : undefined);
        changes.push({ ...wish, reason, runner, old });
      } catch (thrown) {
        this.#refuse(wish.candidate.name, wish.key, messageOf(thrown), wish);
      }
    }
    await inTurns(STARTS_AT_A_TIME, changes, async ({ runner }) => {
      await runner.prepare();
      // One that keeps nothing needs no committed state: data doesn't wait for its `configure`.
      if (!runner.spec.grants.state) await runner.open();
    });
    return changes;
  }

  async #vet(candidate: Candidate): Promise<Vetted> {
    const { cacheDir, without } = this.#parts;
    const { memoryMiB } = this.#limitsOf(candidate);
    const jail = without === undefined ? {} : { without };
    return await vet(candidate.hash, candidate.component, { cacheDir, memoryMiB, ...jail });
  }

  /** The version that ran last, when the dropped one is refused and none runs: as after a restart. */
  async #lastGood(wish: Wish): Promise<{ wish: Wish; files: Vetted } | undefined> {
    const { candidate, decision } = wish;
    const [id] = decision.history;
    if (id === undefined || id === versionOf(candidate)) return undefined;
    if (this.#known.get(candidate.name)?.runner !== undefined) return undefined;
    try {
      const last = await this.#parts.versions.load(id);
      return { wish: { ...wish, candidate: last }, files: await this.#vet(last) };
    } catch (thrown) {
      this.#log(candidate.name, "warn", `the version that ran last can't run either: ${messageOf(thrown)}`);
      return undefined;
    }
  }

  /** Between two chunks: what is ready takes its place. */
  async #switch(changes: readonly Change[]): Promise<void> {
    // At the start no data waits yet.
    const limitMs = this.#watch === undefined ? undefined : SWITCH_MS;
    await inTurns(STARTS_AT_A_TIME, changes, async ({ runner }) => {
      if (runner.spec.grants.state) await runner.open(limitMs);
    });
    const leaving: Runner[] = [];
    for (const { candidate, decision, key, dropped, reason, runner, old } of changes) {
      const { name } = candidate;
      const keepsOld = runner.state !== "on" && old?.state === "on";
      if (keepsOld) {
        const why = `version ${candidate.manifest.version} did not start, the one before stays: ${runner.lastError}`;
        this.#log(name, "error", why);
        leaving.push(runner);
        const known = this.#known.get(name);
        if (known !== undefined) this.#known.set(name, { ...known, key, dropped, decision, reason: why });
        continue;
      }
      if (old !== undefined) {
        leaving.push(old);
        this.#log(
          name,
          "info",
          `version ${candidate.manifest.version} (${candidate.hash.slice(0, 12)}) has taken over`,
        );
      }
      const history = runner.state === "on" ? await this.#parts.versions.ran(candidate) : decision;
      const why = reason ?? history.pin?.why;
      this.#known.set(name, {
        name,
        key,
        dropped,
        candidate,
        decision: history,
        runner,
        state: "off",
        reason: why,
      });
    }
    this.#chain.arrange([...this.#known.values()].flatMap(({ runner }) => runner ?? []));
    // Nobody waits for their end.
    void Promise.all(leaving.map((runner) => runner.stop()));
  }

  #makeRunner(spec: RunnerSpec, { dropped }: Wish, fallback: RunnerSpec | undefined): Runner {
    const { exclusively, loadState } = this.#parts;
    const { name, onFailure } = spec;
    const lease = (): ReturnType<HostPool["lease"]> => {
      if (this.#pool === undefined) throw new WeirError("plugin.failed", "the plugin host has stopped");
      return this.#pool.lease();
    };
    const onChange = ({ state, lastError, revertedFor }: Runner): void => {
      const rows = onFailure === "drop" ? "are dropped" : "pass by";
      if (state === "resting") {
        this.#log(name, "warn", `rests a little after another failure; its rows ${rows}: ${lastError}`);
      } else if (state === "quarantined" || state === "failed") {
        this.#log(name, "error", `${state}: ${lastError}; its rows ${rows}`);
      } else if (revertedFor !== undefined && state === "on") {
        const why = `the new version failed its first chunks, the one before runs again: ${revertedFor}`;
        this.#log(name, "error", why);
        this.#stayOnBefore(name, dropped, why);
      }
    };
    return new Runner(spec, { lease, loadState, exclusively, onChange }, fallback);
  }

  /** A version that went back by itself does so after a restart, too. */
  #stayOnBefore(name: string, dropped: string, why: string): void {
    const { versions } = this.#parts;
    void (async () => {
      const decision = await versions.decision(name);
      const to = decision.history[1];
      if (to !== undefined) await versions.decide(name, { ...decision, pin: { to, dropped, why } });
      await this.#reconcile();
    })().catch((thrown: unknown) => this.#log(name, "error", messageOf(thrown)));
  }

  #infoOf({ name, candidate, decision, runner, state, reason }: Known): PluginInfo {
    const options = this.#optionsOf(name);
    const common = {
      name,
      version: candidate?.manifest.version,
      hash: candidate?.hash,
      order: options.order,
      lanes: candidate === undefined ? 1 : this.#lanesOf(candidate),
      binding: bindingOf(name, options),
      limits: candidate === undefined ? undefined : this.#limitsOf(candidate),
      versions: decision?.history ?? [],
      pinned: decision?.pin !== undefined,
    };
    if (runner === undefined)
      return { ...common, state, reason, exports: [], failures: 0, restarts: 0, busyMs: 0, stateBytes: 0 };
    const { lastError, failures, restarts, busyMs, stateBytes } = runner;
    const exports = Object.keys(runner.spec.exports).filter((one) => one !== "lifecycle");
    const { version, hash } = runner.spec;
    return {
      ...common,
      version,
      hash,
      state: runner.state,
      reason: reason ?? lastError,
      exports,
      failures,
      restarts,
      busyMs,
      stateBytes,
    };
  }

  #optionsOf(name: string): PluginOptions {
    return this.#options.plugins.get(name) ?? defaultPluginOptions();
  }

  #limitsOf({ name, manifest }: Candidate): PluginLimits {
    return mergeLimits(this.#optionsOf(name).limits, manifest.limits);
  }

  /** In lanes run those that say they look at each device by itself. */
  #lanesOf({ manifest }: Candidate): number {
    return manifest.perDevice ? this.#options.lanes : 1;
  }

  #sizeOf(candidate: Candidate, { memories }: Pick<Vetted, "memories">): Size {
    const lanes = this.#lanesOf(candidate);
    return { lanes, memoryMiB: lanes * (WORKER_MIB + memories * this.#limitsOf(candidate).memoryMiB) };
  }

  /** Room in the host for all that run, and for new ones beside them. */
  #resize(more: readonly Size[]): void {
    const { cacheDir, without, slots = SLOTS } = this.#parts;
    const running = [...this.#known.values()].flatMap(({ candidate, runner }) =>
      runner === undefined || candidate === undefined ? [] : [this.#sizeOf(candidate, runner.spec.vetted)],
    );
    const all = [...running, ...more];
    const memoryMiB = all.reduce((sum, size) => sum + size.memoryMiB, HOST_BASE_MIB);
    const places = all.reduce((sum, { lanes }) => sum + lanes, slots);
    if (this.#pool === undefined) {
      this.#pool = new HostPool({
        cacheDir,
        slots: places,
        memoryMiB,
        onOutput: (line) => this.#log("host", "warn", line),
        onRetired: () => this.#inTurn(() => this.#moveFromRetired()),
        ...(this.#runtime === undefined ? {} : { runtime: this.#runtime }),
        ...(without === undefined ? {} : { without }),
      });
    } else this.#pool.resize(memoryMiB, places);
  }

  /** Takes a plugin out of what is known; gives back what ran. */
  #forget(name: string): Runner[] {
    const runner = this.#known.get(name)?.runner;
    this.#known.delete(name);
    return runner === undefined ? [] : [runner];
  }

  /** Notes why a plugin can't run. One that ran before stays, with the reason beside it. */
  #refuse(name: string, key: string, reason: string, wish?: Wish): void {
    const before = this.#known.get(name);
    if (before?.key === key) return;
    const runner = before?.runner;
    this.#known.set(name, {
      name,
      key,
      dropped: wish?.dropped,
      candidate: runner === undefined ? wish?.candidate : before?.candidate,
      decision: wish?.decision ?? before?.decision,
      runner,
      state: "refused",
      reason:
        runner === undefined ? reason : `what was dropped is refused, the version before stays: ${reason}`,
    });
    this.#log(name, "error", `refused: ${reason}`);
  }

  #log(name: string, level: LogLevel, message: string): void {
    this.#lines.add(name, level, message);
    this.#parts.onLog(name, level, message);
  }

  /** What a plugin is run from. Throws when its configuration doesn't fit its own schema. */
  #specOf(candidate: Candidate, vetted: Vetted): RunnerSpec {
    const { startMs = START_MS } = this.#parts;
    const { name, manifest } = candidate;
    const options = this.#optionsOf(name);
    const { needs, onFailure, perDevice, scheduleMs } = manifest;
    const { grant, order } = options;
    return {
      name,
      version: manifest.version,
      hash: candidate.hash,
      order,
      perDevice,
      lanes: this.#lanesOf(candidate),
      config: mergeConfig(manifest, options.config),
      startMs,
      onFailure,
      scheduleMs,
      vetted,
      binding: bindingOf(name, options),
      limits: this.#limitsOf(candidate),
      grants: {
        state: needs.state && grant.state,
        alarm: needs.alarm && grant.alarm,
        publish: grant.publish,
      },
      exports: vetted.exports,
      onLog: (level, text) => this.#log(name, level, text),
      hashSlices: this.#parts.hashSlices,
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
