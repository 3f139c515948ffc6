/**
 * The thread of {@link LateCheck}. Reads everything through a connection of its own, a slice at a time with a rest after each: no
 * snapshot is held for long, or the WAL would grow, and the disk and a core stay with those that need them.
 */
import { constants, setPriority } from "node:os";
import { setTimeout } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";
import Database from "better-sqlite3";
import { errnoOf, messageOf } from "../core/errors.ts";
import { STREAMS } from "../core/ports.ts";
import type { LateCheckPlan, LateCheckVerdict } from "./late-check.ts";
import type { Damage } from "./plan.ts";

/** Of blocks in a slice, about. */
const SLICE_BYTES = 2 ** 20;
/** A rest is so many times as long as the slice before it, and at least as long as this, in milliseconds. */
const REST_TIMES = 3;
const LEAST_REST_MS = 5;

/** What SQLite would not find as it looks through the file once more. */
const sure = (why: string): Damage => ({ why, isSure: true });

/** One slice after the other; each gives what is wrong with it, or undefined. */
function* slices(db: Database.Database, { epoch, next }: LateCheckPlan): Generator<LateCheckVerdict> {
  const known = db.prepare<[string]>("SELECT 1 FROM epoch WHERE epoch = ?").get(epoch);
  yield known === undefined ? sure("another database was written over it while it was in use") : undefined;
  const numbers = db.prepare<[], { stream: string; committed: number }>(
    "SELECT stream, committed FROM lane WHERE uplink = ''",
  );
  const isOlder = numbers.all().some(({ stream, committed }) => committed < (next[stream] ?? 0));
  yield isOlder ? sure("an older copy was written over it while it was in use") : undefined;
  const tables = db
    .prepare<[], string>("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'chunk'")
    .pluck()
    .all();
  for (const table of tables) {
    const found = db.pragma(`quick_check('${table}')`, { simple: true });
    yield found === "ok" ? undefined : { why: String(found), isSure: false };
  }
  // The last byte of a block makes SQLite read all of it, and nothing of it comes into this thread's memory.
  const rows = db.prepare<[number], { id: number; bytes: number }>(
    "SELECT id, length(block) AS bytes, substr(block, -1) AS last FROM chunk WHERE id > ? ORDER BY id",
  );
  const counts = db.prepare<[{ first: number; last: number }], { rows: number; entries: number }>(
    `SELECT (SELECT count(*) FROM chunk NOT INDEXED WHERE id BETWEEN :first AND :last) AS rows,
       (SELECT count(*) FROM chunk INDEXED BY chunk_stream
        WHERE stream IN (${STREAMS.map((stream) => `'${stream}'`).join()}) AND id BETWEEN :first AND :last) AS entries`,
  );
  for (let last = 0, more = true; more; ) {
    const first = last + 1;
    let bytes = 0;
    more = false;
    for (const row of rows.iterate(last)) {
      const { id } = row;
      if (id <= last) {
        yield sure(`chunk ${id} comes after chunk ${last}`);
        return;
      }
      last = id;
      bytes += row.bytes;
      more = bytes > SLICE_BYTES;
      if (more) break;
    }
    const { rows: found = 0, entries = 0 } = counts.get({ first, last }) ?? {};
    yield found === entries
      ? undefined
      : sure(`of chunks ${first} to ${last}, ${found} are stored and ${entries} in the index`);
  }
}

async function check(plan: LateCheckPlan): Promise<LateCheckVerdict> {
  const db = new Database(plan.path, { readonly: true, timeout: 1000 });
  try {
    let began = performance.now();
    for (const found of slices(db, plan)) {
      if (found !== undefined) return found;
      await setTimeout(Math.max(LEAST_REST_MS, REST_TIMES * (performance.now() - began)));
      began = performance.now();
    }
    return undefined;
  } catch (thrown) {
    const code = errnoOf(thrown) ?? "";
    // Tables are missing: it is another program's.
    if (code.startsWith("SQLITE_ERROR")) return sure(messageOf(thrown));
    if (/^SQLITE_(CORRUPT|NOTADB)/.test(code)) return { why: messageOf(thrown), isSure: false };
    throw thrown;
  } finally {
    db.close();
  }
}

const plan: LateCheckPlan = workerData;
// On Linux that is this thread alone.
if (!plan.isUrgent) setPriority(constants.priority.PRIORITY_LOW);
parentPort?.postMessage(await check(plan));
