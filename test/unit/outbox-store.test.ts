import { copyFileSync } from "node:fs";
import Database from "better-sqlite3";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import { Kind } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { estimateJsonBytes, loadFrame, storeFrame } from "../../src/outbox/blocks.ts";
import { outboxSchema } from "../../src/outbox/options.ts";
import type { OutboxPlan } from "../../src/outbox/plan.ts";
import { packState, unpackState } from "../../src/outbox/protocol.ts";
import { Store } from "../../src/outbox/store.ts";
import { encodeJson } from "../../src/uplink/encode-json.ts";
import { frameOf, newPath, planFor, range, removeDatabases, uplink } from "../helpers/outbox.ts";

afterAll(removeDatabases);

const opened = new Set<Store>();
afterEach(() => {
  for (const store of opened) store.close();
  opened.clear();
});

function open(plan: OutboxPlan, now?: () => number): Store {
  const store = new Store(plan, crc32c, now);
  opened.add(store);
  return store;
}

function close(store: Store): void {
  opened.delete(store);
  store.close();
}

const append = (store: Store, values: readonly number[], stream: "data" | "host" = "data"): void =>
  store.transaction(() => store.append({ stream, frame: frameOf(values), state: [], effects: [] }));

const random = (): number[] => Array.from({ length: 2048 }, Math.random);

describe("the store", () => {
  it("returns the file's space in slices once a backlog is gone", () => {
    const store = open(planFor(newPath()));
    for (let i = 0; i < 1500; i++) append(store, random());
    const full = store.info().fileBytes;
    let batches = store.transaction(() => store.lease("up", 32));
    while (batches.length > 0) {
      store.transaction(() =>
        store.ends.ack(
          "up",
          batches.map(({ id }) => id),
        ),
      );
      batches = store.transaction(() => store.lease("up", 32));
    }
    const { usedBytes } = store.info();
    expect(usedBytes).toBeLessThan(full / 20);
    expect(store.info().fileBytes).toBe(full);
    let before = full;
    let slices = 0;
    for (let more = true; more; slices++) {
      more = store.maintain(true);
      const { fileBytes } = store.info();
      expect(before - fileBytes).toBeLessThanOrEqual(2_010 * 4096);
      before = fileBytes;
    }
    expect(slices).toBeGreaterThan(1);
    expect(before).toBeLessThan(full / 2);
  });

  it("forgets a large prefix a slice at a time", () => {
    const path = newPath();
    const before = open(planFor(path, { uplinks: [uplink("old")] }));
    before.transaction(() => {
      for (let i = 0; i < 12_000; i++)
        before.append({ stream: "data", frame: frameOf([i]), state: [], effects: [] });
    });
    close(before);
    const store = open(planFor(path));
    const rows = (): number => {
      const db = new Database(path, { readonly: true });
      const left = db.prepare<[], number>("SELECT count(*) FROM chunk").pluck().get() ?? -1;
      db.close();
      return left;
    };
    const seen: number[] = [];
    for (let i = 0; i < 3; i++) {
      store.maintain(true);
      store.transaction(() => {});
      seen.push(rows());
    }
    expect(seen[0]).toBeGreaterThan(0);
    expect(seen.at(-1)).toBe(0);
    expect(
      store
        .transaction(() => store.counts())
        .find(({ uplink: name, stream }) => name === "old" && stream === "data"),
    ).toMatchObject({
      committed: 12_000,
      dropped: 12_000,
      held: 0,
    });
  });

  it("drops the host's samples before a device's, and never what is on lease", () => {
    const store = open(planFor(newPath(), { maxBytes: 2 ** 21 }));
    for (let i = 0; i < 20; i++) append(store, random());
    for (let i = 0; i < 20; i++) append(store, random(), "host");
    const [held] = store.transaction(() => store.lease("up", 1));
    if (held === undefined) throw new Error("nothing to lease");
    const counts = (stream: string) =>
      store.transaction(() => store.counts()).find((count) => count.stream === stream);
    while ((counts("host")?.held ?? 0) > 0) {
      expect(counts("data")?.dropped).toBe(0);
      append(store, random());
    }
    while ((counts("data")?.dropped ?? 0) === 0) append(store, random());
    expect(store.read(held).reduce((sum, { rows }) => sum + rows, 0)).toBe(held.span);
    const gaps = store.transaction(() => store.gaps.list("up"));
    expect(gaps.map(({ stream, reason }) => [stream, reason])).toEqual([
      ["host", "overflow"],
      ["data", "overflow"],
    ]);
    expect(gaps[0]).toMatchObject({ from: 0, to: 20 * 2048 - 1 });
    expect(gaps[1]).toMatchObject({ from: held.span });
  });

  it("remembers earlier epochs as long as something of them is stored, and the last 64", () => {
    const path = newPath();
    const first = open(planFor(path));
    append(first, range(0, 5));
    close(first);
    for (let i = 0; i < 200; i++) {
      const store = open(planFor(path));
      append(store, [i]);
      close(store);
    }
    const store = open(planFor(path));
    expect(store.info().epochs[0]).toEqual({ epoch: first.epoch, stream: "data", lastSeq: 4 });
    let batches = store.transaction(() => store.lease("up", 32));
    while (batches.length > 0) {
      store.transaction(() =>
        store.ends.ack(
          "up",
          batches.map(({ id }) => id),
        ),
      );
      batches = store.transaction(() => store.lease("up", 32));
    }
    close(store);
    const last = open(planFor(path));
    const { epochs } = last.info();
    expect(epochs.length).toBeLessThanOrEqual(192);
    expect(epochs.length).toBeGreaterThanOrEqual(64);
  });

  it("seals what the clock made older than its age, also when it was set back", () => {
    let now = 1_800_000_000_000;
    const plan = planFor(newPath(), {
      uplinks: [uplink("up", { batch: { samples: 100, bytes: 1e6, ageMs: 1000 } })],
    });
    const store = open(plan, () => now);
    const lease = () => store.transaction(() => store.lease("up", 10));
    append(store, [1]);
    expect(store.dueAt("up")).toBe(now + 1000);
    now += 999;
    expect(lease()).toEqual([]);
    now += 1;
    expect(store.dueAt("up")).toBe(0);
    expect(lease()).toHaveLength(1);
    append(store, [2]);
    now -= 400 * 86_400_000;
    expect(lease()).toHaveLength(1);
  });

  it("gives up the oldest publish effects beyond ten thousand, and counts them", () => {
    const store = open(planFor(newPath()));
    const effects = Array.from({ length: 2_501 }, (_, i) => ({
      type: "publish" as const,
      plugin: "p",
      topic: `t${i}`,
      payload: new Uint8Array(),
      qos: 0 as const,
      retain: false,
    }));
    for (let i = 0; i < 4; i++) {
      store.transaction(() => store.append({ stream: "data", frame: frameOf([]), state: [], effects }));
    }
    expect(store.info().effectsDropped).toBe(4);
    expect(store.effects.list()[0]?.effect.topic).toBe("t4");
  });

  it("keeps dead letters to a sixteenth of its size", () => {
    const path = newPath();
    const maxBytes = 4 * 2 ** 20;
    const store = open(planFor(path, { maxBytes }));
    for (let i = 0; i < 40; i++) {
      append(store, random());
      for (const { id } of store.transaction(() => store.lease("up", 1)))
        store.transaction(() => store.ends.reject("up", id, `reason ${i}`));
    }
    const db = new Database(path, { readonly: true });
    const { bytes, newest } = db
      .prepare<[], { bytes: number; newest: string }>(
        "SELECT sum(length(block)) AS bytes, max(reason) FILTER (WHERE id = 40) AS newest FROM dead",
      )
      .get() ?? { bytes: 0, newest: "" };
    db.close();
    expect(bytes).toBeLessThanOrEqual(maxBytes / 16);
    expect(bytes).toBeGreaterThan(maxBytes / 32);
    expect(newest).toBe("reason 39");
  });
});

it("knows the last chunk that is stored, for a worker that takes over in the same run alone", () => {
  const plan = planFor(newPath());
  const first = open(plan);
  const put = (ticket: number): void =>
    first.append({ stream: "host", frame: frameOf([ticket]), state: [], effects: [], ticket });
  first.transaction(() => [5, 6, 7].forEach(put));
  expect(() =>
    first.transaction(() => {
      put(8);
      throw new Error("not now");
    }),
  ).toThrow("not now");
  expect(first.ticket).toBe(7);
  close(first);
  const second = open({ ...plan, reopened: { trouble: undefined } });
  expect(second.ticket).toBe(7);
  close(second);
  expect(open(plan).ticket).toBe(0);
});

describe("a copy", () => {
  it("is found out on another machine, and as another file; the alarm is raised once, and ended by the next start", () => {
    const path = newPath();
    const plan = planFor(path);
    const life = (
      changes: Partial<OutboxPlan> = {},
    ): { epoch: string; alarms: unknown[]; copied: string | undefined } => {
      const store = open({ ...plan, ...changes });
      const leased = store.transaction(() => store.lease("up", 9));
      const alarms = leased.flatMap((batch) => store.read(batch).map(({ value }) => value[0]));
      const ids = leased.map(({ id }) => id);
      store.transaction(() => store.ends.ack("up", ids));
      close(store);
      return { epoch: store.epoch, alarms, copied: store.copied };
    };
    const lives = [life(), life(), life({ machine: "another one" }), life({ machine: "another one" })];
    expect(lives.map(({ copied }) => copied?.slice(0, 43))).toEqual([
      undefined,
      undefined,
      "the database was used last on another machi",
      undefined,
    ]);
    expect(lives.map(({ alarms }) => alarms)).toEqual([[], [], [1], [0]]);
    expect(new Set(lives.map(({ epoch }) => epoch)).size).toBe(4);
    const copy = newPath();
    copyFileSync(path, copy);
    expect(life({ path: copy, machine: "another one" }).copied).toContain("another file");
  });

  it("that is written over the database in place is found out, whether it was stopped in order since or killed", () => {
    const path = newPath();
    const copy = newPath();
    close(open(planFor(path)));
    copyFileSync(path, copy);
    close(open(planFor(path)));
    copyFileSync(copy, path);
    const restored = open(planFor(path));
    expect(restored.copied).toContain("older than the one that was used last");
    close(restored);
    copyFileSync(path, copy);
    let now = 1_800_000_000_000;
    const running = open(planFor(path), () => now);
    expect(running.copied).toBeUndefined();
    now += 60_000;
    running.maintain(true);
    copyFileSync(`${path}-count`, `${copy}-count`);
    close(running);
    // As if it had been killed: what an orderly stop counts is not there.
    copyFileSync(`${copy}-count`, `${path}-count`);
    copyFileSync(copy, path);
    expect(open(planFor(path)).copied).toContain("older than the one that was used last");
  });
});

describe("stored bytes", () => {
  it("come back as the same frame, compressed where that is smaller", () => {
    const large = frameOf(range(0, 2048));
    const small = frameOf([1]);
    for (const frame of [large, small]) {
      const stored = storeFrame(frame, crc32c);
      const read = loadFrame(stored, crc32c);
      expect(Buffer.from(read.buffer).equals(Buffer.from(frame.buffer))).toBe(true);
    }
    expect(storeFrame(large, crc32c).byteLength).toBeLessThan(500);
  });

  it("are refused with any byte changed", () => {
    for (const frame of [frameOf(range(0, 2048)), frameOf([1])]) {
      const stored = storeFrame(frame, crc32c);
      for (let at = 0; at < stored.byteLength; at++) {
        const damaged = stored.slice();
        damaged[at] = (damaged[at] ?? 0) ^ 0x10;
        let read: unknown;
        try {
          read = Buffer.from(loadFrame(damaged, crc32c).buffer).toString("base64");
        } catch (thrown) {
          expect(thrown).toMatchObject({ code: "frame.invalid" });
          continue;
        }
        // A bit of zstd's own header that says nothing about the content.
        expect(read).toBe(Buffer.from(frame.buffer).toString("base64"));
      }
    }
  });

  it("are estimated as JSON within a tenth", () => {
    const builder = new FrameBuilder();
    for (let i = 0; i < 1000; i++) {
      const device = builder.device(`pump-${i % 7}`);
      const time = 1_763_640_000_123_000 + i * 1000;
      builder.add(device, builder.metric("temp_c"), time, Kind.number, 0, 71.2);
      if (i % 2 === 0)
        builder.add(device, builder.metric("state"), time, Kind.text, 0, builder.text("running"));
      if (i % 5 === 0)
        builder.add(device, builder.metric("raw"), time, Kind.bytes, 0, builder.blob(new Uint8Array(30)));
    }
    const frame = builder.build();
    const size = encodeJson("g", { epoch: "00000000", stream: "data", seq: 0, span: frame.rows }, [
      frame,
    ]).byteLength;
    expect(estimateJsonBytes(frame) / size).toBeGreaterThan(0.9);
    expect(estimateJsonBytes(frame) / size).toBeLessThan(1.1);
  });
});

describe("the options", () => {
  it("have defaults, and read sizes as people write them", () => {
    expect(outboxSchema.parse({})).toEqual({ sync: "normal", maxBytes: 2 ** 30 });
    expect(outboxSchema.parse({ sync: "full", maxBytes: "64MiB" })).toEqual({
      sync: "full",
      maxBytes: 2 ** 26,
    });
    for (const maxBytes of ["1MiB", "lots", -1])
      expect(outboxSchema.safeParse({ maxBytes }).success).toBe(false);
  });
});

it("state changes cross threads packed, and come out the same", () => {
  const changes = [
    { plugin: "p", scope: "", key: "a", value: Uint8Array.of(1, 2) },
    { plugin: "q", scope: "pump-1", key: "", value: undefined },
    { plugin: "p", scope: "", key: "b", value: new Uint8Array() },
    { plugin: "p", scope: "", key: "c", value: Uint8Array.of(3) },
  ];
  expect([...unpackState(structuredClone(packState(changes)))]).toEqual(changes);
  expect(packState([])).toBeUndefined();
});
