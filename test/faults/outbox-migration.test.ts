import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import { afterAll, expect, it } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import { migrate } from "../../src/outbox/schema.ts";
import { STEPS } from "../../src/outbox/steps.ts";
import { Store } from "../../src/outbox/store.ts";
import { frameOf, newPath, planFor, range, removeDatabases, uplink } from "../helpers/outbox.ts";
import { ForgetfulDisk, lacksForDisk } from "./harness/forgetful-disk.ts";
import { LONG } from "./harness/world.ts";

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

const lacks = LONG ? await lacksForDisk() : "the long form";
it.skipIf(lacks !== undefined)(
  `a power cut in the middle of a migration, and one after it, leave the database whole${lacks === undefined ? "" : ` (skipped: ${lacks})`}`,
  { timeout: 120_000 },
  async () => {
    const disk = new ForgetfulDisk();
    const at = mkdtempSync(join(tmpdir(), "weir-cut-"));
    const path = join(at, "weir.db");
    try {
      await disk.mount(at);
      copyFileSync(filled(), path);
      // A database that an earlier version was stopped with in order is on the disk.
      disk.sync();
      const child = spawn(
        process.execPath,
        [fileURLToPath(new URL("../helpers/migrate-child.ts", import.meta.url)), path],
        { stdio: ["ignore", "pipe", "inherit"] },
      );
      await once(child.stdout, "data");
      disk.sync();
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
      await disk.cut();
      for (const steps of [STEPS, [...STEPS, "CREATE TABLE added (x); UPDATE chunk SET created = 0"]]) {
        await disk.mount(at);
        const db = new Database(path);
        expect(db.pragma("integrity_check", { simple: true })).toBe("ok");
        expect(db.prepare("SELECT sum(samples) FROM chunk").pluck().get()).toBe(1000);
        expect([STEPS.length, STEPS.length + 1]).toContain(versionOf(db));
        db.pragma("journal_mode = WAL");
        db.pragma("synchronous = full");
        migrate(db, steps);
        db.close();
        await disk.cut();
      }
      await disk.mount(at);
      const db = new Database(path);
      expect([versionOf(db), db.pragma("integrity_check", { simple: true })]).toEqual([
        STEPS.length + 1,
        "ok",
      ]);
      expect(db.prepare("SELECT count(*) FROM chunk WHERE created <> 0").pluck().get()).toBe(0);
      db.close();
    } finally {
      await disk.remove();
      rmSync(at, { recursive: true, force: true });
    }
  },
);

/** Made by the first commit that had an outbox: two epochs, five lanes, batches that were sealed, acknowledged, lost. */
const FIRST_SCHEMA = "test/fixtures/outbox/first-schema.db";
const batch = { samples: 120, bytes: 1e6, ageMs: 0 };
const firstPlan = (path: string) =>
  planFor(path, {
    uplinks: [
      uplink("cloud", { streams: ["alarm", "data"], batch }),
      uplink("local", { streams: ["data", "host"], batch }),
    ],
  });

it("a database of the first schema goes on: the account, the keys, the samples, state and effects are as they were", () => {
  const path = newPath();
  copyFileSync(FIRST_SCHEMA, path);
  const before = new Database(path, { readonly: true });
  const all = (sql: string): unknown[] => before.prepare(sql).all();
  expect(versionOf(before)).toBe(1);
  const accounts = all("SELECT uplink, stream, committed, acked, dropped, rejected, lost FROM lane");
  const [sealed] = all("SELECT epoch, seq, span FROM batch WHERE stream = 'data'");
  const gaps = all(
    "SELECT epoch, stream, first AS 'from', last AS 'to', reason FROM gap WHERE uplink = 'cloud'",
  );
  const [first = "", second = ""] = before
    .prepare<[], string>("SELECT DISTINCT epoch FROM epoch")
    .pluck()
    .all();
  const state = all("SELECT scope, key, value FROM state");
  before.close();

  const store = new Store(firstPlan(path), crc32c);
  expect(store.quarantined).toBeUndefined();
  expect(store.transaction(() => store.counts())).toMatchObject(accounts);
  expect(store.kept.state("counter")).toEqual(state);
  expect(store.effects.list().map(({ effect }) => effect.topic)).toEqual(Array(3).fill("devices/x/set"));
  expect(store.transaction(() => store.gaps.list("cloud"))).toMatchObject(gaps);
  expect(store.info().epochs.map(({ epoch }) => epoch)).toEqual([first, first, first, second, second]);
  store.transaction(() => store.append({ stream: "data", frame: frameOf([7]), state: [], effects: [] }));
  const taken = (name: string, stream: string): readonly (readonly [string, number])[] => {
    const numbered: [string, number][] = [];
    for (;;) {
      const leased = store.transaction(() => store.lease(name, 8));
      if (leased.length === 0) return numbered;
      for (const one of leased) {
        if (one.stream !== stream) continue;
        if (numbered.length === 0 && name === "cloud") expect(one).toMatchObject(sealed ?? {});
        for (const frame of store.read(one))
          for (const value of frame.value) numbered.push([one.epoch, value]);
      }
      store.transaction(() =>
        store.ends.ack(
          name,
          leased.map(({ id }) => id),
        ),
      );
    }
  };
  // Device samples hold 0 to 999 and, in the second life, 1,150 to 1,649; two batches were done.
  const held = [...range(200, 1000).map((n) => [first, n]), ...range(1150, 1650).map((n) => [second, n])];
  expect(taken("cloud", "data")).toEqual([...held, [store.epoch, 7]]);
  expect(taken("local", "data")).toEqual([...held, [store.epoch, 7]]);
  for (const { committed, acked, dropped, rejected, lost } of store.transaction(() => store.counts()))
    expect(committed).toBe(acked + dropped + rejected + lost);
  store.close();

  const again = new Database(path, { readonly: true });
  expect(versionOf(again)).toBe(STEPS.length);
  expect(again.pragma("integrity_check", { simple: true })).toBe("ok");
  const tables = "SELECT group_concat(name || ' ' || type || ' ' || pk) FROM pragma_table_info(?)";
  const made = newPath();
  new Store(planFor(made), crc32c).close();
  const fresh = new Database(made, { readonly: true });
  const names = fresh
    .prepare<[], string>("SELECT name FROM sqlite_schema WHERE type = 'table'")
    .pluck()
    .all();
  for (const name of names)
    expect(again.prepare(tables).pluck().get(name), name).toBe(fresh.prepare(tables).pluck().get(name));
  fresh.close();
  again.close();
});

it("a database of a future schema is refused with both numbers, and not touched", () => {
  const path = filled();
  const db = new Database(path);
  db.pragma(`user_version = ${STEPS.length + 1}`);
  db.close();
  const bytes = readFileSync(path);
  expect(() => new Store(planFor(path), crc32c)).toThrow(
    `${path} has schema ${STEPS.length + 1}, this Weir knows ${STEPS.length}`,
  );
  expect(readFileSync(path).equals(bytes)).toBe(true);
});
