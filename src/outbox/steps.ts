/**
 * The steps of the schema (docs/specs/outbox.md): the first makes the tables, each further one changes them. `user_version` is how many
 * were taken. A step that was released never changes.
 */
import type Database from "better-sqlite3";

/** One step, inside the transaction of all: statements, or what depends on what is there. */
export type Step = string | ((db: Database.Database) => void);

const FIRST_TABLES = `
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('clean', 0), ('effects_dropped', 0), ('alarm', 0);
CREATE TABLE epoch (
  epoch TEXT NOT NULL, stream TEXT NOT NULL, next INTEGER NOT NULL,
  UNIQUE (epoch, stream)
) STRICT;
CREATE TABLE chunk (
  id INTEGER PRIMARY KEY,
  stream TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, samples INTEGER NOT NULL,
  bytes INTEGER NOT NULL, created INTEGER NOT NULL, block BLOB NOT NULL
) STRICT;
CREATE INDEX chunk_stream ON chunk (stream, id);
CREATE TABLE lane (
  uplink TEXT NOT NULL, stream TEXT NOT NULL, active INTEGER NOT NULL, cursor INTEGER NOT NULL,
  pending_samples INTEGER NOT NULL DEFAULT 0, pending_bytes INTEGER NOT NULL DEFAULT 0,
  committed INTEGER NOT NULL DEFAULT 0, acked INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0,
  rejected INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (uplink, stream)
) STRICT, WITHOUT ROWID;
CREATE TABLE batch (
  id INTEGER PRIMARY KEY,
  uplink TEXT NOT NULL, stream TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, span INTEGER NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL, bytes INTEGER NOT NULL, created INTEGER NOT NULL,
  historical INTEGER NOT NULL
) STRICT;
CREATE TABLE backlog (
  uplink TEXT NOT NULL, stream TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  samples INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY (uplink, stream, last)
) STRICT, WITHOUT ROWID;
CREATE TABLE gap (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  uplink TEXT NOT NULL, epoch TEXT NOT NULL, stream TEXT NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE TABLE dead (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  uplink TEXT NOT NULL, stream TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, samples INTEGER NOT NULL,
  reason TEXT NOT NULL, rejected INTEGER NOT NULL, block BLOB NOT NULL
) STRICT;
CREATE TABLE state (
  plugin TEXT NOT NULL, scope TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (plugin, scope, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE effect (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  plugin TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL, retain INTEGER NOT NULL
) STRICT;
`;

/** What the earliest databases lack. */
const LATER_TABLES = `
CREATE TABLE IF NOT EXISTS setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS backlog (
  uplink TEXT NOT NULL, stream TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  samples INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY (uplink, stream, last)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('alarm', 0);
`;

/** A batch had the time of its sealing; what could be sealed then was live. */
const BATCH_BEFORE = `
ALTER TABLE batch RENAME TO batch_before;
CREATE TABLE batch (
  id INTEGER PRIMARY KEY,
  uplink TEXT NOT NULL, stream TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, span INTEGER NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL, bytes INTEGER NOT NULL, created INTEGER NOT NULL,
  historical INTEGER NOT NULL
) STRICT;
INSERT INTO batch SELECT id, uplink, stream, epoch, seq, span, first, last, bytes,
  coalesce((SELECT created FROM chunk WHERE chunk.id = batch_before.last), sealed), 0 FROM batch_before;
DROP TABLE batch_before;
`;

/** Databases from before the first release say 1, whatever tables they have: here they become one. */
function unite(db: Database.Database): void {
  db.exec(LATER_TABLES);
  const columns = db.prepare<[], string>("SELECT name FROM pragma_table_info('batch')").pluck().all();
  if (columns.includes("sealed")) db.exec(BATCH_BEFORE);
}

/** What is known of devices; `last` has their latest values, some devices to a block. */
const DEVICE_TABLES = `
CREATE TABLE device (
  device TEXT PRIMARY KEY, stream TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, about TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE last (id INTEGER PRIMARY KEY, block BLOB NOT NULL) STRICT;
`;

/** All of them. */
export const STEPS: readonly Step[] = [FIRST_TABLES, unite, DEVICE_TABLES];
