/**
 * Versions of plugins, and what an operator decided about them at run time. A version is a component with its manifest:
 *
 *     <data>/store/<id>/{component.wasm, manifest.json}      id: SHA-256 of the component's hash and the manifest
 *
 * What was decided lies in the database under `plugin/<name>`: it survives restarts.
 */
import { createHash } from "node:crypto";
import { mkdir, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, WeirError } from "../core/errors.ts";
import { readComponent } from "./component-file.ts";
import type { Candidate, KnownPlugin } from "./discover.ts";
import type { PluginFiles } from "./files.ts";

/** Versions kept of each plugin. */
const KEPT = 4;
/** Versions kept beside those, the latest ones: of plugins that were removed, often only to be copied anew. */
const SPARE = 8;

/** What was decided about a plugin. */
export interface Decision {
  readonly disabled: boolean;
  /** versions that have run, the latest first: it runs, unless another is pinned */
  readonly history: readonly string[];
  /** the version that runs instead of the dropped one as long as that one stays, and why */
  readonly pin?: { readonly to: string; readonly dropped: string; readonly why: string };
}

const NOTHING: Decision = { disabled: false, history: [] };

const isId = (value: unknown): value is string => typeof value === "string" && /^[0-9a-f]{64}$/.test(value);

/** Whether this is a decision as it was kept. */
function isDecision(value: unknown): value is Decision {
  if (!isObject(value)) return false;
  const { disabled, history, pin } = value;
  const isWhole = typeof disabled === "boolean" && Array.isArray(history) && history.every(isId);
  if (!isWhole || pin === undefined) return isWhole;
  return isObject(pin) && isId(pin["to"]) && isId(pin["dropped"]) && typeof pin["why"] === "string";
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null;

/** Where decisions are kept. */
export interface DecisionStore {
  load(key: string): Promise<string | undefined>;
  /** undefined forgets it */
  save(key: string, value: string | undefined): Promise<void>;
}

/** The identity of a version: another component or another manifest is another one. */
export const versionOf = ({ hash, manifest }: KnownPlugin): string =>
  createHash("sha256")
    .update(`${hash}\n${JSON.stringify(manifest)}`)
    .digest("hex");

const latest = (id: string, history: readonly string[]): string[] =>
  [id, ...history.filter((one) => one !== id)].slice(0, KEPT);

/** The versions of all plugins. */
export class Versions {
  readonly #dir: string;
  readonly #files: PluginFiles;
  readonly #decisions: DecisionStore;

  /** `dir`: `<data>/store`; made when something is kept there. */
  constructor(dir: string, files: PluginFiles, decisions: DecisionStore) {
    this.#dir = dir;
    this.#files = files;
    this.#decisions = decisions;
  }

  /** What was decided; nothing yet gives the defaults. */
  async decision(name: string): Promise<Decision> {
    const text = await this.#decisions.load(`plugin/${name}`);
    if (text === undefined) return NOTHING;
    const decision: unknown = JSON.parse(text);
    if (!isDecision(decision))
      throw new WeirError("plugin.refused", `${name}: what was decided about it is not readable`);
    return decision;
  }

  /** Keeps a decision. */
  async decide(name: string, decision: Decision): Promise<void> {
    await this.#decisions.save(`plugin/${name}`, JSON.stringify(decision));
  }

  /** Notes the version that lies in the folder: another one ends a rollback. */
  async dropped(candidate: Candidate): Promise<Decision> {
    const decision = await this.decision(candidate.name);
    const { pin, history, ...rest } = decision;
    if (pin === undefined || pin.dropped === versionOf(candidate)) return decision;
    const next = { ...rest, history: latest(pin.to, history) };
    await this.decide(candidate.name, next);
    return next;
  }

  /** Notes that a version runs, and keeps it. One that is pinned keeps its place in the history. */
  async ran(candidate: Candidate): Promise<Decision> {
    const id = versionOf(candidate);
    const decision = await this.decision(candidate.name);
    const { history, pin } = decision;
    const isKept = (await stat(join(this.#dir, id)).catch(() => undefined)) !== undefined;
    if (!isKept) await this.#keep(id, candidate);
    if (history[0] === id || pin?.to === id) return decision;
    const next = { ...decision, history: latest(id, history) };
    await this.decide(candidate.name, next);
    return next;
  }

  /** The version that ran before the one that runs, of those that are kept. */
  async before({ history, pin }: Decision): Promise<string | undefined> {
    const running = history.indexOf(pin?.to ?? history[0] ?? "");
    for (const id of history.slice(running + 1)) {
      const isKept = await this.load(id).then(
        () => true,
        () => false,
      );
      if (isKept) return id;
    }
    return undefined;
  }

  /**
   * A kept version.
   * @throws WeirError `plugin.refused` when it is gone or damaged
   */
  async load(id: string): Promise<Candidate> {
    try {
      const candidate = await this.#files.kept(join(this.#dir, id));
      if (versionOf(candidate) !== id) throw new Error("its bytes have changed");
      return candidate;
    } catch (thrown) {
      throw new WeirError("plugin.refused", `kept version ${id.slice(0, 12)}: ${messageOf(thrown)}`, {
        cause: thrown,
      });
    }
  }

  /** The version that ran last, for when another can't run; undefined when that one can't either, which `warn` is told. */
  async last(id: string, warn: (problem: string) => void): Promise<Candidate | undefined> {
    try {
      return await this.load(id);
    } catch (thrown) {
      warn(`the version that ran last can't run either: ${messageOf(thrown)}`);
      return undefined;
    }
  }

  /** Removes what no plugin of these names remembers, the latest few excepted. */
  async prune(names: readonly string[]): Promise<void> {
    const kept = await this.#remembered(names);
    const found = await readdir(this.#dir).catch(() => []);
    const spare = await Promise.all(
      found
        .filter((entry) => !kept.has(entry))
        .map(async (entry) => {
          const path = join(this.#dir, entry);
          return { path, time: (await stat(path)).mtimeMs };
        }),
    );
    spare.sort((a, b) => b.time - a.time);
    for (const { path } of spare.slice(SPARE)) await rm(path, { recursive: true, force: true });
  }

  /** Versions that are kept of a plugin, the latest first, and the bytes of those that none of the others remembers. */
  async kept(
    name: string,
    others: readonly string[],
  ): Promise<{ readonly versions: string[]; readonly versionBytes: number }> {
    const shared = await this.#remembered(others);
    const versions: string[] = [];
    let versionBytes = 0;
    for (const id of await this.#remembered([name])) {
      const sizes = await this.#sizes(id);
      if (sizes.length === 0) continue;
      versions.push(id);
      if (!shared.has(id)) versionBytes += sizes.reduce((sum, size) => sum + size, 0);
    }
    return { versions, versionBytes };
  }

  /** Forgets what was decided of a plugin, but for that it is disabled where that is to stay, and its versions that no other one remembers. */
  async forget(name: string, staysDisabled: boolean, others: readonly string[]): Promise<void> {
    const { disabled } = await this.decision(name);
    const shared = await this.#remembered(others);
    const gone = [...(await this.#remembered([name]))].filter((id) => !shared.has(id));
    if (staysDisabled && disabled) await this.decide(name, { ...NOTHING, disabled });
    else await this.#decisions.save(`plugin/${name}`, undefined);
    for (const id of gone) await rm(join(this.#dir, id), { recursive: true, force: true });
  }

  /** Sizes of a version's files; none when it is not kept. */
  async #sizes(id: string): Promise<number[]> {
    const folder = join(this.#dir, id);
    const files = await readdir(folder).catch(() => []);
    return await Promise.all(files.map(async (file) => (await stat(join(folder, file))).size));
  }

  /** Ids of versions that these plugins remember. */
  async #remembered(names: readonly string[]): Promise<Set<string>> {
    const ids = new Set<string>();
    for (const name of names) {
      const { history, pin } = await this.decision(name);
      for (const id of pin === undefined ? history : [...history, pin.to]) ids.add(id);
    }
    return ids;
  }

  async #keep(id: string, { manifest, path, hash }: Candidate): Promise<void> {
    const bytes = await readComponent(path, hash);
    const folder = join(this.#dir, id);
    const temporary = `${folder}.new`;
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true, mode: 0o700 });
    await writeFile(join(temporary, "manifest.json"), JSON.stringify(manifest), { mode: 0o600 });
    await writeFile(join(temporary, "component.wasm"), bytes, { mode: 0o600 });
    await rm(folder, { recursive: true, force: true });
    await rename(temporary, folder);
  }
}
