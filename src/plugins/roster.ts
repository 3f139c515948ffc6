/** The roster: every plugin that was found or is named in weir.yaml, what runs of it, and why it is out where it is. */
import type { PluginInfo } from "./account.ts";
import { bindingOf } from "./binding.ts";
import type { KnownPlugin } from "./discover.ts";
import type { PluginOptions } from "./options.ts";
import { NO_MEMORY, type Runner } from "./runner.ts";
import type { Settings } from "./settings.ts";
import type { Decision } from "./versions.ts";
import type { LogLevel } from "./wire.ts";

/** What is known of one plugin. */
export interface Entry {
  readonly name: string;
  /** what it was made from: another key means a change */
  readonly key: string;
  /** the version that lies in the folder */
  readonly dropped: string | undefined;
  readonly candidate: KnownPlugin | undefined;
  readonly decision: Decision | undefined;
  readonly runner: Runner | undefined;
  readonly state: "refused" | "disabled" | "off";
  readonly reason: string | undefined;
}

/** The plugins of one agent, by name. */
export class Roster {
  readonly #entries = new Map<string, Entry>();
  readonly #log: (name: string, level: LogLevel, message: string) => void;

  constructor(log: (name: string, level: LogLevel, message: string) => void) {
    this.#log = log;
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  get entries(): Entry[] {
    return [...this.#entries.values()];
  }

  /** What runs, or ran until it failed. */
  get runners(): Runner[] {
    return this.entries.flatMap(({ runner }) => runner ?? []);
  }

  get(name: string): Entry | undefined {
    return this.#entries.get(name);
  }

  set(entry: Entry): void {
    this.#entries.set(entry.name, entry);
  }

  /** Takes a plugin out; gives back what ran. */
  forget(name: string): Runner[] {
    const runner = this.#entries.get(name)?.runner;
    this.#entries.delete(name);
    return runner === undefined ? [] : [runner];
  }

  /** Notes why a plugin can't run. One that ran before stays, with the reason beside it. */
  refuse(
    name: string,
    key: string,
    reason: string,
    wish?: Pick<Entry, "dropped" | "candidate" | "decision">,
  ): void {
    const before = this.#entries.get(name);
    if (before?.key === key) return;
    const runner = before?.runner;
    this.set({
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

  /** Notes that a plugin is not to run, in the place of what was known of it. */
  disable(
    name: string,
    key: string,
    reason: string,
    wish?: Pick<Entry, "dropped" | "candidate" | "decision">,
  ): void {
    const { dropped, candidate, decision } = wish ?? {};
    this.set({ name, key, dropped, candidate, decision, runner: undefined, state: "disabled", reason });
  }

  /** Every plugin for people to look at, by name. */
  list(settings: Settings): PluginInfo[] {
    return this.entries.map((entry) => infoOf(entry, settings)).sort((a, b) => (a.name < b.name ? -1 : 1));
  }
}

function infoOf({ name, candidate, decision, runner, state, reason }: Entry, settings: Settings): PluginInfo {
  const options = settings.of(name);
  const common = {
    name,
    version: candidate?.manifest.version,
    hash: candidate?.hash,
    order: options.order,
    lanes: candidate === undefined ? 1 : settings.lanes(candidate),
    binding: bindingOf(name, options),
    limits: candidate === undefined ? undefined : settings.limits(candidate),
    ...rightsOf(candidate, options),
    versions: decision?.history ?? [],
    pinned: decision?.pin !== undefined,
    behind: runner?.state === "on" && reason !== undefined,
  };
  if (runner === undefined)
    return {
      ...common,
      ...NO_MEMORY,
      state,
      reason,
      exports: [],
      failures: 0,
      restarts: 0,
      busyMs: 0,
      stateBytes: 0,
    };
  const { problem, failures, restarts, busyMs, stateBytes, memory } = runner;
  const { version, hash } = runner.spec;
  return {
    ...common,
    version,
    hash,
    state: runner.state,
    reason: reason ?? problem,
    exports: Object.keys(runner.spec.exports).filter((one) => one !== "lifecycle"),
    failures,
    restarts,
    busyMs,
    stateBytes,
    ...memory,
  };
}

/** Requests and grants: state and alarms are granted on request, what may be published is the operator's word alone. */
function rightsOf(
  plugin: KnownPlugin | undefined,
  { grant }: PluginOptions,
): Pick<PluginInfo, "asks" | "grants"> {
  const needs = plugin?.manifest.needs;
  const plain = (["state", "alarm"] as const).filter((right) => needs?.[right] === true);
  const topics = (patterns: readonly string[]): string[] => patterns.map((pattern) => `publish ${pattern}`);
  return {
    asks: [...plain, ...topics(needs?.publish ?? [])],
    grants: [...plain.filter((right) => grant[right]), ...topics(grant.publish)],
  };
}
