/** Migrates a database with a step that never ends, so that whoever started this can kill it in the middle. */
import { writeSync } from "node:fs";
import Database from "better-sqlite3";
import { migrate } from "../../src/outbox/schema.ts";
import { STEPS } from "../../src/outbox/steps.ts";

const [path = ""] = process.argv.slice(2);
const db = new Database(path);
db.function("signal", () => writeSync(1, "in the middle\n"));
// Enough is written before the signal that pages are in the WAL already.
db.pragma("cache_size = 1");
migrate(db, [
  ...STEPS,
  `CREATE TABLE more (x BLOB);
   INSERT INTO more SELECT randomblob(4096) FROM (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) SELECT i FROM n);
   UPDATE chunk SET created = 0; DROP TABLE dead;
   SELECT signal();
   WITH RECURSIVE forever (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM forever) SELECT max(n) FROM forever`,
]);
