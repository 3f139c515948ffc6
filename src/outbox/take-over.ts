/** The books of a damaged database go on in the one that takes its place. */
import type { Stream } from "../core/ports.ts";
import type { Epochs } from "./epochs.ts";
import type { Gaps } from "./gaps.ts";
import type { Keepsakes } from "./keepsakes.ts";
import type { Salvage } from "./quarantine.ts";
import type { Connection } from "./schema.ts";

/** Fills a new database with what was read of the one before; what that one's lanes held is lost. Runs inside the caller's transaction. */
export function takeOver(
  db: Connection,
  { lanes, ranges, epochs, decisions }: Salvage,
  into: { readonly epochs: Epochs; readonly kept: Keepsakes; readonly gaps: Gaps },
  nowMs: number,
): void {
  // What an uplink still has of the database before must not be taken for something of this one: there was less than one a millisecond.
  db.prepare<[number]>(
    'INSERT INTO sqlite_sequence SELECT value, ? FROM json_each(\'["gap", "effect", "dead"]\')',
  ).run(nowMs);
  const addLane = db.prepare<[string, Stream, number, number, number, number, number, number]>(
    `INSERT OR IGNORE INTO lane (uplink, stream, active, cursor, committed, acked, dropped, rejected, lost)
     VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?)`,
  );
  for (const { uplink, stream, active, committed, acked, dropped, rejected } of lanes) {
    // The stream itself: what it has numbered is among the epochs, how far the agent's own numbers have come is not.
    const lost = uplink === "" ? 0 : committed - acked - dropped - rejected;
    addLane.run(uplink, stream, active, committed, acked, dropped, rejected, lost);
  }
  for (const { epoch, stream, next } of epochs) into.epochs.remember(epoch, stream, next);
  for (const { key, value } of decisions) into.kept.setSetting(key, value);
  for (const { uplink, epoch, stream, from, to } of ranges)
    into.gaps.add(uplink, epoch, stream, from, to, "corrupt");
}
