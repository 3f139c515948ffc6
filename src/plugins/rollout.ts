/**
 * A rollout: versions that are to run are vetted and started beside what runs, take their places between two chunks, and what was
 * there before ends. While a version is refused or fails to start, the one before it stays.
 */
import { messageOf, WeirError } from "../core/errors.ts";
import type { SliceHash } from "../core/frame.ts";
import type { StateEntry } from "../core/ports.ts";
import { bindingOf } from "./binding.ts";
import type { Chain } from "./chain.ts";
import { readComponent } from "./component-file.ts";
import type { Candidate } from "./discover.ts";
import type { PluginFiles } from "./files.ts";
import type { HostRoom } from "./host-room.ts";
import type { JailLayer } from "./jail-report.ts";
import type { Roster } from "./roster.ts";
import { Runner, type RunnerSpec, SWITCH_MS } from "./runner.ts";
import type { Settings } from "./settings.ts";
import { type Decision, type Versions, versionOf } from "./versions.ts";
import { type Vetted, vet } from "./vet.ts";
import type { LogLevel } from "./wire.ts";

/** Loading and `configure` together, by default. */
const START_MS = 5_000;
/** Vetting children at a time, and first starts: more would only slow each other into their deadlines. */
const VETS_AT_A_TIME = 2;
const STARTS_AT_A_TIME = 8;

/** What a rollout is made of. */
export interface RolloutParts {
  /** `<data>/cache`, which is there */
  readonly cacheDir: string;
  readonly files: PluginFiles;
  readonly versions: Versions;
  /** a plugin's committed state */
  readonly loadState: (plugin: string) => Promise<readonly StateEntry[]>;
  /** runs an action between two chunks */
  readonly exclusively: (action: () => Promise<void>) => Promise<void>;
  readonly log: (plugin: string, level: LogLevel, message: string) => void;
  readonly roster: Roster;
  readonly room: HostRoom;
  readonly chain: Chain;
  /** a version failed its first chunks, and what was before it runs again: version `to`, or the same one with its settings of before */
  readonly onReverted: (plugin: string, to: string | undefined, why: string) => void;
  /** for the check of what plugins return; by default one in JavaScript */
  readonly hashSlices?: SliceHash | undefined;
  /** default 5 s */
  readonly startMs?: number;
  /** tests only */
  readonly without?: readonly JailLayer[];
}

/** A version that is to run. */
export interface Wish {
  readonly candidate: Candidate;
  readonly decision: Decision;
  /** what the plugin's entry in the roster is made from */
  readonly key: string;
  /** the version that lies in the folder; undefined when that can't be read */
  readonly dropped: string | undefined;
  /** why it isn't the dropped version, unless that was decided */
  readonly reason?: string;
}

/** A version that may run, with what vetting made of it. */
interface Ready {
  readonly wish: Wish;
  readonly vetted: Vetted;
}

/** A runner that is to take a place in the chain. */
interface Change extends Ready {
  readonly runner: Runner;
  readonly old: Runner | undefined;
}

/** Brings versions into the chain, and plugins from one host into another. */
export class Rollout {
  readonly #parts: RolloutParts;

  constructor(parts: RolloutParts) {
    this.#parts = parts;
  }

  /**
   * Puts these versions in their places; the chain is then what the roster holds. What can't run is in the roster with its reason.
   * `limitMs`: for each `configure` that data waits for; undefined while there is no data.
   * @returns whether any of them could not be vetted or started for a reason that may pass: it is still to be wished for
   */
  async run(wishes: readonly Wish[], settings: Settings, limitMs: number | undefined): Promise<boolean> {
    const { ready, again } = await this.#vetAll(wishes, settings);
    const changes = await this.#prepare(ready, settings);
    await this.#parts.exclusively(() => this.#switch(changes, limitMs));
    await this.#keepVersions(changes);
    const instead = await this.#insteadOf(changes.filter(({ runner, old }) => runner.state !== "on" && !old));
    const later = changes.some(({ runner }) => runner.mayStartLater);
    return (instead.length > 0 && (await this.run(instead, settings, limitMs))) || again || later;
  }

  /** What is left in a host that starts nothing more goes on in a fresh one, so that the old one can end. */
  async moveFromRetired(): Promise<void> {
    const leaving = this.#parts.roster.runners.filter((runner) => runner.retired);
    await inTurns(STARTS_AT_A_TIME, leaving, (runner) => runner.prepareMove());
    await this.#parts.exclusively(() =>
      inTurns(STARTS_AT_A_TIME, leaving, (runner) => runner.move(SWITCH_MS)),
    );
  }

  async #vetAll(wishes: readonly Wish[], settings: Settings): Promise<{ ready: Ready[]; again: boolean }> {
    const ready: Ready[] = [];
    let again = false;
    await inTurns(VETS_AT_A_TIME, wishes, async (wish) => {
      try {
        ready.push({ wish, vetted: await this.#vet(wish.candidate, settings) });
      } catch (thrown) {
        const isFinal = thrown instanceof WeirError && thrown.disposition === "reject";
        again ||= !isFinal;
        const reason = isFinal ? messageOf(thrown) : `${messageOf(thrown)}; it is tried again`;
        const noted = isFinal ? wish : stillWished(wish);
        this.#parts.roster.refuse(wish.candidate.name, noted.key, reason, wish);
        const runs = this.#parts.roster.get(wish.candidate.name)?.runner !== undefined;
        const last = runs ? undefined : await this.#lastGood(noted, `what was dropped is refused: ${reason}`);
        if (last !== undefined) ready.push(...(await this.#vetAll([last], settings)).ready);
      }
    });
    return { ready, again };
  }

  /** For versions that did not start, though nothing was there before them: those that ran last. */
  async #insteadOf(changes: readonly Change[]): Promise<Wish[]> {
    const wishes = await Promise.all(
      changes.map(({ wish, runner }) => {
        const { version } = wish.candidate.manifest;
        const noted = runner.mayStartLater ? stillWished(wish) : wish;
        return this.#lastGood(noted, `version ${version} did not start: ${runner.problem}`);
      }),
    );
    return wishes.flatMap((wish) => wish ?? []);
  }

  async #vet(candidate: Candidate, settings: Settings): Promise<Vetted> {
    const { cacheDir, without } = this.#parts;
    const { memoryMiB } = settings.limits(candidate);
    const jail = without === undefined ? {} : { without };
    return await vet(candidate.hash, () => readComponent(candidate.path, candidate.hash), {
      cacheDir,
      memoryMiB,
      ...jail,
    });
  }

  /** The version that ran last, when another can't run and nothing does: as after a restart. */
  async #lastGood(wish: Wish, reason: string): Promise<Wish | undefined> {
    const { candidate, decision } = wish;
    const { versions, log } = this.#parts;
    const [id] = decision.history;
    if (id === undefined || id === versionOf(candidate)) return undefined;
    const last = await versions.last(id, (problem) => log(candidate.name, "warn", problem));
    return last && { ...wish, candidate: last, reason };
  }

  /** Starts threads beside those that run. Nothing in the chain changes yet. */
  async #prepare(ready: readonly Ready[], settings: Settings): Promise<Change[]> {
    if (ready.length === 0) return [];
    const { room, roster } = this.#parts;
    const names = new Set(ready.map(({ wish }) => wish.candidate.name));
    // What failed, and is tried again, leaves its room to the next try.
    const running = roster.entries.flatMap(({ name, candidate, runner }) =>
      runner === undefined || candidate === undefined || (runner.state === "failed" && names.has(name))
        ? []
        : [{ candidate, vetted: runner.spec.vetted }],
    );
    const coming = ready.map(({ wish, vetted }) => ({ candidate: wish.candidate, vetted }));
    const specs = Promise.allSettled(
      ready.map(({ wish, vetted }) => this.#specOf(wish.candidate, vetted, settings)),
    );
    await room.make([...running, ...coming], settings);
    const changes: Change[] = [];
    for (const [i, spec] of (await specs).entries()) {
      const one = ready[i];
      if (one === undefined) continue;
      const { candidate, key } = one.wish;
      const old = roster.get(candidate.name)?.runner;
      if (spec.status === "rejected") {
        roster.refuse(candidate.name, key, messageOf(spec.reason), one.wish);
        continue;
      }
      const runner = this.#makeRunner(spec.value, old?.state === "on" ? old.spec : undefined);
      changes.push({ ...one, runner, old });
    }
    await inTurns(STARTS_AT_A_TIME, changes, async ({ runner }) => {
      await runner.prepare();
      // One that keeps nothing needs no committed state: data doesn't wait for its `configure`.
      if (!runner.spec.grants.state) await runner.open();
    });
    return changes;
  }

  /** Between two chunks: what is ready takes its place. */
  async #switch(changes: readonly Change[], limitMs: number | undefined): Promise<void> {
    const { roster, chain, log } = this.#parts;
    await inTurns(STARTS_AT_A_TIME, changes, async ({ runner }) => {
      if (runner.spec.grants.state) await runner.open(limitMs);
    });
    const leaving: Runner[] = [];
    for (const { wish, runner, old } of changes) {
      const { candidate, decision, key, dropped } = runner.mayStartLater ? stillWished(wish) : wish;
      const { name, manifest, hash } = candidate;
      const known = roster.get(name);
      if (known !== undefined && runner.state !== "on" && old?.state === "on") {
        const why = `version ${manifest.version} did not start, the one before stays: ${runner.problem}`;
        log(name, "error", why);
        leaving.push(runner);
        roster.set({ ...known, key, dropped, decision, reason: why });
        continue;
      }
      if (old !== undefined) {
        leaving.push(old);
        if (runner.state === "on")
          log(name, "info", `version ${manifest.version} (${hash.slice(0, 12)}) has taken over`);
      }
      const why = wish.reason ?? decision.pin?.why;
      roster.set({ name, key, dropped, candidate, decision, runner, state: "off", reason: why });
    }
    chain.arrange(roster.runners);
    // Nobody waits for their end.
    void Promise.all(leaving.map((runner) => runner.stop()));
  }

  /** What runs now can be gone back to. No data waits for this. */
  async #keepVersions(changes: readonly Change[]): Promise<void> {
    const { roster, versions, log } = this.#parts;
    const keep = async ({ wish, runner }: Change): Promise<void> => {
      if (runner.state !== "on") return;
      const { name } = wish.candidate;
      const decision = await versions.ran(wish.candidate).catch((thrown: unknown) => {
        log(name, "warn", `this version can't be gone back to: ${messageOf(thrown)}`);
      });
      const entry = roster.get(name);
      if (decision !== undefined && entry?.runner === runner) roster.set({ ...entry, decision });
    };
    await Promise.all(changes.map(keep));
  }

  #makeRunner(given: RunnerSpec, fallback: RunnerSpec | undefined): Runner {
    const { exclusively, loadState, log, room, onReverted } = this.#parts;
    const { name, onFailure, id } = given;
    let reverted = false;
    const onChange = (runner: Runner): void => {
      const { state, lastError, revertedFor, spec } = runner;
      const rows = onFailure === "drop" ? "are dropped" : "pass by";
      if (state === "resting") {
        log(name, "warn", `rests a little after another failure; its rows ${rows}: ${lastError}`);
      } else if (state === "quarantined" || state === "failed") {
        log(name, "error", `${state}: ${runner.problem}; its rows ${rows}`);
      } else if (revertedFor !== undefined && state === "on" && !reverted) {
        reverted = true;
        const to = spec.id === id ? undefined : spec.id;
        const why =
          to === undefined
            ? `with its new settings it failed its first chunks, it runs with those before: ${revertedFor}`
            : `the new version failed its first chunks, the one before runs again: ${revertedFor}`;
        log(name, "error", why);
        onReverted(name, to, why);
      }
    };
    return new Runner(given, { lease: () => room.lease(), loadState, exclusively, onChange }, fallback);
  }

  /** What a plugin is run from. Rejects when its configuration doesn't fit its own schema. */
  async #specOf(candidate: Candidate, vetted: Vetted, settings: Settings): Promise<RunnerSpec> {
    const { files, startMs = START_MS, hashSlices, log } = this.#parts;
    const { name, manifest, hash } = candidate;
    const { needs, onFailure, perDevice, scheduleMs, version } = manifest;
    const options = settings.of(name);
    const { grant, order } = options;
    return {
      name,
      version,
      hash,
      id: versionOf(candidate),
      order,
      perDevice,
      lanes: settings.lanes(candidate),
      config: await files.config(manifest, options.config),
      startMs,
      onFailure,
      scheduleMs,
      vetted,
      binding: bindingOf(name, options),
      limits: settings.limits(candidate),
      grants: {
        state: needs.state && grant.state,
        alarm: needs.alarm && grant.alarm,
        publish: grant.publish,
      },
      exports: vetted.exports,
      onLog: (level, text) => log(name, level, text),
      hashSlices,
    };
  }
}

/** A wish whose entry has a key of another kind: the version is still to be wished for. */
const stillWished = (wish: Wish): Wish => ({ ...wish, key: `again ${wish.key}` });

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
