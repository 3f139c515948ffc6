/** Publish effects that are committed and not done: a queue on disk, bounded. Every call runs inside the caller's transaction. */
import type { Statement } from "better-sqlite3";
import type { Effect } from "../core/ports.ts";
import type { Connection } from "./schema.ts";

/** A publish effect that waits to be done. */
export type PublishEffect = Extract<Effect, { type: "publish" }>;

/** Effects that may wait; beyond it the oldest are given up, and counted. */
const MOST_EFFECTS = 10_000;
/** Effects given out by one call. */
const EFFECTS_AT_ONCE = 256;

interface EffectRow {
  readonly id: number;
  readonly plugin: string;
  readonly topic: string;
  readonly payload: Buffer;
  readonly qos: 0 | 1;
  readonly retain: number;
}

/** The `effect` table. */
export class EffectQueue {
  readonly #add: Statement<[string, string, Uint8Array, number, number]>;
  readonly #bound: Statement<[number]>;
  readonly #count: Statement<[number]>;
  readonly #counted: Statement<[], number>;
  readonly #list: Statement<[number], EffectRow>;
  readonly #delete: Statement<[number]>;

  constructor(db: Connection) {
    this.#add = db.prepare("INSERT INTO effect (plugin, topic, payload, qos, retain) VALUES (?, ?, ?, ?, ?)");
    this.#bound = db.prepare(
      "DELETE FROM effect WHERE id <= (SELECT id FROM effect ORDER BY id DESC LIMIT 1 OFFSET ?)",
    );
    this.#count = db.prepare("UPDATE meta SET value = value + ? WHERE key = 'effects_dropped'");
    this.#counted = db.prepare<[], number>("SELECT value FROM meta WHERE key = 'effects_dropped'").pluck();
    this.#list = db.prepare("SELECT * FROM effect ORDER BY id LIMIT ?");
    this.#delete = db.prepare("DELETE FROM effect WHERE id = ?");
  }

  /** Effects given up, ever. */
  get dropped(): number {
    return this.#counted.get() ?? 0;
  }

  /** Adds effects behind those that wait. */
  add(effects: readonly PublishEffect[]): void {
    if (effects.length === 0) return;
    for (const { plugin, topic, payload, qos, retain } of effects)
      this.#add.run(plugin, topic, payload, qos, retain ? 1 : 0);
    const { changes } = this.#bound.run(MOST_EFFECTS);
    if (changes > 0) this.#count.run(changes);
  }

  /** The oldest that wait, some at a time. */
  list(): { readonly id: number; readonly effect: PublishEffect }[] {
    return this.#list.all(EFFECTS_AT_ONCE).map(({ id, plugin, topic, payload, qos, retain }) => ({
      id,
      effect: { type: "publish", plugin, topic, payload, qos, retain: retain === 1 },
    }));
  }

  /** Forgets those that are done. */
  done(ids: readonly number[]): void {
    for (const id of ids) this.#delete.run(id);
  }
}
