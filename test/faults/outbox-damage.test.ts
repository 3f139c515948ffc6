import { once } from "node:events";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import Database from "better-sqlite3";
import { afterAll, describe, expect, it } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import { messageOf } from "../../src/core/errors.ts";
import { WorkerOutbox } from "../../src/outbox/outbox.ts";
import { Store } from "../../src/outbox/store.ts";
import { frameOf, planFor, range, workerUrl } from "../helpers/outbox.ts";
import { until } from "../helpers/until.ts";

const folder = mkdtempSync(join(tmpdir(), "weir-damage-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let count = 0;

/** A database with 100 chunks of 20 samples, one batch acknowledged, that was not closed in order. */
function damaged(damage: (path: string) => void): { path: string; epoch: string; held: number } {
  const path = join(mkdtempSync(join(folder, `${count++}-`)), "weir.db");
  const store = new Store(planFor(path), crc32c);
  for (let i = 0; i < 100; i++)
    store.transaction(() =>
      store.append({ stream: "data", frame: frameOf(range(i * 20, i * 20 + 20)), state: [], effects: [] }),
    );
  const [first] = store.transaction(() => store.lease("up", 1));
  store.transaction(() => store.ends.ack("up", [first?.id ?? 0]));
  store.close();
  const db = new Database(path);
  db.exec("UPDATE meta SET value = 0 WHERE key = 'clean'");
  db.close();
  damage(path);
  return { path, epoch: store.epoch, held: 2000 - (first?.span ?? 0) };
}

/** Waits until a worker has found damage, and the next one has moved the database away. */
const setAside = (outbox: WorkerOutbox): Promise<unknown> =>
  until("it to be set aside", async () => (await outbox.info().catch(() => undefined))?.quarantined);

/** As another program does it. */
function checkpoint(path: string): void {
  const outside = new Database(path);
  outside.pragma("wal_checkpoint(TRUNCATE)");
  outside.close();
}

const change = (path: string, work: (bytes: Buffer) => void): void => {
  const bytes = readFileSync(path);
  work(bytes);
  writeFileSync(path, bytes);
};

describe("a damaged database", () => {
  it.each([
    ["zeroed", (path: string) => change(path, (bytes) => bytes.fill(0))],
    ["not a database at all", (path: string) => writeFileSync(path, "not a database\n".repeat(1000))],
    ["cut in the middle", (path: string) => truncateSync(path, 9 * 4096 + 100)],
    ["overwritten behind its schema", (path: string) => change(path, (bytes) => bytes.fill(0xee, 3 * 4096))],
    [
      "empty beside its WAL",
      (path: string) => {
        truncateSync(path, 0);
        writeFileSync(`${path}-wal`, "frames");
      },
    ],
  ])("%s is set aside, and the outbox goes on with a new one and an alarm", (_, damage) => {
    const { path } = damaged(damage);
    const bytes = readFileSync(path);
    const store = new Store(planFor(path), crc32c);
    const quarantine = join(dirname(path), "quarantine");
    const [name = ""] = readdirSync(quarantine).filter((file) => file.endsWith("weir.db"));
    expect(readFileSync(join(quarantine, name)).equals(bytes)).toBe(true);
    expect(store.quarantined).toBe(join(quarantine, name));
    store.transaction(() => store.append({ stream: "data", frame: frameOf([1]), state: [], effects: [] }));
    const [alarm, data] = store.transaction(() => store.lease("up", 2));
    expect([alarm?.stream, data?.stream]).toEqual(["alarm", "data"]);
    const [frame] = alarm === undefined ? [] : store.read(alarm);
    expect([...(frame?.devices ?? [])]).toEqual(["_gateway"]);
    expect([...(frame?.metrics ?? [])]).toContain("alarm.active;code=outbox-corrupt");
    expect(
      store
        .transaction(() => store.counts())
        .every((c) => c.committed === c.acked + c.dropped + c.rejected + c.lost + c.held),
    ).toBe(true);
    store.close();
    const after = new Store(planFor(path), crc32c);
    expect(after.quarantined).toBeUndefined();
    after.close();
  });

  it("that is gone, and its WAL is not, leaves that to be looked at; in the run that had it open it is waited for", () => {
    const { path } = damaged((file) => {
      writeFileSync(`${file}-wal`, "frames");
      rmSync(file);
    });
    expect(() => new Store(planFor(path, { reopened: { trouble: undefined } }), crc32c)).toThrow("is gone");
    const store = new Store(planFor(path), crc32c);
    expect(readFileSync(store.quarantined ?? "", "utf8")).toBe("frames");
    store.close();
  });

  it.each([300, 2500])(
    "that another file replaces while it is in use does not give that its WAL (%i chunks later)",
    (chunks) => {
      const { path } = damaged(() => {});
      const copy = join(dirname(path), "copy.db");
      const clean = new Store(planFor(path), crc32c);
      clean.close();
      writeFileSync(copy, readFileSync(path));
      const store = new Store(planFor(path), crc32c);
      for (let i = 0; i < chunks; i++)
        store.transaction(() =>
          store.append({ stream: "data", frame: frameOf(range(0, 20)), state: [], effects: [] }),
        );
      renameSync(copy, path);
      store.close();
      expect(readdirSync(join(dirname(path), "quarantine"))).toHaveLength(1);
      const after = new Store(planFor(path), crc32c);
      expect([after.quarantined, after.copied?.includes("another file")]).toEqual([undefined, true]);
      const data = after.transaction(() => after.counts()).find(({ stream }) => stream === "data");
      expect(data?.committed).toBe(2000);
      after.close();
    },
  );

  it("whose books can be read is accounted for: what was held is lost, and announced", () => {
    const { path, epoch, held } = damaged((file) => {
      const db = new Database(file);
      db.exec(
        `INSERT INTO setting VALUES ('plugin/x', '{"disabled":true,"history":[]}'), ('plugin/y', '{"dis')`,
      );
      const root = Number(
        db.prepare("SELECT rootpage FROM sqlite_schema WHERE name = 'state'").pluck().get(),
      );
      db.close();
      change(file, (bytes) => bytes.fill(0xee, (root - 1) * 4096, root * 4096));
    });
    const store = new Store(planFor(path), crc32c);
    expect(store.quarantined).toBeDefined();
    const data = store.transaction(() => store.counts()).find(({ stream }) => stream === "data");
    expect(data).toMatchObject({ committed: 2000, acked: 2000 - held, lost: held, held: 0 });
    expect(store.transaction(() => store.gaps.list("up"))).toMatchObject([
      { epoch, stream: "data", from: 2000 - held, to: 1999, reason: "corrupt" },
    ]);
    expect(store.info().epochs).toEqual([{ epoch, stream: "data", lastSeq: 1999 }]);
    expect(["plugin/x", "plugin/y"].map((key) => store.kept.setting(key))).toEqual([
      '{"disabled":true,"history":[]}',
      undefined,
    ]);
    store.close();
  });

  it("with bits flipped in stored blocks alone is found out by their checksums", () => {
    const { path } = damaged(() => {});
    change(path, (bytes) => {
      for (let at = bytes.indexOf("pump-1"); at >= 0; at = bytes.indexOf("pump-1", at + 1))
        bytes[at] = (bytes[at] ?? 0) ^ 1;
    });
    const store = new Store(planFor(path), crc32c);
    const [batch] = store.transaction(() => store.lease("up", 8));
    if (batch === undefined) throw new Error("nothing to lease");
    expect(() => store.read(batch)).toThrow();
    store.close();
    expect(existsSync(join(dirname(path), "quarantine"))).toBe(false);
  });

  const large = ["whole", "with a page of its chunks zeroed", "with a chunk that its index lacks"] as const;
  it.each(large)("too large to be checked before it is used is checked while it is: %s", async (state) => {
    const { path, epoch } = damaged(() => {});
    const db = new Database(path);
    const add = `INSERT INTO chunk SELECT i, 'host', '', i, 1, 1, 1, randomblob(15000) FROM n`;
    db.exec(`WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 5500) ${add}`);
    const leaf = Number(
      db
        .prepare(
          "SELECT pageno FROM dbstat WHERE name = 'chunk' AND pagetype = 'leaf' ORDER BY path DESC LIMIT 1 OFFSET 9",
        )
        .pluck()
        .get(),
    );
    if (state === large[2]) {
      db.unsafeMode();
      const row = db.prepare("SELECT * FROM sqlite_schema WHERE name = 'chunk_stream'").raw().get();
      db.exec(
        "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'chunk_stream'; PRAGMA writable_schema = RESET",
      );
      db.exec(`WITH n(i) AS (SELECT 6000) ${add}`);
      db.exec("PRAGMA writable_schema = ON");
      db.prepare("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)").run(row);
    }
    db.close();
    if (state === large[1]) change(path, (bytes) => bytes.fill(0, (leaf - 1) * 4096, leaf * 4096));
    const plan = planFor(path, { maxBytes: 2 ** 30 });
    if (state === large[0]) {
      const thread = new Worker(new URL("../../src/outbox/late-check-thread.ts", import.meta.url), {
        workerData: { path, epoch, next: {}, isUrgent: false },
      });
      expect(await once(thread, "message")).toEqual([undefined]);
      return;
    }
    const outbox = new WorkerOutbox(workerUrl, plan);
    const first = await outbox.start();
    await setAside(outbox);
    expect(outbox.epoch).not.toBe(first);
    await outbox.stop();
  });

  const other = (): Buffer => readFileSync(damaged(() => {}).path);
  const inUse: readonly (readonly [string, (path: string) => void])[] = [
    ["with another outbox", (path) => writeFileSync(path, other())],
    ["with an older copy of itself", (path) => writeFileSync(path, readFileSync(`${path}-older`))],
    ["with a file of another kind", (path) => writeFileSync(path, "not a database\n".repeat(20_000))],
    [
      "with zeroes in its middle",
      (path) => {
        const file = openSync(path, "r+");
        writeSync(file, Buffer.alloc(40 * 4096), 0, 40 * 4096, 20 * 4096);
        closeSync(file);
      },
    ],
    ["with its first half alone", (path) => truncateSync(path, 30 * 4096)],
    ["with nothing", (path) => truncateSync(path, 0)],
  ];
  it.each(inUse)(
    "that is written over %s while it is in use is set aside, without a restart",
    async (_, how) => {
      const path = join(mkdtempSync(join(folder, `${count++}-`)), "weir.db");
      const outbox = new WorkerOutbox(workerUrl, planFor(path));
      const epoch = await outbox.start();
      const append = (values: readonly number[]): Promise<void> =>
        outbox.append({ stream: "data", frame: frameOf(values), state: [], effects: [] });
      for (let i = 0; i < 100; i++) await append(Array.from({ length: 400 }, Math.random));
      checkpoint(path);
      writeFileSync(`${path}-older`, readFileSync(path));
      await append([1]);
      const [leased] = await outbox.lease("up", 1);
      checkpoint(path);
      how(path);
      await setAside(outbox);
      expect(outbox.epoch).not.toBe(epoch);
      // What an uplink still had of it means nothing to the one that is there now.
      await outbox.ack("up", [leased?.id ?? 0]);
      expect(
        await outbox.append({ stream: "data", frame: frameOf([0]), state: [], effects: [] }).catch(messageOf),
      ).toMatch(/may not be stored/);
      await outbox.resume();
      await append([1, 2, 3]);
      const alarms = await outbox.lease("up", 1, { stream: "alarm" });
      expect(alarms.map(({ samples }) => samples)).toEqual([3]);
      const data = (await outbox.counts()).find(({ stream }) => stream === "data");
      expect(data?.held).toBe(3);
      const [next] = await outbox.lease("up", 1, { stream: "data" });
      expect(next?.id).toBeGreaterThan(leased?.id ?? 0);
      await outbox.stop();
      expect(readdirSync(join(dirname(path), "quarantine")).length).toBeGreaterThan(0);
    },
  );

  it("that another program checkpoints while it is in use is looked at, and found whole", async () => {
    const path = join(mkdtempSync(join(folder, `${count++}-`)), "weir.db");
    const outbox = new WorkerOutbox(workerUrl, planFor(path));
    const epoch = await outbox.start();
    for (let i = 0; i < 20; i++) {
      await outbox.append({ stream: "data", frame: frameOf(range(0, 400)), state: [], effects: [] });
      const outside = new Database(path);
      outside.pragma("wal_checkpoint(TRUNCATE)");
      outside.close();
      await setTimeout(100);
    }
    expect(outbox.epoch).toBe(epoch);
    expect((await outbox.counts()).find(({ stream }) => stream === "data")?.held).toBe(8_000);
    await outbox.stop();
  });

  it("cut in its WAL keeps everything before the cut", () => {
    const path = join(mkdtempSync(join(folder, "wal-")), "weir.db");
    const store = new Store(planFor(path), crc32c);
    for (let i = 0; i < 50; i++)
      store.transaction(() => store.append({ stream: "data", frame: frameOf([i]), state: [], effects: [] }));
    const copy = join(dirname(path), "copy.db");
    writeFileSync(copy, readFileSync(path));
    const wal = readFileSync(`${path}-wal`);
    writeFileSync(`${copy}-wal`, wal.subarray(0, wal.length - 20_000));
    store.close();
    const after = new Store(planFor(copy), crc32c);
    // The alarm that this is a copy comes first.
    const batch = after.transaction(() => after.lease("up", 2)).find(({ stream }) => stream === "data");
    expect(batch?.seq).toBe(0);
    expect(batch?.span).toBeGreaterThan(10);
    expect(batch?.span).toBeLessThan(50);
    after.close();
  });
});
