/** Opens the database of docs/specs/outbox.md, makes it where there is none, and refuses what is not ours. */
import { closeSync, existsSync, openSync, statSync } from "node:fs";
import Database from "better-sqlite3";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";
import { whyUnusable } from "./data-folder.ts";
import type { OutboxPlan } from "./plan.ts";
import { markOf, putBack, quarantine, readProblem, type Salvage } from "./quarantine.ts";
import { STEPS, type Step } from "./steps.ts";

/** "WEIR" */
const APPLICATION_ID = 0x57454952;
/** A database up to this size is checked before it is used after a stop that was not clean: some 100 ms. */
const CHECK_BYTES = 64 * 2 ** 20;
/** Pages in the WAL before it is checkpointed. */
export const WAL_PAGES = 2000;
/** Bytes of a page. A chunk of 2,048 samples takes 3 KB, so one page holds one or a few. */
export const PAGE_BYTES = 4096;

/** A connection with its settings made and its schema there. */
export type Connection = Database.Database;

/** An open database. */
interface Opened {
  readonly db: Connection;
  /** a check is still to be made */
  readonly unchecked: boolean;
  /** there was a WAL */
  readonly recovered: boolean;
}

/**
 * Opens the database of a plan. A damaged one is set aside, and a new one made.
 * @returns what was saved of a damaged database, too
 * @throws WeirError `outbox.newer-schema` or `data.unusable` (fatal)
 */
export function openDatabase(
  plan: OutboxPlan,
  nowMs: number,
): Opened & { readonly salvage: Salvage | undefined } {
  try {
    refuseMarked(plan);
    return { ...open(plan), salvage: undefined };
  } catch (thrown) {
    if (!(thrown instanceof WeirError) || thrown.code !== "outbox.corrupt") throw thrown;
    refuseUnread(plan);
    let salvage: Salvage;
    try {
      salvage = quarantine(plan.path, thrown.message, nowMs);
    } catch (cause) {
      throw new WeirError("data.unusable", `${thrown.message}; it can't be moved away: ${messageOf(cause)}`, {
        cause,
      });
    }
    try {
      return { ...open(plan, true), salvage };
    } catch (cause) {
      putBack(plan.path, salvage);
      throw cause;
    }
  }
}

/**
 * A disk that fails to read makes SQLite say that the database is damaged.
 * @throws WeirError `data.unusable` when that is so, and it is worth waiting for
 */
export function refuseUnread({ path, reopened }: OutboxPlan): void {
  const waits = reopened?.isPatient === true && reopened.damage?.isSure !== true;
  const problem = waits && existsSync(path) ? readProblem(path) : undefined;
  if (problem !== undefined) throw new WeirError("data.unusable", `${path} can't be read: ${problem}`);
}

/** Damage that is known before the file is opened. */
function refuseMarked({ path, reopened }: OutboxPlan): void {
  const mark = reopened?.damage?.isSure === true ? reopened.damage.why : markOf(path);
  // One that was put back says what it said before.
  if (mark !== undefined)
    throw new WeirError(
      "outbox.corrupt",
      mark.startsWith(path) ? mark : `${path} was found damaged while it was in use: ${mark}`,
    );
  const size = (file: string): number | undefined => statSync(file, { throwIfNoEntry: false })?.size;
  // SQLite would take it for a new one, and drop the WAL.
  const left = size(path);
  if (left === 0 && reopened !== undefined)
    throw new WeirError("outbox.corrupt", `${path} was emptied while it was in use`);
  if ((left ?? 0) > 0 || (size(`${path}-wal`) ?? 0) === 0) return;
  // Of a database that was open in this run, it may be put back.
  if (left === 0 || reopened === undefined)
    throw new WeirError("outbox.corrupt", `${path} is ${left === 0 ? "empty" : "gone"}, and its WAL is not`);
}

/** `anew`: the database before was moved away. */
function open(plan: OutboxPlan, anew = false): Opened {
  try {
    // Made here, for the mode; SQLite gives the same one to the WAL.
    if (plan.reopened !== undefined && !anew && !existsSync(plan.path))
      throw new WeirError("data.unusable", `${plan.path} is gone: is its file system mounted?`);
    closeSync(openSync(plan.path, "a", 0o600));
  } catch (thrown) {
    if (thrown instanceof WeirError) throw thrown;
    throw new WeirError("data.unusable", whyUnusable(plan.path, thrown), { cause: thrown });
  }
  // A clean stop leaves none. One that was left beside an older copy is not its own: what comes of it is to be checked.
  const wal = (statSync(`${plan.path}-wal`, { throwIfNoEntry: false })?.size ?? 0) > 0;
  let db: Connection | undefined;
  try {
    db = new Database(plan.path, { timeout: 1000 });
    return { db, unchecked: prepare(db, plan, wal), recovered: wal };
  } catch (thrown) {
    db?.close();
    if (thrown instanceof WeirError) throw thrown;
    const error = storageError(thrown);
    if (error.code === "outbox.corrupt") throw error;
    throw new WeirError("data.unusable", `${plan.path}: ${messageOf(thrown)}`, { cause: thrown });
  }
}

/** @returns whether a check is still to be made */
function prepare(db: Connection, plan: OutboxPlan, wal: boolean): boolean {
  const pragma = (text: string): unknown => db.pragma(text, { simple: true });
  const application = pragma("application_id");
  const version = Number(pragma("user_version"));
  const fresh = application === 0 && version === 0 && pragma("schema_version") === 0;
  if (!fresh && application !== APPLICATION_ID)
    throw new WeirError("data.unusable", `${plan.path} is another program's database`);
  if (version > STEPS.length) {
    throw new WeirError(
      "outbox.newer-schema",
      `${plan.path} has schema ${version}, this Weir knows ${STEPS.length}`,
    );
  }
  if (fresh) {
    // Both take effect only before the first table is made.
    pragma(`page_size = ${PAGE_BYTES}`);
    pragma("auto_vacuum = INCREMENTAL");
  }
  pragma("journal_mode = WAL");
  pragma(`synchronous = ${plan.sync}`);
  pragma(`wal_autocheckpoint = ${WAL_PAGES}`);
  pragma(`journal_size_limit = ${16 * 2 ** 20}`);
  pragma("cache_size = -8192");
  pragma("temp_store = MEMORY");
  // A file that is larger already (the limit was lowered) keeps its pages; dropping brings it under the limit.
  pragma(`max_page_count = ${Math.floor(plan.maxBytes / PAGE_BYTES)}`);
  // Before the steps: they are not to be taken on damaged pages.
  const marked = (): boolean => db.prepare("SELECT value FROM meta WHERE key = 'clean'").pluck().get() === 1;
  const clean = fresh || (!wal && marked());
  const large = statSync(plan.path).size > CHECK_BYTES;
  const suspected = plan.reopened?.damage !== undefined;
  if (!clean && (!large || suspected)) check(db, plan.path);
  migrate(db, STEPS);
  return !clean && large && !suspected;
}

/**
 * Takes the steps that a database lacks, all in one transaction with the number that says so: after a crash in the middle it is
 * as before the first of them, whatever they do.
 */
export function migrate(db: Connection, steps: readonly Step[]): void {
  const taken = Number(db.pragma("user_version", { simple: true }));
  if (taken >= steps.length) return;
  db.transaction(() => {
    for (const step of steps.slice(taken)) {
      if (typeof step === "string") db.exec(step);
      else step(db);
    }
    db.pragma(`application_id = ${APPLICATION_ID}`);
    db.pragma(`user_version = ${steps.length}`);
  }).immediate();
}

/** Finds damaged pages; of a database too large for that, {@link LateCheck} does. */
function check(db: Connection, path: string): void {
  const found = db.pragma("quick_check(1)", { simple: true });
  if (found !== "ok") throw new WeirError("outbox.corrupt", `${path}: ${String(found)}`);
}

/** The WeirError of an error that SQLite gave. */
export function storageError(thrown: unknown): WeirError {
  const code = errnoOf(thrown) ?? "";
  const damaged = code.startsWith("SQLITE_CORRUPT") || code.startsWith("SQLITE_NOTADB");
  return new WeirError(damaged ? "outbox.corrupt" : "outbox.commit", messageOf(thrown), { cause: thrown });
}
