import { afterAll, afterEach, describe, expect, it } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import { Status } from "../../src/core/frame.ts";
import type { Stream } from "../../src/core/ports.ts";
import type { OutboxPlan, UplinkPlan } from "../../src/outbox/plan.ts";
import { Store } from "../../src/outbox/store.ts";
import { frameOf, newPath, planFor, removeDatabases, uplink } from "../helpers/outbox.ts";

afterAll(removeDatabases);
const opened = new Set<Store>();
afterEach(() => {
  for (const store of opened) store.close();
  opened.clear();
});

let nowMs = 1_800_000_000_000;
function open(uplinks: readonly UplinkPlan[], plan: Partial<OutboxPlan> = {}): Store {
  const store = new Store(planFor(newPath(), { uplinks, ...plan }), crc32c, () => nowMs);
  opened.add(store);
  return store;
}

const append = (store: Store, values: readonly number[], stream: Stream = "data"): void =>
  store.transaction(() => store.append({ stream, frame: frameOf(values), state: [], effects: [] }));
const random = (): number[] => Array.from({ length: 2048 }, Math.random);
const of = (store: Store, name: string, stream: Stream = "data") => {
  const found = store
    .transaction(() => store.counts())
    .find((count) => count.uplink === name && count.stream === stream);
  if (found === undefined) throw new Error(`${name}/${stream} has no account`);
  return found;
};
const small = { maxBytes: 2 ** 21 };

describe("a full outbox", () => {
  it("drops the newest under drop-newest, counts and announces it, and takes in again once there is room", () => {
    const store = open([uplink("up", { overflow: "drop-newest" })], small);
    for (let i = 0; i < 200; i++) append(store, random());
    const { committed, dropped, held } = of(store, "up");
    expect(committed).toBe(200 * 2048);
    expect(dropped).toBeGreaterThan(0);
    expect(held).toBe(committed - dropped);
    expect(store.transaction(() => store.gaps.list("up"))).toMatchObject([
      { stream: "data", from: held, to: committed - 1, reason: "overflow" },
    ]);
    const batches = store.transaction(() => store.lease("up", 8));
    expect(batches[0]?.seq).toBe(0);
    store.transaction(() =>
      store.ends.ack(
        "up",
        batches.map(({ id }) => id),
      ),
    );
    append(store, random());
    expect(of(store, "up").dropped).toBe(dropped);
  });

  it("refuses under pause without storing or dropping anything, until there is room", () => {
    const store = open([uplink("up", { overflow: "pause" })], small);
    let stored = 0;
    expect(() => {
      for (let i = 0; i < 400; i++, stored++) append(store, random());
    }).toThrow(expect.objectContaining({ code: "outbox.full", disposition: "retry" }));
    expect(of(store, "up")).toMatchObject({ committed: stored * 2048, dropped: 0, held: stored * 2048 });
    expect(store.roomy).toBe(false);
    const batches = store.transaction(() => store.lease("up", 8));
    store.transaction(() =>
      store.ends.ack(
        "up",
        batches.map(({ id }) => id),
      ),
    );
    expect(store.roomy).toBe(true);
    append(store, random());
  });

  it("gives up for drop-oldest only what no other policy keeps", () => {
    const store = open([uplink("keeps", { streams: ["data"], overflow: "pause" }), uplink("yields")], small);
    for (let i = 0; i < 20; i++) append(store, random());
    for (let i = 0; i < 400; i++) append(store, random(), "host");
    expect(of(store, "yields", "host").dropped).toBeGreaterThan(0);
    expect(of(store, "yields").dropped).toBe(0);
    expect(of(store, "keeps")).toMatchObject({ dropped: 0, held: 20 * 2048 });
  });
});

describe("a stream's TTL", () => {
  it("drops what has waited longer at that uplink alone, counted and announced", () => {
    const store = open([uplink("short", { ttlMs: { host: 60_000 } }), uplink("long")]);
    append(store, [1, 2], "host");
    append(store, [3], "data");
    nowMs += 50_000;
    append(store, [4], "host");
    nowMs += 20_000;
    store.maintain(true);
    expect(of(store, "short", "host")).toMatchObject({ committed: 3, dropped: 2, held: 1 });
    expect(of(store, "short", "data")).toMatchObject({ dropped: 0 });
    expect(of(store, "long", "host")).toMatchObject({ dropped: 0, held: 3 });
    expect(store.transaction(() => store.gaps.list("short"))).toMatchObject([
      { stream: "host", from: 0, to: 1, reason: "ttl" },
    ]);
    nowMs += 60_000;
    const [leased] = store.transaction(() => store.lease("short", 1));
    expect(leased?.stream).toBe("data");
  });
});

describe("a clock that is set while samples wait", () => {
  it("makes them neither older nor younger for their TTL, over a restart, too", () => {
    const path = newPath();
    const plan = planFor(path, { uplinks: [uplink("up", { ttlMs: { data: 60_000 } })] });
    const year = 365 * 86_400_000;
    let wallMs = 0;
    let steadyMs = 5_000;
    const begin = (): Store => {
      const store = new Store(
        plan,
        crc32c,
        () => wallMs,
        () => steadyMs,
      );
      opened.add(store);
      return store;
    };
    const pass = (store: Store, ms: number): void => {
      wallMs += ms;
      steadyMs += ms;
      store.maintain(true);
    };
    const before = begin();
    append(before, [1, 2]);
    wallMs += 55 * year;
    pass(before, 1_000);
    append(before, [3]);
    expect(of(before, "up")).toMatchObject({ dropped: 0, held: 3 });
    before.close();
    opened.delete(before);
    const after = begin();
    pass(after, 30_000);
    expect(of(after, "up")).toMatchObject({ dropped: 0, held: 3 });
    wallMs -= year;
    pass(after, 28_000);
    expect(of(after, "up")).toMatchObject({ dropped: 0, held: 3 });
    pass(after, 1_500);
    expect(of(after, "up")).toMatchObject({ dropped: 2, held: 1 });
    pass(after, 1_000);
    expect(of(after, "up")).toMatchObject({ dropped: 3, held: 0 });
  });
});

describe("a purge", () => {
  it("drops by uplink, stream and age, but nothing that is on lease", () => {
    const batch = { samples: 1, bytes: 1e6, ageMs: 0 };
    const store = open([uplink("a", { batch }), uplink("b", { batch })]);
    for (let i = 0; i < 5; i++) append(store, [i]);
    append(store, [9], "host");
    const [leased] = store.transaction(() => store.lease("a", 1));
    nowMs += 1000;
    append(store, [5]);
    const untilMs = nowMs - 1;
    expect(store.transaction(() => store.purge({ uplink: "a", stream: "data", untilMs }))).toEqual({
      dropped: 4,
      more: false,
    });
    expect(of(store, "a")).toMatchObject({ committed: 6, dropped: 4, held: 2 });
    expect(of(store, "a", "host")).toMatchObject({ dropped: 0, held: 1 });
    expect(of(store, "b")).toMatchObject({ dropped: 0, held: 6 });
    expect(store.transaction(() => store.gaps.list("a"))).toMatchObject([
      { from: 1, to: 4, reason: "purge" },
    ]);
    store.transaction(() => store.ends.ack("a", [leased?.id ?? 0]));
    expect(store.transaction(() => store.lease("a", 9)).map(({ seq }) => seq)).toEqual([5, 0]);
  });
});

describe("backlog", () => {
  const batch = { samples: 1, bytes: 1e6, ageMs: 0 };
  const replay = { share: 0.3, afterMs: 10_000 };

  it("goes beside what is live, with its share of the window, marked historical, and comes again the same", () => {
    const path = newPath();
    const plan = planFor(path, { uplinks: [uplink("up", { batch, replay })] });
    const store = new Store(plan, crc32c, () => nowMs);
    for (let i = 0; i < 30; i++) append(store, [i]);
    nowMs += 20_000;
    // Turned to backlog by the lease: three of ten.
    const first = store.transaction(() => store.lease("up", 10));
    expect(first.map(({ seq }) => seq)).toEqual([0, 1, 2]);
    for (let i = 30; i < 40; i++) append(store, [i]);
    const second = store.transaction(() => store.lease("up", 7));
    expect(second.map(({ seq }) => seq)).toEqual(Array.from({ length: 7 }, (_, i) => 30 + i));
    const statuses = (of: typeof first): number[] =>
      of.flatMap((one) => store.read(one).flatMap(({ status }) => [...status]));
    expect(statuses(first).every((status) => (status & Status.historical) !== 0)).toBe(true);
    expect(statuses(second).every((status) => (status & Status.historical) === 0)).toBe(true);
    const bytes = store.read(first[0] ?? expect.fail("no batch")).map(({ buffer }) => Buffer.from(buffer));
    store.close();

    const after = new Store(plan, crc32c, () => nowMs);
    opened.add(after);
    const leased = after.transaction(() => after.lease("up", 10));
    const again = leased.find(({ id }) => id === first[0]?.id);
    expect(again).toMatchObject(first[0] ?? {});
    expect(after.read(again ?? expect.fail("no batch")).map(({ buffer }) => Buffer.from(buffer))).toEqual(
      bytes,
    );
    const seen = new Set<number>();
    after.transaction(() => after.release(leased.map(({ id }) => id)));
    for (;;) {
      const batches = after.transaction(() => after.lease("up", 10));
      if (batches.length === 0) break;
      for (const { seq } of batches) seen.add(seq);
      after.transaction(() =>
        after.ends.ack(
          "up",
          batches.map(({ id }) => id),
        ),
      );
    }
    expect(seen.size).toBe(40);
    expect(of(after, "up")).toMatchObject({ committed: 40, acked: 40, held: 0 });
    expect(after.dueAt("up")).toBeUndefined();
  });

  it("doesn't keep what is live on disk once that was acknowledged", () => {
    const store = open([uplink("up", { batch: { ...batch, samples: 4096 }, replay })]);
    for (let i = 0; i < 50; i++) append(store, random());
    nowMs += 20_000;
    const backlog = store.transaction(() => store.lease("up", 1));
    expect(backlog[0]?.historical).toBe(1);
    const { usedBytes } = store.info();
    for (let i = 0; i < 200; i++) {
      append(store, random());
      const live = store.transaction(() => store.lease("up", 4)).filter(({ historical }) => historical === 0);
      store.transaction(() =>
        store.ends.ack(
          "up",
          live.map(({ id }) => id),
        ),
      );
    }
    expect(store.info().usedBytes).toBeLessThan(usedBytes * 1.3);
  });
});
