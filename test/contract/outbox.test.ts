import Database from "better-sqlite3";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import { Kind } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import type { Chunk, Effect, LeasedBatch, StateChange } from "../../src/core/ports.ts";
import { exportChunks } from "../../src/outbox/export.ts";
import { WorkerOutbox } from "../../src/outbox/outbox.ts";
import type { OutboxPlan } from "../../src/outbox/plan.ts";
import {
  frameOf,
  newPath,
  numbers,
  parse,
  planFor,
  range,
  removeDatabases,
  uplink,
  workerUrl,
} from "../helpers/outbox.ts";

afterAll(removeDatabases);

const running = new Set<WorkerOutbox>();
afterEach(async () => {
  await Promise.all(Array.from(running, (outbox) => outbox.stop()));
  running.clear();
});

async function open(plan: OutboxPlan): Promise<WorkerOutbox> {
  const outbox = new WorkerOutbox(workerUrl, plan);
  await outbox.start();
  running.add(outbox);
  return outbox;
}

const chunk = (values: readonly number[], more: Partial<Chunk> = {}): Chunk => ({
  stream: "data",
  frame: frameOf(values),
  state: [],
  effects: [],
  ...more,
});

const change = (key: string, value: number[] | undefined, scope = ""): StateChange => ({
  plugin: "p",
  scope,
  key,
  value: value === undefined ? undefined : Uint8Array.from(value),
});

const alarm = (device: string, code: string, active: boolean): Effect => ({
  type: "alarm",
  plugin: "p",
  device,
  code,
  active,
  severity: "critical",
  message: `${code} ${active}`,
});

const publish = (topic: string): Effect => ({
  type: "publish",
  plugin: "p",
  topic,
  payload: Uint8Array.of(1, 2),
  qos: 1,
  retain: false,
});

/** The next batches of an uplink, once there are any. */
async function leased(outbox: WorkerOutbox, name = "up", count = 32): Promise<readonly LeasedBatch[]> {
  for (;;) {
    const ready = new Promise<void>((resolve) => {
      const off = outbox.onReady(() => {
        off();
        resolve();
      });
    });
    const batches = await outbox.lease(name, count);
    if (batches.length > 0) return batches;
    await ready;
  }
}

/** Runs statements over a connection of its own, as another program would. */
function sql<T>(path: string, work: (db: Database.Database) => T): T {
  const db = new Database(path);
  try {
    return work(db);
  } finally {
    db.close();
  }
}

describe("rows that are not sent with their batch", () => {
  it("count as dropped where the uplink's filter leaves them out", async () => {
    const filter = { devices: ["pump-*"], metrics: ["*"] };
    const outbox = await open(planFor(newPath(), { uplinks: [uplink("up", { filter })] }));
    await outbox.append(chunk(range(0, 3)));
    await outbox.append(chunk([], { frame: frameOf(range(3, 8), "valve-1") }));
    const batches = await leased(outbox);
    expect(batches.flatMap(numbers)).toEqual(range(0, 3));
    expect(batches.reduce((sum, { key }) => sum + key.span, 0)).toBe(8);
    // Sent again after a lost connection: counted once all the same.
    await outbox.release(
      "up",
      batches.map(({ id }) => id),
    );
    const again = await leased(outbox);
    await outbox.ack(
      "up",
      again.map(({ id }) => id),
    );
    expect((await outbox.counts()).filter(({ stream }) => stream === "data")).toMatchObject([
      { committed: 8, acked: 3, dropped: 5, rejected: 0, held: 0 },
    ]);
    expect(await outbox.gaps("up")).toEqual([]);
  });

  it("are set aside, counted and announced where one is over the size of a message", async () => {
    const path = newPath();
    const outbox = await open(planFor(path));
    const builder = new FrameBuilder();
    for (const text of ["short", "x".repeat(3000), "short again"]) {
      const value = builder.text(text);
      builder.add(builder.device("d"), builder.metric("note"), 1_763_640_000_000_000, Kind.text, 0, value);
    }
    await outbox.append(chunk([], { frame: builder.build() }));
    const lease = async (): Promise<readonly LeasedBatch[]> => {
      for (;;) {
        const batches = await outbox.lease("up", 8, { payloadBytes: 1000 });
        if (batches.length > 0) return batches;
      }
    };
    const first = await lease();
    await outbox.release("up", [first[0]?.id ?? 0]);
    const [batch] = await lease();
    expect(batch?.samples).toBe(2);
    expect(batch?.messages.map((message) => parse(message).id)).toEqual([
      `gw/${outbox.epoch}/data/0`,
      `gw/${outbox.epoch}/data/2`,
    ]);
    await outbox.ack("up", [batch?.id ?? 0]);
    expect((await outbox.counts()).filter(({ stream }) => stream === "data")).toMatchObject([
      { committed: 3, acked: 2, dropped: 0, rejected: 1, held: 0 },
    ]);
    expect(await outbox.gaps("up")).toMatchObject([{ from: 1, to: 1, reason: "rejected" }]);
    const [dead, ...others] = [...exportChunks(path, undefined, crc32c, "rejected")];
    expect(others).toEqual([]);
    expect(dead).toMatchObject({ seq: 1, frame: { rows: 1 }, rejected: { uplink: "up" } });
    expect(dead?.rejected?.reason).toMatch(/^a payload of \d+ bytes, where .* room for 1000$/);
  });
});

describe("the outbox", () => {
  it("gives committed samples out in order, under consecutive numbers, and forgets them once acknowledged", async () => {
    const path = newPath();
    const outbox = await open(planFor(path));
    await Promise.all(
      [range(0, 3), range(3, 10), range(10, 11)].map((values) => outbox.append(chunk(values))),
    );
    const batches = await leased(outbox);
    expect(batches.flatMap(numbers)).toEqual(range(0, 11));
    let next = 0;
    for (const { key } of batches) {
      expect(key).toMatchObject({ epoch: outbox.epoch, stream: "data", seq: next });
      next += key.span;
    }
    expect(next).toBe(11);
    const [first] = batches;
    expect(parse(first?.messages[0]).id).toBe(`gw/${outbox.epoch}/data/0`);
    expect(first?.messages[0]?.topic).toBe("w/gw/data");
    const ids = batches.map(({ id }) => id);
    await outbox.ack("up", ids);
    await outbox.ack("up", ids);
    expect((await outbox.counts()).find(({ stream }) => stream === "data")).toMatchObject({
      committed: 11,
      acked: 11,
      held: 0,
    });
    expect(sql(path, (db) => db.prepare("SELECT count(*) FROM chunk").pluck().get())).toBe(0);
  });

  it("seals by samples, by bytes, and by age, in whole chunks", async () => {
    const limits = { samples: 5, bytes: 1_000_000, ageMs: 3_600_000 };
    const uplinks = [
      uplink("samples", { batch: limits }),
      uplink("bytes", { batch: { ...limits, samples: 1_000_000, bytes: 150 } }),
      uplink("age", { batch: { ...limits, samples: 1_000_000, ageMs: 20 } }),
    ];
    const outbox = await open(planFor(newPath(), { uplinks }));
    for (const from of [0, 2, 4, 6]) await outbox.append(chunk([from, from + 1]));
    const spans = async (name: string): Promise<number[]> =>
      (await leased(outbox, name)).map(({ key }) => key.span);
    // A third chunk would make six; the last two wait for their age.
    expect(await spans("samples")).toEqual([4]);
    // A chunk is about 74 bytes of JSON.
    expect(await spans("bytes")).toEqual([4]);
    const byAge = await leased(outbox, "age");
    expect(byAge.flatMap(numbers)).toEqual(range(0, 8));
  });

  it("gives alarms before data before the host's own", async () => {
    const outbox = await open(planFor(newPath()));
    await Promise.all([
      outbox.append(chunk([1], { stream: "host" })),
      outbox.append(chunk([2], { effects: [alarm("pump-1", "hot", true)] })),
    ]);
    const batches = await leased(outbox);
    expect(batches.map(({ key }) => key.stream)).toEqual(["alarm", "data", "host"]);
    expect(batches.map(({ key }) => key.seq)).toEqual([0, 0, 0]);
    expect(parse(batches[0]?.messages[0]).samples).toMatchObject([
      {
        device: "pump-1",
        values: {
          "alarm.active;code=hot": true,
          "alarm.severity;code=hot": "critical",
          "alarm.message;code=hot": "hot true",
        },
      },
    ]);
  });

  it("keeps an alarm's retained message while it is active, and empties it when it ends", async () => {
    const topics = {
      batch: "w/{stream}",
      last: undefined,
      meta: undefined,
      alarm: "w/alarm/{device}/{code}",
    };
    const outbox = await open(planFor(newPath(), { uplinks: [uplink("up", { topics })] }));
    await outbox.append(chunk([], { effects: [alarm("pump-1", "a/b", true)] }));
    const [raised] = await leased(outbox);
    expect(raised?.messages[1]).toMatchObject({ topic: "w/alarm/pump-1/a%2Fb", retain: true });
    expect(parse(raised?.messages[1])).toMatchObject({
      device: "pump-1",
      code: "a/b",
      active: true,
      severity: "critical",
      message: "a/b true",
    });
    await outbox.append(chunk([], { effects: [alarm("pump-1", "a/b", false)] }));
    const [ended] = await leased(outbox);
    expect(ended?.messages[1]).toMatchObject({
      topic: "w/alarm/pump-1/a%2Fb",
      retain: true,
      payload: new Uint8Array(),
    });
  });

  it("leases what was released again, before what came later, and under the same key", async () => {
    const outbox = await open(
      planFor(newPath(), { uplinks: [uplink("up", { batch: { samples: 1, bytes: 1e6, ageMs: 0 } })] }),
    );
    for (const value of [1, 2, 3, 4]) await outbox.append(chunk([value]));
    const first = await outbox.lease("up", 3);
    expect(first.map(({ key }) => key.seq)).toEqual([0, 1, 2]);
    await outbox.ack(
      "up",
      first.slice(1, 2).map(({ id }) => id),
    );
    await outbox.release(
      "up",
      [first[0], first[2]].map((batch) => batch?.id ?? 0),
    );
    const again = await outbox.lease("up", 10);
    expect(again.map(({ key }) => key.seq)).toEqual([0, 2, 3]);
    expect(again[0]).toEqual(first[0]);
    expect(await outbox.lease("up", 10)).toEqual([]);
  });

  it("gives an unacknowledged batch out again after a restart: same key, same bytes, its own epoch", async () => {
    const path = newPath();
    const before = await open(planFor(path));
    await before.append(chunk(range(0, 50)));
    const [lost] = await leased(before);
    await before.append(chunk(range(50, 60)));
    await before.stop();
    const after = await open(planFor(path));
    expect(after.epoch).not.toBe(before.epoch);
    expect((await after.info()).epochs).toEqual([{ epoch: before.epoch, stream: "data", lastSeq: 59 }]);
    await after.append(chunk([60]));
    const batches = await leased(after);
    expect(batches[0]).toEqual(lost);
    expect(batches.map(({ key }) => [key.epoch, key.seq, key.span])).toEqual([
      [before.epoch, 0, 50],
      [before.epoch, 50, 10],
      [after.epoch, 0, 1],
    ]);
  });

  it("sets a rejected batch aside with the reason, and goes on", async () => {
    const path = newPath();
    const outbox = await open(planFor(path));
    await outbox.append(chunk(range(0, 7)));
    const [batch] = await leased(outbox);
    await outbox.reject("up", batch?.id ?? 0, "topic not allowed");
    await outbox.append(chunk([7]));
    expect((await leased(outbox)).flatMap(numbers)).toEqual([7]);
    expect((await outbox.counts()).find(({ stream }) => stream === "data")).toMatchObject({
      committed: 8,
      rejected: 7,
      held: 1,
    });
    const dead = sql(path, (db) => db.prepare("SELECT uplink, seq, samples, reason FROM dead").all());
    expect(dead).toEqual([{ uplink: "up", seq: 0, samples: 7, reason: "topic not allowed" }]);
  });

  it("stores nothing after a failed commit until it is resumed", async () => {
    const path = newPath();
    const outbox = await open(planFor(path));
    await outbox.append(chunk([0]));
    const other = new Database(path);
    other.exec("BEGIN IMMEDIATE");
    const failures = await Promise.allSettled([
      outbox.append(chunk([1], { state: [change("k", [1])] })),
      outbox.append(chunk([2])),
    ]);
    other.close();
    expect(failures.map((outcome) => outcome.status)).toEqual(["rejected", "rejected"]);
    await expect(outbox.append(chunk([3]))).rejects.toMatchObject({
      code: "outbox.commit",
      disposition: "retry",
    });
    await outbox.resume();
    await outbox.append(chunk([4]));
    expect((await leased(outbox)).flatMap(numbers)).toEqual([0, 4]);
    expect(await outbox.state("p")).toEqual([]);
    expect((await outbox.counts()).find(({ stream }) => stream === "data")).toMatchObject({ committed: 2 });
  });

  it("keeps a plugin's state as its last commit left it, also without samples, and over a restart", async () => {
    const path = newPath();
    const outbox = await open(planFor(path));
    await outbox.append(
      chunk([1], {
        state: [change("a", [1]), change("b", [2, 3]), change("empty", []), change("a", [9], "pump-1")],
      }),
    );
    await outbox.append(chunk([], { state: [change("a", undefined), change("b", [4])] }));
    const expected = [
      { scope: "", key: "b", value: Uint8Array.of(4) },
      { scope: "", key: "empty", value: new Uint8Array() },
      { scope: "pump-1", key: "a", value: Uint8Array.of(9) },
    ];
    expect(await outbox.state("p")).toEqual(expected);
    expect(await outbox.state("other")).toEqual([]);
    await outbox.stop();
    expect(await (await open(planFor(path))).state("p")).toEqual(expected);
  });

  it("keeps publish effects until they are done, in order", async () => {
    const path = newPath();
    const outbox = await open(planFor(path));
    await outbox.append(chunk([], { effects: [publish("a"), publish("b")] }));
    await outbox.stop();
    const after = await open(planFor(path));
    const effects = await after.effects();
    expect(effects.map(({ effect }) => effect)).toEqual([publish("a"), publish("b")]);
    await after.effectsDone(effects.slice(0, 1).map(({ id }) => id));
    expect((await after.effects()).map(({ effect }) => effect)).toEqual([publish("b")]);
  });

  it("commits a stream that no uplink takes without storing it", async () => {
    const path = newPath();
    const outbox = await open(planFor(path, { uplinks: [uplink("up", { streams: ["data"] })] }));
    await outbox.append(chunk(range(0, 100), { stream: "host", state: [change("k", [1])] }));
    expect(await outbox.state("p")).toHaveLength(1);
    expect(sql(path, (db) => db.prepare("SELECT count(*) FROM chunk").pluck().get())).toBe(0);
    expect(await outbox.counts()).toMatchObject([{ stream: "data", committed: 0 }]);
  });

  it("drops what a removed uplink held, and starts a new one at the present", async () => {
    const path = newPath();
    const before = await open(planFor(path, { uplinks: [uplink("old"), uplink("stays")] }));
    await before.append(chunk(range(0, 10)));
    await before.stop();
    const after = await open(planFor(path, { uplinks: [uplink("stays"), uplink("new")] }));
    await after.append(chunk(range(10, 12)));
    expect((await leased(after, "stays")).flatMap(numbers)).toEqual(range(0, 12));
    expect((await leased(after, "new")).flatMap(numbers)).toEqual([10, 11]);
    const counts = await after.counts();
    const of = (name: string) => counts.find((count) => count.uplink === name && count.stream === "data");
    expect(of("old")).toMatchObject({ committed: 10, dropped: 10, held: 0 });
    expect(of("new")).toMatchObject({ committed: 2, held: 2 });
    expect(await after.gaps("old")).toMatchObject([
      { epoch: before.epoch, stream: "data", from: 0, to: 9, reason: "uplink removed" },
    ]);
  });

  it("counts a damaged chunk as lost, announces it, and goes on", async () => {
    const path = newPath();
    const plan = planFor(path, { uplinks: [uplink("up", { batch: { samples: 1, bytes: 1e6, ageMs: 0 } })] });
    const before = await open(plan);
    for (const value of [1, 2, 3]) await before.append(chunk([value]));
    // What was stored just now is not read back.
    await before.stop();
    sql(path, (db) => {
      const block =
        db.prepare<[], Buffer>("SELECT block FROM chunk WHERE seq = 1").pluck().get() ?? Buffer.alloc(0);
      block[90] = (block[90] ?? 0) ^ 1;
      db.prepare("UPDATE chunk SET block = ? WHERE seq = 1").run(block);
    });
    const outbox = await open(plan);
    const batches = await outbox.lease("up", 3);
    expect(batches.flatMap(numbers)).toEqual([1, 3]);
    expect((await outbox.counts()).find(({ stream }) => stream === "data")).toMatchObject({
      committed: 3,
      lost: 1,
      held: 2,
    });
    const [gap] = await outbox.gaps("up");
    expect(gap).toMatchObject({ from: 1, to: 1, reason: "corrupt" });
    await outbox.gapDone("up", gap?.id ?? 0);
    expect(await outbox.gaps("up")).toEqual([]);
  });

  it("takes the frame's buffer over, unless it is told to leave it", async () => {
    const outbox = await open(planFor(newPath()));
    const kept = frameOf([1]);
    await outbox.append(chunk([], { frame: kept }), { transfer: false });
    expect(kept.buffer.byteLength).toBeGreaterThan(0);
    const given = frameOf([2]);
    await outbox.append(chunk([], { frame: given }));
    expect(given.buffer.byteLength).toBe(0);
  });

  it("refuses an alarm that can't become samples, and stores nothing of its chunk", async () => {
    const outbox = await open(planFor(newPath()));
    await expect(outbox.append(chunk([1], { effects: [alarm("a/b", "hot", true)] }))).rejects.toMatchObject({
      code: "frame.invalid",
    });
    await expect(
      outbox.append(chunk([1], { effects: [alarm("a", ";".repeat(100), true)] })),
    ).rejects.toMatchObject({ code: "frame.invalid" });
    await outbox.append(chunk([2]));
    expect((await leased(outbox)).flatMap(numbers)).toEqual([2]);
  });

  it("sends each device's latest values merged, a second apart, and the last change without a batch to carry it", async () => {
    const topics = { batch: "w/{stream}", last: "w/last/{device}", meta: undefined, alarm: undefined };
    const outbox = await open(planFor(newPath(), { uplinks: [uplink("up", { topics })] }));
    const last = (batch: LeasedBatch | undefined) =>
      batch?.messages.slice(1).map((message) => [message.topic, message.retain, parse(message)]);
    await outbox.append(chunk([1, 2]));
    const [first] = await leased(outbox);
    expect(last(first)).toEqual([["w/last/pump-1", true, { n: 2, _ts: 1_763_640_000_000, _q: "good" }]]);
    await outbox.append(chunk([3]));
    const [second] = await leased(outbox);
    expect(last(second)).toEqual([]);
    const [carrier] = await leased(outbox);
    expect(carrier).toMatchObject({ key: { span: 0 }, samples: 0 });
    expect(carrier?.messages.map(parse)).toEqual([{ n: 3, _ts: 1_763_640_000_000, _q: "good" }]);
    await outbox.ack("up", [carrier?.id ?? 0]);
    // A lost connection may have lost retained messages too.
    await outbox.release("up", [second?.id ?? 0]);
    const [again] = await leased(outbox);
    expect(again?.key).toEqual(second?.key);
    const [refreshed] = await leased(outbox);
    expect(refreshed?.messages.map(({ topic }) => topic)).toEqual(["w/last/pump-1"]);
  });

  it("drops the oldest before the database is full, counts it exactly, and never grows past its limit", async () => {
    const path = newPath();
    const maxBytes = 4 * 2 ** 20;
    const outbox = await open(planFor(path, { maxBytes }));
    // Random doubles don't compress: about 16 KB a chunk, 10 MB together.
    for (let i = 0; i < 600; i++)
      await outbox.append(chunk(Array.from({ length: 2048 }, () => Math.random())));
    const { fileBytes } = await outbox.info();
    expect(fileBytes).toBeLessThanOrEqual(maxBytes);
    const count = (await outbox.counts()).find(({ stream }) => stream === "data");
    expect(count).toMatchObject({ committed: 600 * 2048, acked: 0, rejected: 0, lost: 0 });
    expect((count?.dropped ?? 0) + (count?.held ?? 0)).toBe(600 * 2048);
    expect(count?.held).toBeGreaterThan(100 * 2048);
    expect(await outbox.gaps("up")).toMatchObject([
      { stream: "data", from: 0, to: (count?.dropped ?? 0) - 1, reason: "overflow" },
    ]);
    const [oldest] = await outbox.lease("up", 1);
    expect(oldest?.key.seq).toBe(count?.dropped);
  });

  it("answers calls before its start and after its stop with outbox.closed", async () => {
    const outbox = new WorkerOutbox(workerUrl, planFor(newPath()));
    await expect(outbox.counts()).rejects.toMatchObject({ code: "outbox.closed" });
    await outbox.start();
    const waiting = outbox.append(chunk([1]));
    await outbox.stop();
    await waiting;
    expect(await outbox.ended).toBeUndefined();
    await expect(outbox.append(chunk([2]))).rejects.toMatchObject({
      code: "outbox.closed",
      disposition: "retry",
    });
  });
});

describe("opening", () => {
  const start = (path: string): Promise<string> => new WorkerOutbox(workerUrl, planFor(path)).start();

  it("refuses another program's database, and leaves it as it is", async () => {
    const foreign = newPath();
    sql(foreign, (db) => db.exec("CREATE TABLE theirs (x)"));
    await expect(start(foreign)).rejects.toMatchObject({ code: "data.unusable", disposition: "fatal" });
    expect(sql(foreign, (db) => db.prepare("SELECT name FROM sqlite_schema").pluck().all())).toEqual([
      "theirs",
    ]);
  });

  it("refuses a newer schema", async () => {
    const path = newPath();
    await (await open(planFor(path))).stop();
    sql(path, (db) => db.pragma("user_version = 99"));
    await expect(start(path)).rejects.toMatchObject({ code: "outbox.newer-schema", disposition: "fatal" });
  });

  it("says when the folder can't be written to", async () => {
    await expect(start("/proc/weir/weir.db")).rejects.toMatchObject({
      code: "data.unusable",
      disposition: "fatal",
    });
  });
});
