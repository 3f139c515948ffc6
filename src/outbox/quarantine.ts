/**
 * A damaged database is set aside, never deleted: moved to `quarantine/` beside it under its name and the time, with its
 * WAL. What can still be read of its books goes over to the new one, so that what was lost is counted and announced.
 */
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import Database from "better-sqlite3";
import { messageOf } from "../core/errors.ts";
import type { Stream } from "../core/ports.ts";

/** Sequence numbers, inclusive, that an uplink will not get. */
export interface LostRange {
  readonly uplink: string;
  readonly epoch: string;
  readonly stream: Stream;
  readonly from: number;
  readonly to: number;
}

/** A lane's account at the time of the damage; everything it held is lost. */
export interface LostLane {
  readonly uplink: string;
  readonly stream: Stream;
  readonly active: number;
  readonly committed: number;
  readonly acked: number;
  readonly dropped: number;
  readonly rejected: number;
}

/** What was read of a damaged database. */
export interface Salvage {
  /** where the file is now */
  readonly movedTo: string;
  readonly reason: string;
  readonly lanes: readonly LostLane[];
  readonly ranges: readonly LostRange[];
  readonly epochs: readonly { readonly epoch: string; readonly stream: Stream; readonly next: number }[];
  /** what an operator decided about plugins, by key */
  readonly decisions: readonly { readonly key: string; readonly value: string }[];
}

/** Ranges that are announced one by one; what is beyond shows in the counts. */
const MOST_RANGES = 10_000;

const marker = (path: string): string => `${path}-damaged`;

/** Notes that a running agent found the database damaged: whoever opens it next doesn't try it again. */
export function markDamaged(path: string, why: string): void {
  try {
    writeFileSync(marker(path), why, { mode: 0o600 });
  } catch {
    // A read-only or full disk: the next start finds the damage by itself, or this again.
  }
}

/** What {@link markDamaged} noted; undefined when it was not called. */
export function markOf(path: string): string | undefined {
  try {
    return existsSync(marker(path)) ? readFileSync(marker(path), "utf8") : undefined;
  } catch {
    return "";
  }
}

/** Why the bytes of a file can't be read; undefined: they can. No connection of this process may have it open: its locks would go. */
export function readProblem(path: string): string | undefined {
  try {
    const file = openSync(path, "r");
    try {
      const part = new Uint8Array(2 ** 20);
      while (readSync(file, part) > 0);
    } finally {
      closeSync(file);
    }
    return undefined;
  } catch (thrown) {
    return messageOf(thrown);
  }
}

/** Moves a WAL away that is not of the database beside it: SQLite would apply it. */
export function setWalAside(path: string, nowMs: number): void {
  renameSync(`${path}-wal`, `${placeFor(path, nowMs)}-wal`);
  rmSync(`${path}-shm`, { force: true });
}

/**
 * Reads what is readable of a damaged database, then moves it away. The reserve for a full disk goes first: moving it, and the new
 * database, may need room.
 */
export function quarantine(path: string, reason: string, nowMs: number): Salvage {
  const read = readBooks(path);
  rmSync(`${path}-reserve`, { force: true });
  const movedTo = placeFor(path, nowMs);
  const ends = ["", "-wal"].filter((end) => existsSync(path + end));
  for (const end of ends) renameSync(path + end, movedTo + end);
  rmSync(`${path}-shm`, { force: true });
  rmSync(marker(path), { force: true });
  return { movedTo: movedTo + (ends[0] ?? ""), reason, ...read };
}

/** Puts a damaged database back, as the new one could not be made: what was read of it is not to be lost. Never throws. */
export function putBack(path: string, { movedTo, reason }: Salvage): void {
  try {
    const moved = movedTo.replace(/-wal$/, "");
    for (const end of ["-wal", "-shm", ""]) rmSync(path + end, { force: true });
    for (const end of ["-wal", ""]) if (existsSync(moved + end)) renameSync(moved + end, path + end);
    markDamaged(path, reason);
  } catch {
    // It stays in quarantine.
  }
}

/** A name in quarantine that nothing has. */
function placeFor(path: string, nowMs: number): string {
  const folder = join(dirname(path), "quarantine");
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const time = new Date(nowMs).toISOString().replaceAll(":", "-");
  let movedTo = join(folder, `${time}-${basename(path)}`);
  for (let i = 2; existsSync(movedTo) || existsSync(`${movedTo}-wal`); i++)
    movedTo = join(folder, `${time}-${i}-${basename(path)}`);
  return movedTo;
}

function readBooks(path: string): Pick<Salvage, "lanes" | "ranges" | "epochs" | "decisions"> {
  const lanes: LostLane[] = [];
  const ranges: LostRange[] = [];
  const epochs: { epoch: string; stream: Stream; next: number }[] = [];
  const decisions: { key: string; value: string }[] = [];
  const books = { lanes, ranges, epochs, decisions };
  if ((statSync(path, { throwIfNoEntry: false })?.size ?? 0) === 0) return books;
  let db: Database.Database | undefined;
  const each = <T>(sql: string, into: (row: T) => void): void => {
    try {
      for (const row of db?.prepare<[], T>(sql).iterate() ?? []) into(row);
    } catch {
      // As far as it goes: what can't be read is not known.
    }
  };
  try {
    db = new Database(path);
    each<LostLane>(
      `SELECT uplink, stream, active, committed, acked, dropped, rejected FROM lane
       WHERE min(committed, acked, dropped, rejected) >= 0 AND (uplink = '' OR committed >= acked + dropped + rejected)`,
      (row) => lanes.push(row),
    );
    each<{ epoch: string; stream: Stream; next: number }>(
      `SELECT epoch, stream, max(next, iif(epoch = (SELECT epoch FROM epoch ORDER BY rowid DESC LIMIT 1),
         (SELECT committed FROM lane WHERE uplink = '' AND lane.stream = epoch.stream), 0)) AS next
       FROM epoch ORDER BY rowid`,
      (row) => epochs.push(row),
    );
    each<{ key: string; value: string }>(
      `SELECT key, value FROM setting WHERE key GLOB 'plugin/*' AND json_valid(value) LIMIT ${MOST_RANGES}`,
      (row) => decisions.push(row),
    );
    const add = (row: LostRange): void => {
      const last = ranges.at(-1);
      const follows =
        last?.uplink === row.uplink &&
        last.epoch === row.epoch &&
        last.stream === row.stream &&
        last.to + 1 === row.from;
      if (follows) ranges[ranges.length - 1] = { ...last, to: row.to };
      else if (ranges.length < MOST_RANGES) ranges.push(row);
    };
    each<LostRange>(
      `SELECT uplink, epoch, stream, seq AS "from", seq + span - 1 AS "to" FROM batch ORDER BY uplink, stream, id`,
      add,
    );
    each<LostRange>(
      `SELECT lane.uplink, epoch, lane.stream, seq AS "from", seq + chunk.samples - 1 AS "to"
       FROM lane JOIN chunk ON chunk.stream = lane.stream AND (chunk.id > lane.cursor OR EXISTS (
         SELECT 1 FROM backlog WHERE backlog.uplink = lane.uplink AND backlog.stream = lane.stream
         AND chunk.id BETWEEN backlog.first AND backlog.last))
       WHERE active = 1 ORDER BY lane.uplink, lane.stream, chunk.id`,
      add,
    );
    // What was dropped before and not yet announced still is to be.
    each<LostRange>(`SELECT uplink, epoch, stream, first AS "from", last AS "to" FROM gap ORDER BY id`, add);
  } catch {
    // Not a database any more.
  } finally {
    db?.close();
  }
  return books;
}
