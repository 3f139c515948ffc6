import { spawn } from "node:child_process";
import { once } from "node:events";
import { statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { afterAll, expect, it } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import { migrate, STEPS } from "../../src/outbox/schema.ts";
import { Store } from "../../src/outbox/store.ts";
import { frameOf, newPath, planFor, range, removeDatabases } from "../helpers/outbox.ts";

afterAll(removeDatabases);

/** A database with a thousand samples that wait. */
function filled(): string {
  const path = newPath();
  const store = new Store(planFor(path), crc32c);
  for (let i = 0; i < 10; i++)
    store.transaction(() =>
      store.append({ stream: "data", frame: frameOf(range(i * 100, i * 100 + 100)), state: [], effects: [] }),
    );
  store.close();
  return path;
}

const versionOf = (db: Database.Database): unknown => db.pragma("user_version", { simple: true });

it("a migration takes the steps that are missing, each once", () => {
  const path = filled();
  const db = new Database(path);
  const steps = [...STEPS, "CREATE TABLE added (x)", "INSERT INTO added VALUES (7)"];
  migrate(db, steps);
  migrate(db, steps);
  expect(versionOf(db)).toBe(STEPS.length + 2);
  expect(db.prepare("SELECT x FROM added").pluck().all()).toEqual([7]);
  db.close();
});

it("a step that fails leaves everything as it was", () => {
  const path = filled();
  const db = new Database(path);
  expect(() => migrate(db, [...STEPS, "CREATE TABLE added (x)", "no SQL"])).toThrow();
  expect(versionOf(db)).toBe(STEPS.length);
  expect(db.prepare("SELECT count(*) FROM sqlite_schema WHERE name = 'added'").pluck().get()).toBe(0);
  db.close();
});

it("kill -9 in the middle of a migration leaves everything as it was, and nothing is lost", async () => {
  const path = filled();
  const child = spawn(
    process.execPath,
    [fileURLToPath(new URL("../helpers/migrate-child.ts", import.meta.url)), path],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  await once(child.stdout, "data");
  expect(statSync(`${path}-wal`).size, "pages of the migration in the WAL").toBeGreaterThan(100 * 4096);
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
  const store = new Store(planFor(path), crc32c);
  expect(store.quarantined).toBeUndefined();
  const [batch] = store.transaction(() => store.lease("up", 1));
  if (batch === undefined) throw new Error("nothing to lease");
  expect(batch.span).toBe(1000);
  expect(store.read(batch).reduce((sum, { rows }) => sum + rows, 0)).toBe(1000);
  store.close();
});
