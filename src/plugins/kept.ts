/**
 * What is kept of plugins beside their files: state, what was decided, versions. It outlasts the files, until somebody purges it.
 */
import { resolve } from "node:path";
import { WeirError } from "../core/errors.ts";
import type { KeptRows } from "../core/ports.ts";
import type { PluginFiles } from "./files.ts";
import { offBy, type Settings } from "./settings.ts";
import type { Versions } from "./versions.ts";

/** The part of it that is in the database. */
export interface KeptStore {
  list(): Promise<readonly KeptRows[]>;
  /** Deletes a plugin's state. */
  dropState(plugin: string): Promise<unknown>;
}

/** What is kept of one plugin. */
export interface KeptPlugin extends KeptRows {
  /** ids of its versions that are kept, newest first, and the bytes of those that no other plugin has */
  readonly versions: readonly string[];
  readonly versionBytes: number;
}

/** What {@link Kept} is made of. */
export interface KeptParts {
  readonly store: KeptStore;
  readonly versions: Versions;
  readonly files: PluginFiles;
  readonly settings: () => Settings;
}

/** All that is kept. */
export class Kept {
  readonly #parts: KeptParts;

  constructor(parts: KeptParts) {
    this.#parts = parts;
  }

  /** What is kept of plugins other than these. */
  async list(except: readonly string[]): Promise<KeptPlugin[]> {
    const all = await this.#parts.store.list();
    const others = all.filter(({ plugin }) => !except.includes(plugin));
    return await Promise.all(others.map((rows) => this.#of(rows, all)));
  }

  /**
   * Forgets a plugin that is removed or disabled: nothing may start it meanwhile. That it is disabled stays.
   * @returns what there was
   * @throws WeirError `plugin.refused` when it is installed and not disabled, when that can't be told, and when nothing is kept
   */
  async purge(name: string): Promise<KeptPlugin> {
    const { store, versions } = this.#parts;
    const isInstalled = await this.#isInstalled(name);
    const all = await store.list();
    const rows = all.find(({ plugin }) => plugin === name);
    if (rows === undefined)
      throw new WeirError("plugin.refused", `${name}: nothing is kept of a plugin of this name`);
    const kept = await this.#of(rows, all);
    await store.dropState(name);
    await versions.forget(name, isInstalled, namesBeside(name, all));
    return kept;
  }

  async #of(rows: KeptRows, all: readonly KeptRows[]): Promise<KeptPlugin> {
    return { ...rows, ...(await this.#parts.versions.kept(rows.plugin, namesBeside(rows.plugin, all))) };
  }

  /** Whether a plugin's files are there: then it is disabled. */
  async #isInstalled(name: string): Promise<boolean> {
    const { files, settings, versions } = this.#parts;
    const dir = resolve(settings().dir);
    const { isKnown, candidates, refused } = await files.discover(dir);
    if (!isKnown)
      throw new WeirError("plugin.refused", `${name} may be installed: ${dir}: ${refused[0]?.reason}`);
    if (![...candidates, ...refused].some((one) => one.name === name)) return false;
    if (offBy(settings().of(name), await versions.decision(name)) === undefined)
      throw new WeirError(
        "plugin.refused",
        `${name} is installed in ${dir}, and needs what it keeps: remove it there, or \`weir plugin disable ${name}\``,
      );
    return true;
  }
}

const namesBeside = (name: string, all: readonly KeptRows[]): string[] =>
  all.flatMap(({ plugin }) => (plugin === name ? [] : plugin));
