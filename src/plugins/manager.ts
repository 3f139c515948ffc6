/**
 * All plugins of the agent. What should run is worked out anew whenever something changes: the folder, the configuration, or an
 * operator's decision. What is the same as before isn't touched; what is new or another version is rolled out (rollout.ts). One
 * that is refused or fails never stops the others.
 */
import { resolve } from "node:path";
import { messageOf, WeirError } from "../core/errors.ts";
import type { PluginChain } from "../core/ports.ts";
import { type PluginInfo, type PluginLine, PluginLines } from "./account.ts";
import { Chain } from "./chain.ts";
import type { Candidate } from "./discover.ts";
import { HostRoom, type HostRoomOptions } from "./host-room.ts";
import type { LayerReport } from "./jail-report.ts";
import type { PluginsOptions } from "./options.ts";
import { Rollout, type RolloutParts, type Wish } from "./rollout.ts";
import { Roster } from "./roster.ts";
import { type Runner, SWITCH_MS } from "./runner.ts";
import { offBy, Settings } from "./settings.ts";
import { type Decision, versionOf } from "./versions.ts";
import { openCache, pruneCache } from "./vet.ts";
import { FolderWatch } from "./watch.ts";
import type { LogLevel } from "./wire.ts";

/** How long after the first vetting that failed for a passing reason it is tried again; twice as long each further time, at most so long. */
const RETRY_MS = 2_000;
const MOST_RETRY_MS = 600_000;

/** What the manager needs from outside; `cacheDir` is made if it isn't there. */
export interface PluginManagerOptions
  extends Pick<
      RolloutParts,
      "cacheDir" | "files" | "versions" | "loadState" | "exclusively" | "hashSlices" | "startMs" | "without"
    >,
    Pick<HostRoomOptions, "slots" | "sizes"> {
  /** the `plugins` section of weir.yaml */
  readonly options: PluginsOptions;
  /** a plugin's log line, within its limit; or what happened to it */
  readonly onLog: (plugin: string, level: LogLevel, message: string) => void;
}

/** The plugins of one agent. */
export class PluginManager {
  readonly #parts: PluginManagerOptions;
  readonly #roster: Roster;
  readonly #room: HostRoom;
  readonly #rollout: Rollout;
  readonly #lines = new PluginLines();
  readonly #chain = new Chain([]);
  #settings: Settings;
  #watch: FolderWatch | undefined;
  #hasStarted = false;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = 0;
  #work: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(parts: PluginManagerOptions) {
    const log = this.#log.bind(this);
    this.#parts = parts;
    this.#settings = new Settings(parts.options);
    this.#roster = new Roster(log);
    this.#room = new HostRoom({
      ...parts,
      onOutput: (line) => log("host", "warn", line),
      onRetired: () => void this.#inTurn(() => this.#rollout.moveFromRetired()),
    });
    this.#rollout = new Rollout({
      ...parts,
      log,
      roster: this.#roster,
      room: this.#room,
      chain: this.#chain,
      onReverted: (name, to, why) => this.#stayOnBefore(name, to, why),
    });
  }

  /** The chain; the same object for the manager's whole life. */
  get chain(): PluginChain {
    return this.#chain;
  }

  /** How the walls around the plugin host stand; undefined while there is none. */
  get layers(): LayerReport | undefined {
    return this.#room.layers;
  }

  /** Process ids of the plugin host. */
  get pids(): readonly number[] {
    return this.#room.pids;
  }

  /** Every plugin that was found or is named in weir.yaml, by name. */
  list(): PluginInfo[] {
    return this.#roster.list(this.#settings);
  }

  /** The latest log lines of a plugin, oldest first. */
  logs(name: string): readonly PluginLine[] {
    return this.#lines.list(name);
  }

  /** Finds, vets and starts the plugins, then watches the folder. Resolves when each of them is on, or out with its reason. */
  async start(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const watch = new FolderWatch(resolve(this.#settings.dir), () => this.#reconcile());
    this.#watch = watch;
    // That it can't is for those to say that are to run in it.
    const begun = this.#room.begin().catch(() => {});
    await Promise.all([this.#reconcile(), watch.start(), begun]);
    // Where there is nothing to run.
    await this.#room.dismiss();
    this.#hasStarted = true;
  }

  /** Takes another `plugins` section; what it doesn't change goes on untouched. The folder stays the one of the start. */
  async reconfigure(options: PluginsOptions): Promise<void> {
    this.#settings = this.#settings.with(options);
    await this.#reconcile();
  }

  /** Lets a plugin in again that failed or was quarantined. False when there is nothing to start under that name. */
  async restart(name: string): Promise<boolean> {
    const runner = this.#roster.get(name)?.runner;
    await this.#parts.exclusively(async () => runner?.revive());
    return runner?.state === "on";
  }

  /**
   * Takes a plugin out until {@link enable}, over restarts.
   * @throws WeirError `plugin.refused` for a name that isn't known
   */
  async disable(name: string): Promise<void> {
    await this.#decide(name, async (decision) => ({ ...decision, disabled: true }));
  }

  /** Lets a disabled or quarantined plugin in again. Throws like {@link disable}. */
  async enable(name: string): Promise<void> {
    await this.#decide(name, async (decision) => ({ ...decision, disabled: false }));
    const { runner } = this.#roster.get(name) ?? {};
    if (runner !== undefined && runner.state !== "on") await this.restart(name);
  }

  /**
   * Goes back to the version before the one that runs, until the dropped file changes.
   * @throws WeirError `plugin.refused` when no earlier one is kept
   */
  async rollback(name: string): Promise<void> {
    await this.#decide(name, async (decision) => {
      const { dropped, reason } = this.#roster.get(name) ?? {};
      if (dropped === undefined)
        throw new WeirError("plugin.refused", `${name}: what lies in the folder can't be read: ${reason}`);
      const to = await this.#parts.versions.before(decision);
      if (to === undefined)
        throw new WeirError("plugin.refused", `${name}: no version that ran before this one is kept`);
      return { ...decision, pin: { to, dropped, why: "rolled back" } };
    });
  }

  /** What holds for plugins now. */
  get settings(): Settings {
    return this.#settings;
  }

  /** Names of plugins that are there, or that weir.yaml names. */
  get names(): readonly string[] {
    return this.#roster.names;
  }

  /** Runs an action while no plugin comes, goes or changes, after what was to go has gone. */
  async alone<T>(action: () => Promise<T>): Promise<T> {
    let run: Promise<T> | undefined;
    await this.#inTurn(async () => {
      await this.#reconcileNow();
      run = action();
      await run.catch(() => {});
      // What is disabled shows what is kept of it.
      for (const entry of this.#roster.entries)
        if (entry.runner === undefined)
          this.#roster.set({ ...entry, decision: await this.#parts.versions.decision(entry.name) });
    });
    if (run === undefined) throw new WeirError("outbox.closed", "the agent is stopping");
    return await run;
  }

  /** Ends every instance and the host. Never throws. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    await this.#watch?.stop();
    await this.#work.catch(() => {});
    await Promise.all(this.#roster.runners.map((runner) => runner.stop()));
    await this.#room.stop();
  }

  async #decide(name: string, change: (decision: Decision) => Promise<Decision>): Promise<void> {
    if (this.#roster.get(name) === undefined)
      throw new WeirError("plugin.refused", `${name}: no such plugin; \`weir plugin ls\` lists them`);
    const { versions } = this.#parts;
    await versions.decide(name, await change(await versions.decision(name)));
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
    const { wishes, gone, again } = await this.#look().catch((thrown: unknown) => {
      this.#tryAgain(true);
      throw thrown;
    });
    if (wishes.length === 0 && gone.length === 0) {
      this.#tryAgain(again);
      return;
    }
    if (wishes.length > 0) await openCache(this.#parts.cacheDir);
    // At the start no data waits yet.
    const limitMs = this.#hasStarted ? SWITCH_MS : undefined;
    this.#tryAgain(await this.#rollout.run(wishes, this.#settings, limitMs));
    await Promise.all(gone.map((runner) => runner.stop()));
    for (const { name } of gone) this.#log(name, "info", "stopped: removed or disabled");
    // Nobody waits for this.
    void this.#inTurn(() => this.#prune());
  }

  async #prune(): Promise<void> {
    const { cacheDir, versions } = this.#parts;
    const used = this.#roster.runners.map((runner) => runner.spec.vetted.dir);
    await pruneCache(cacheDir, new Set(used)).catch(() => {});
    await versions.prune(this.#roster.names).catch(() => {});
  }

  /** Has a look again after a while, longer each time, as long as that is needed. */
  #tryAgain(isNeeded: boolean): void {
    clearTimeout(this.#retry);
    this.#retryMs = isNeeded ? Math.min(MOST_RETRY_MS, Math.max(RETRY_MS, 2 * this.#retryMs)) : 0;
    if (!isNeeded) return;
    this.#retry = setTimeout(() => void this.#reconcile(), this.#retryMs);
    this.#retry.unref();
  }

  /** Looks at the folder: which versions are to run that don't yet, and what runs that is to run no longer. */
  async #look(): Promise<{ wishes: Wish[]; gone: Runner[]; again: boolean }> {
    const { dir, named } = this.#settings;
    const { isKnown, candidates, refused } = await this.#parts.files.discover(resolve(dir));
    const seen = new Set([...candidates, ...refused].map(({ name }) => name));
    const wishes: Wish[] = [];
    const gone: Runner[] = [];
    // Of a folder that can't be read nothing is gone: what runs goes on.
    const known = isKnown ? [...this.#roster.names, ...named] : [];
    for (const name of new Set(known)) {
      const missing = `named in the configuration, but not in ${dir}`;
      if (seen.has(name) || this.#roster.get(name)?.key === missing) continue;
      gone.push(...this.#roster.forget(name));
      if (named.includes(name)) this.#roster.refuse(name, missing, missing);
    }
    const found: { name: string; wanted: () => Promise<Wanted | undefined> }[] = [
      ...refused.map(({ name, reason }) => ({ name, wanted: () => this.#wishInstead(name, reason) })),
      ...candidates.map((dropped) => ({ name: dropped.name, wanted: () => this.#wishFor(dropped) })),
    ];
    for (const { name, wanted } of found) {
      try {
        const { off, wish, key = "" } = (await wanted()) ?? {};
        if (off === undefined && wish !== undefined) wishes.push(wish);
        if (off === undefined) continue;
        gone.push(...this.#roster.forget(name));
        this.#roster.disable(name, key, `disabled by ${off}`, wish);
      } catch (thrown) {
        this.#roster.refuse(name, messageOf(thrown), messageOf(thrown));
      }
    }
    return { wishes, gone, again: !isKnown };
  }

  /** What is to run of a plugin, or by what it is off; undefined when that is as it was. */
  async #wishFor(dropped: Candidate): Promise<Wanted | undefined> {
    const { versions } = this.#parts;
    const { name } = dropped;
    let decision = await versions.dropped(dropped);
    let candidate = dropped;
    const { pin, ...rest } = decision;
    if (pin !== undefined) {
      try {
        candidate = await versions.load(pin.to);
      } catch (thrown) {
        this.#log(name, "warn", `${messageOf(thrown)}; what was dropped runs`);
        await versions.decide(name, rest);
        decision = rest;
      }
    }
    const options = this.#settings.of(name);
    const off = offBy(options, decision);
    const key = JSON.stringify([versionOf(candidate), options, this.#settings.lanes(candidate), off]);
    if (this.#roster.get(name)?.key === key) return undefined;
    return { key, off, wish: { candidate, decision, key, dropped: versionOf(dropped) } };
  }

  /** Notes why what was dropped can't be taken. Where nothing of the plugin runs, as after a restart, the version that ran last is to. */
  async #wishInstead(name: string, reason: string): Promise<Wanted | undefined> {
    const { versions } = this.#parts;
    const decision = await versions.decision(name);
    const off = offBy(this.#settings.of(name), decision);
    const key = off === undefined ? `refused ${reason}` : `off by ${off}`;
    const before = this.#roster.get(name);
    if (before?.key === key) return undefined;
    if (off !== undefined) return { key, off };
    this.#roster.refuse(name, key, reason);
    const id = decision.pin?.to ?? decision.history[0];
    if (before?.runner !== undefined || id === undefined) return undefined;
    const candidate = await versions.last(id, (problem) => this.#log(name, "warn", problem));
    const why = `what was dropped is refused: ${reason}`;
    return candidate && { key, wish: { candidate, decision, key, dropped: undefined, reason: why } };
  }

  /** A version that went back by itself does so after a restart, too. `to`: the version that runs again; the same one with other settings has none. */
  #stayOnBefore(name: string, to: string | undefined, why: string): void {
    const { versions } = this.#parts;
    // In turn: the version that failed is noted first.
    void this.#inTurn(async () => {
      const decision = await versions.decision(name);
      const entry = this.#roster.get(name);
      if (entry === undefined) return;
      const { dropped } = entry;
      if (to === undefined || dropped === undefined) this.#roster.set({ ...entry, reason: why });
      else await versions.decide(name, { ...decision, pin: { to, dropped, why } });
      await this.#reconcileNow();
    });
  }

  #log(name: string, level: LogLevel, message: string): void {
    this.#lines.add(name, level, message);
    this.#parts.onLog(name, level, message);
  }
}

/** What a look at one plugin finds to do: a version to run, or by what it is off. */
interface Wanted {
  /** of its entry in the roster */
  readonly key: string;
  readonly wish?: Wish;
  readonly off?: string | undefined;
}
