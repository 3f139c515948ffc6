/** What is kept for others: plugins' state and an operator's decisions. Writes run inside the caller's transaction. */
import type { Statement } from "better-sqlite3";
import type { StateChange, StateEntry } from "../core/ports.ts";
import type { Connection } from "./schema.ts";

/** The tables `state` and `setting`. */
export class Keepsakes {
  readonly #state: Statement<[string], StateEntry>;
  readonly #setState: Statement<[string, string, string, Uint8Array]>;
  readonly #deleteState: Statement<[string, string, string]>;
  readonly #setting: Statement<[string], { value: string }>;
  readonly #setSetting: Statement<[string, string]>;
  readonly #deleteSetting: Statement<[string]>;

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
    this.#deleteSetting = db.prepare("DELETE FROM setting WHERE key = ?");
  }

  /** Everything that a plugin keeps. */
  state(plugin: string): StateEntry[] {
    return this.#state.all(plugin);
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
