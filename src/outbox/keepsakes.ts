/** What is kept for others: plugins' state and an operator's decisions. Writes run inside the caller's transaction. */
import type { Statement } from "better-sqlite3";
import type { KeptRows, StateChange, StateEntry } from "../core/ports.ts";
import type { Connection } from "./schema.ts";

/** Rows deleted by one transaction at most. */
const SLICE_ROWS = 5_000;

/** The tables `state` and `setting`. */
export class Keepsakes {
  readonly #state: Statement<[string], StateEntry>;
  readonly #setState: Statement<[string, string, string, Uint8Array]>;
  readonly #deleteState: Statement<[string, string, string]>;
  readonly #setting: Statement<[string], { value: string }>;
  readonly #setSetting: Statement<[string, string]>;
  readonly #deleteSetting: Statement<[string]>;
  readonly #kept: Statement<[], KeptRows>;
  readonly #dropState: Statement<[string, string, number]>;

  constructor(db: Connection) {
    this.#state = db.prepare("SELECT scope, key, value FROM state WHERE plugin = ?");
    this.#setState = db.prepare(
      "INSERT INTO state VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
    );
    this.#deleteState = db.prepare("DELETE FROM state WHERE plugin = ? AND scope = ? AND key = ?");
    this.#setting = db.prepare("SELECT value FROM setting WHERE key = ?");
    this.#setSetting = db.prepare(
      "INSERT INTO setting VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
    );
    this.#kept = db.prepare(
      `SELECT plugin, sum(entries) AS entries, sum(bytes) AS bytes FROM (
         SELECT plugin, count(*) AS entries, sum(length(scope) + length(key) + length(value)) AS bytes FROM state GROUP BY plugin
         UNION ALL SELECT substr(key, 8), 0, 0 FROM setting WHERE key GLOB 'plugin/*')
       GROUP BY plugin`,
    );
    this.#dropState = db.prepare(
      `DELETE FROM state WHERE plugin = ? AND (scope, key) IN (
         SELECT scope, key FROM state WHERE plugin = ? LIMIT ?)`,
    );
    this.#deleteSetting = db.prepare("DELETE FROM setting WHERE key = ?");
  }

  /** Everything that a plugin keeps. */
  state(plugin: string): StateEntry[] {
    return this.#state.all(plugin);
  }

  /** What there is of each plugin that keeps state, or of which something was decided. */
  kept(): KeptRows[] {
    return this.#kept.all();
  }

  /** Deletes some of what a plugin keeps; whether there is more. */
  dropState(plugin: string): boolean {
    return this.#dropState.run(plugin, plugin, SLICE_ROWS).changes === SLICE_ROWS;
  }

  /** Applies what a chunk changed. */
  change(changes: Iterable<StateChange>): void {
    for (const { plugin, scope, key, value } of changes) {
      if (value === undefined) this.#deleteState.run(plugin, scope, key);
      else this.#setState.run(plugin, scope, key, value);
    }
  }

  /** What an operator decided at run time, by key; undefined when nothing was. */
  setting(key: string): string | undefined {
    return this.#setting.get(key)?.value;
  }

  /** Keeps a decision; undefined forgets it. */
  setSetting(key: string, value: string | undefined): void {
    if (value === undefined) this.#deleteSetting.run(key);
    else this.#setSetting.run(key, value);
  }
}
