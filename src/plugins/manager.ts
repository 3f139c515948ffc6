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
import { Settings } from "./settings.ts";
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
    Pick<HostRoomOptions, "slots"> {
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
      onReverted: (name, dropped, why) => this.#stayOnBefore(name, dropped, why),
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
    await this.#reconcile();
    const watch = new FolderWatch(resolve(this.#settings.dir), () => this.#reconcile());
    this.#watch = watch;
    await watch.start();
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
    await this.#decide(name, (decision) => ({ ...decision, disabled: true }));
  }

  /** Lets a disabled or quarantined plugin in again. Throws like {@link disable}. */
  async enable(name: string): Promise<void> {
    await this.#decide(name, (decision) => ({ ...decision, disabled: false }));
    const { runner } = this.#roster.get(name) ?? {};
    if (runner !== undefined && runner.state !== "on") await this.restart(name);
  }

  /**
   * Goes back to the version before the one that runs, until the dropped file changes.
   * @throws WeirError `plugin.refused` when no earlier one is kept
   */
  async rollback(name: string): Promise<void> {
    await this.#decide(name, (decision) => {
      const { history, pin } = decision;
      const dropped = this.#roster.get(name)?.dropped;
      const to = history[history.indexOf(pin?.to ?? history[0] ?? "") + 1];
      if (dropped === undefined || to === undefined) {
        throw new WeirError("plugin.refused", `${name}: no version that ran before this one is kept`);
      }
      return { ...decision, pin: { to, dropped, why: "rolled back" } };
    });
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

  async #decide(name: string, change: (decision: Decision) => Decision): Promise<void> {
    if (this.#roster.get(name) === undefined)
      throw new WeirError("plugin.refused", `${name}: no such plugin; \`weir plugin ls\` lists them`);
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
    const { wishes, gone } = await this.#look();
    if (wishes.length === 0 && gone.length === 0) return;
    if (wishes.length > 0) await openCache(cacheDir);
    // At the start no data waits yet.
    const limitMs = this.#watch === undefined ? undefined : SWITCH_MS;
    this.#tryAgain(await this.#rollout.run(wishes, this.#settings, limitMs));
    await Promise.all(gone.map((runner) => runner.stop()));
    for (const { name } of gone) this.#log(name, "info", "stopped: removed or disabled");
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
  async #look(): Promise<{ wishes: Wish[]; gone: Runner[] }> {
    const { dir, named } = this.#settings;
    const { candidates, refused } = await this.#parts.files.discover(resolve(dir));
    const seen = new Set([...candidates, ...refused].map(({ name }) => name));
    const wishes: Wish[] = [];
    const gone: Runner[] = [];
    for (const { name, reason } of refused) this.#roster.refuse(name, `refused ${reason}`, reason);
    for (const name of new Set([...this.#roster.names, ...named])) {
      const missing = `named in the configuration, but not in ${dir}`;
      if (seen.has(name) || this.#roster.get(name)?.key === missing) continue;
      gone.push(...this.#roster.forget(name));
      if (named.includes(name)) this.#roster.refuse(name, missing, missing);
    }
    for (const dropped of candidates) {
      const found = await this.#wishFor(dropped);
      if (found === undefined) continue;
      const { off, wish } = found;
      if (off === undefined) {
        wishes.push(wish);
        continue;
      }
      const { name } = dropped;
      gone.push(...this.#roster.forget(name));
      this.#roster.set({
        ...wish,
        name,
        runner: undefined,
        state: "disabled",
        reason: `disabled by ${off}`,
      });
    }
    return { wishes, gone };
  }

  /** What is to run of a plugin, and by what it is off if it is; undefined when that is as it was. */
  async #wishFor(dropped: Candidate): Promise<{ wish: Wish; off: string | undefined } | undefined> {
    const { versions } = this.#parts;
    const { name } = dropped;
    const decision = await versions.dropped(dropped);
    const options = this.#settings.of(name);
    const candidate =
      decision.pin === undefined ? dropped : await versions.load(decision.pin.to).catch(() => dropped);
    const off = options.enabled ? (decision.disabled ? "`weir plugin disable`" : undefined) : "weir.yaml";
    const key = JSON.stringify([versionOf(candidate), options, this.#settings.lanes(candidate), off]);
    if (this.#roster.get(name)?.key === key) return undefined;
    return { wish: { candidate, decision, key, dropped: versionOf(dropped) }, off };
  }

  /** A version that went back by itself does so after a restart, too. */
  #stayOnBefore(name: string, dropped: string, why: string): void {
    const { versions } = this.#parts;
    // In turn: the version that failed is noted first.
    void this.#inTurn(async () => {
      const decision = await versions.decision(name);
      const to = decision.history[1];
      if (to !== undefined) await versions.decide(name, { ...decision, pin: { to, dropped, why } });
      await this.#reconcileNow();
    });
  }

  #log(name: string, level: LogLevel, message: string): void {
    this.#lines.add(name, level, message);
    this.#parts.onLog(name, level, message);
  }
}
