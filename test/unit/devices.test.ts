/** What is known of devices: latest values and `meta`, their bounds, and how they outlast a start. */
import Database from "better-sqlite3";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import type { DeviceNews } from "../../src/core/device.ts";
import { type Frame, Kind, Status } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import type { Outgoing } from "../../src/core/ports.ts";
import { Retained } from "../../src/outbox/retained.ts";
import { Store } from "../../src/outbox/store.ts";
import { Introductions } from "../../src/sources/introductions.ts";
import { type EncoderPlan, UplinkEncoder } from "../../src/uplink/encode.ts";
import { newPath, planFor, removeDatabases } from "../helpers/outbox.ts";

const T = 1_763_640_000_123_000;
const DAY = 24 * 3_600_000;

type Row = readonly [
  device: string,
  metric: string,
  kind: Kind,
  status: number,
  value: number | string | Uint8Array,
  timeUs?: number,
  unit?: string,
];

function frameOf(...rows: readonly Row[]): Frame {
  const builder = new FrameBuilder();
  for (const [device, metric, kind, status, value, timeUs = T, unit = ""] of rows) {
    const stored =
      typeof value === "number"
        ? value
        : typeof value === "string"
          ? builder.text(value)
          : builder.blob(value);
    builder.add(builder.device(device), builder.metric(metric, unit), timeUs, kind, status, stored);
  }
  return builder.build();
}

/** A store with a view of its devices, in a time of its own. */
class World {
  nowMs: number;
  readonly path: string;
  readonly store: Store;
  readonly view: Retained;
  #monotonic = 0;

  constructor(path = newPath(), nowMs = T / 1000, plan: Partial<EncoderPlan> = {}, maxBytes = 512 * 2 ** 20) {
    this.path = path;
    this.nowMs = nowMs;
    this.store = new Store(planFor(path, { maxBytes }), crc32c, () => this.nowMs);
    worlds.add(this);
    const encoder = new UplinkEncoder(
      { gateway: "g", labels: { site: "turin" } },
      {
        streams: ["alarm", "data", "host"],
        topics: { batch: "w", last: "last/{device}", meta: "meta/{device}", alarm: undefined },
        format: { encoding: "json", compression: "none" },
        filter: { devices: ["*"], metrics: ["*"] },
        qos: 1,
        traceparent: false,
        ...plan,
      },
      crc32c,
    );
    if (encoder.devices === undefined) throw new Error("no messages of devices");
    this.view = new Retained(this.store.devices, encoder.devices);
  }

  commit(...rows: readonly Row[]): void {
    const frame = frameOf(...rows);
    this.store.transaction(() => this.store.append({ stream: "data", frame, state: [], effects: [] }));
    this.store.absorb();
  }

  /** Everything that is to be sent, by topic; a second passes for each round. */
  sent(): Map<string, unknown> {
    const out = new Map<string, unknown>();
    while (this.view.dueMs !== undefined && this.view.dueMs <= this.#monotonic + 1_000) {
      this.#monotonic += 1_000;
      for (const { topic, payload } of this.view.take(this.#monotonic))
        out.set(topic, payload.byteLength === 0 ? "" : JSON.parse(Buffer.from(payload).toString()));
    }
    return out;
  }

  round(atMs: number): Outgoing[] {
    return this.view.take(atMs);
  }

  /** `close` as at a stop; else as after kill -9. */
  again(close: boolean): World {
    worlds.delete(this);
    if (close) this.store.close();
    return new World(this.path, this.nowMs);
  }
}

const worlds = new Set<World>();
afterEach(() => {
  for (const { store } of worlds) store.close();
  worlds.clear();
});
afterAll(removeDatabases);

describe("the latest values of a device", () => {
  it("are merged in order of first appearance, with the time and quality of what came last", () => {
    const world = new World();
    world.commit(["p", "temp", Kind.number, 0, 1], ["p", "rpm", Kind.integer, 0, 2]);
    world.commit(["p", "temp", Kind.number, Status.bad, 3, T + 5000], ["q", "on", Kind.boolean, 0, 1]);
    world.commit(["q", "note", Kind.text, 0, "é"], ["q", "raw", Kind.bytes, 0, Uint8Array.of(1)]);
    world.commit(["q", "on", Kind.null, 0, 0]);
    const sent = world.sent();
    expect(sent.get("last/p")).toEqual({ temp: 3, rpm: 2, _ts: (T + 5000) / 1000, _q: "bad" });
    expect(Object.keys(sent.get("last/p") ?? {})).toEqual(["temp", "rpm", "_ts", "_q"]);
    expect(sent.get("last/q")).toEqual({
      on: null,
      note: "é",
      raw: { b64: "AQ==" },
      _ts: T / 1000,
      _q: "good",
    });
  });

  it("are not replaced by historical rows, nor by what a transaction took back", () => {
    const world = new World();
    world.commit(["p", "x", Kind.number, 0, 2]);
    world.commit(["p", "x", Kind.number, Status.historical, 0]);
    expect(() =>
      world.store.transaction(() => {
        world.store.append({
          stream: "data",
          frame: frameOf(["p", "x", Kind.number, 0, 9]),
          state: [],
          effects: [],
        });
        throw new Error("no");
      }),
    ).toThrow("no");
    world.store.absorb();
    expect(world.sent().get("last/p")).toEqual({ x: 2, _ts: T / 1000, _q: "good" });
  });

  it("are sent for devices that changed, once a second, and all again when the uplink has connected anew", () => {
    const world = new World();
    world.commit(["p", "x", Kind.number, 0, 1], ["q", "x", Kind.number, 0, 1]);
    expect(world.round(5000)).toHaveLength(4);
    expect(world.view.dueMs).toBeUndefined();
    world.commit(["p", "x", Kind.number, 0, 2]);
    expect(world.round(5999)).toEqual([]);
    expect(world.view.dueMs).toBe(6000);
    expect(world.round(6000).map(({ topic }) => topic)).toEqual(["last/p"]);
    world.view.released();
    expect(world.round(7000)).toHaveLength(4);
    world.view.connected();
    expect(world.round(8000)).toHaveLength(4);
    // A connection that comes and goes gets them once a minute.
    world.view.connected();
    expect(world.view.dueMs).toBe(68_000);
    expect(world.round(67_999)).toEqual([]);
    expect(world.round(68_000)).toHaveLength(4);
  });

  it("what is told of devices that never send is bounded in bytes, what was told first going first", () => {
    const world = new World();
    const metrics = Object.fromEntries(
      Array.from({ length: 500 }, (_, i) => [`m${i}`, { description: "x".repeat(250) }]),
    );
    for (let i = 0; i < 100; i++)
      world.store.devices.learn([{ device: `d${i}`, about: { model: "M", metrics } }]);
    world.commit(["d0", "a", Kind.number, 0, 1], ["d99", "a", Kind.number, 0, 1]);
    expect(world.store.devices.get("d0")?.about).toEqual({});
    expect(world.store.devices.get("d99")?.about.model).toBe("M");
  });

  it("what is told in a second is bounded in bytes, too", () => {
    const told: DeviceNews[] = [];
    vi.useFakeTimers();
    try {
      const introductions = new Introductions(
        () => [],
        async (news) => void told.push(...news),
        () => {},
      );
      introductions.start();
      const about = { description: "x".repeat(100_000) };
      for (let i = 0; i < 1_000; i++) introductions.learn([{ device: `d${i}`, about }]);
      vi.advanceTimersByTime(1_000);
      expect(told.length).toBeGreaterThan(10);
      expect(told.length).toBeLessThan(50);
      introductions.learn([{ device: "later", about }]);
      vi.advanceTimersByTime(1_000);
      introductions.stop();
      expect(told.at(-1)?.device).toBe("later");
    } finally {
      vi.useRealTimers();
    }
  });

  it("are what the uplink's streams and filter leave of them", () => {
    const filter = { devices: ["p*"], metrics: ["x"] };
    const world = new World(newPath(), T / 1000, { filter, streams: ["data"] });
    world.commit(
      ["p", "x;port=1", Kind.number, 0, 1],
      ["p", "y", Kind.number, 0, 1],
      ["q", "x", Kind.number, 0, 1],
    );
    world.store.devices.update("host", frameOf(["pi", "x", Kind.number, 0, 1]), T / 1000);
    const sent = world.sent();
    expect([...sent.keys()]).toEqual(["last/p", "meta/p"]);
    expect(sent.get("last/p")).toEqual({ "x;port=1": 1, _ts: T / 1000, _q: "good" });
    expect(sent.get("meta/p")).toMatchObject({ metrics: { x: { kind: "number" } } });
  });

  it.each([true, false])("are there after a start (orderly stop: %s), stale ones still stale", (close) => {
    const world = new World();
    world.commit(
      ["p", "temp", Kind.number, 0, 71.2, T, "Cel"],
      ["p", "note", Kind.text, 0, "a text that is longer"],
      ["p", "raw", Kind.bytes, 0, Uint8Array.of(1, 2)],
      ["gone", "x", Kind.integer, 0, 2 ** 53 - 1],
    );
    world.commit(["gone", "available", Kind.boolean, Status.stale, 0, T + 1]);
    world.store.devices.learn([
      { device: "p", about: { source: "devices", rule: "a/{device}", decoder: "json", model: "M" } },
    ]);
    const before = world.sent();
    // What the last store has; afterwards it is a kill -9.
    world.store.storeDevices(true);
    if (!close) world.commit(["p", "temp", Kind.number, 0, 99]);
    const after = world.again(close).sent();
    expect(after).toEqual(before);
    expect(after.get("last/gone")).toMatchObject({ x: 2 ** 53 - 1, available: false, _q: "stale" });
  });

  it("are stored some seconds after they changed, and no page twice without need", () => {
    const world = new World();
    world.commit(["p", "x", Kind.number, 0, 1]);
    world.store.maintain(true);
    const db = new Database(world.path, { readonly: true });
    const count = (): unknown => db.prepare("SELECT count(*) FROM last").pluck().get();
    expect(count()).toBe(0);
    world.store.storeDevices(true);
    expect(count()).toBe(1);
    const version = (): unknown => db.pragma("data_version", { simple: true });
    const before = version();
    world.store.storeDevices(true);
    expect(version()).toBe(before);
    db.close();
  });

  it("are bounded in devices, and what is beyond is counted, until one has been silent for a day", () => {
    const world = new World();
    const many = (from: number): Row[] =>
      Array.from({ length: 6_000 }, (_, i): Row => [`d${from + i}`, "x", Kind.number, 0, i]);
    world.commit(...many(0));
    world.nowMs += 2 * DAY;
    world.store.maintain(true);
    // It may have been the clock that jumped: the silent ones have a day to speak.
    world.commit(...many(6_000));
    expect(world.store.info()).toMatchObject({ devices: 10_000, valuesUnkept: 2_000 });
    expect(world.sent().size).toBe(20_000);
    world.commit(["new", "x", Kind.number, 0, 1]);
    expect(world.store.info()).toMatchObject({ valuesUnkept: 2_001 });
    world.nowMs += DAY + 1;
    world.commit(["new", "x", Kind.number, 0, 1]);
    expect(world.store.info()).toMatchObject({ devices: 10_000, valuesUnkept: 2_001 });
    const sent = world.sent();
    expect(new Set(sent.keys())).toEqual(new Set(["last/d0", "last/new", "meta/d0", "meta/new"]));
    expect([sent.get("last/d0"), sent.get("meta/d0")]).toEqual(["", ""]);
    const again = world.again(true);
    expect(again.store.devices.get("d0")).toBeUndefined();
    expect(again.store.devices.size).toBe(10_000);
  });

  it("are bounded in values and bytes, of one device and of all, and large ones are stored all the same", () => {
    const world = new World();
    const text = (i: number): string => `${i}`.padEnd(60_000, "x");
    for (let device = 0; device < 24; device++)
      world.commit(
        ...Array.from({ length: 20 }, (_, i): Row => [`d${device}`, `m${i}`, Kind.text, 0, text(i)]),
      );
    // 17 of 60,000 characters fit in the 1 Mi of a device, and 16 Mi in all.
    expect(world.store.info().valuesUnkept).toBe(24 * 20 - Math.floor(2 ** 24 / 60_010));
    for (let i = 0; i < 5; i++)
      world.commit(
        ...Array.from({ length: 1000 }, (_, j): Row => ["wide", `m${i * 1000 + j}`, Kind.number, 0, j]),
      );
    expect(world.store.devices.get("wide")?.values.size).toBe(4096);
    const before = world.sent();
    expect(world.again(true).sent()).toEqual(before);
  });

  it("take a small part of a small database", () => {
    const world = new World(newPath(), T / 1000, {}, 4 * 2 ** 20);
    for (let i = 0; i < 40; i++)
      world.commit(
        ...Array.from({ length: 1000 }, (_, j): Row => [`d${i}`, `m${j}`, Kind.number, 0, Math.random()]),
      );
    world.store.storeDevices(true);
    const db = new Database(world.path, { readonly: true });
    expect(db.prepare("SELECT sum(length(block)) FROM last").pluck().get()).toBeLessThan(2 ** 19);
    db.close();
    expect(world.store.info().valuesUnkept).toBeGreaterThan(20_000);
  });
});

describe("what a broker had kept, without a time of the device's", () => {
  const refresh = (world: World, ...rows: readonly Row[]): void =>
    world.store.devices.refresh(frameOf(...rows), "available", world.nowMs);

  it("is of uncertain quality where it is news, and changes nothing where it is not", () => {
    const world = new World();
    world.commit(["p", "x", Kind.number, 0, 1], ["p", "y", Kind.text, 0, "a"]);
    refresh(world, ["p", "x", Kind.number, Status.retained, 1, T + 1000]);
    expect(world.sent().get("last/p")).toEqual({ x: 1, y: "a", _ts: T / 1000, _q: "good" });
    refresh(
      world,
      ["p", "y", Kind.text, Status.retained, "b", T + 1000],
      ["q", "x", Kind.number, Status.retained, 5],
    );
    const sent = world.sent();
    expect(sent.get("last/p")).toEqual({ x: 1, y: "b", _ts: (T + 1000) / 1000, _q: "uncertain" });
    expect(sent.get("last/q")).toMatchObject({ x: 5, _q: "uncertain" });
  });

  it("leaves a device that is gone stale, unless it says that it is there", () => {
    const world = new World();
    world.commit(["p", "x", Kind.number, 0, 1], ["p", "available", Kind.boolean, Status.stale, 0]);
    refresh(world, ["p", "x", Kind.number, Status.retained, 2]);
    expect(world.sent().get("last/p")).toMatchObject({ x: 2, _q: "stale" });
    // With a time of its own it is a sample, and still no sign of life.
    world.commit(["p", "x", Kind.number, Status.retained, 3]);
    expect(world.sent().get("last/p")).toMatchObject({ x: 3, _q: "stale" });
    refresh(world, ["p", "available", Kind.boolean, Status.retained, 1]);
    expect(world.sent().get("last/p")).toMatchObject({ x: 3, available: true, _q: "good" });
  });
});

describe("what is known of a device", () => {
  it("is told with its metrics, their kinds, units and descriptions, when something of it changes", () => {
    const world = new World();
    const metrics = { "temp*": { unit: "K", description: "of the winding" } };
    // Before its first sample it is nobody.
    world.store.devices.learn([{ device: "p", about: { source: "devices", rule: "a/{device}", metrics } }]);
    expect(world.sent().size).toBe(0);
    world.commit(
      ["p", "temp_a", Kind.number, 0, 1, T, "Cel"],
      ["p", "temp_b", Kind.null, 0, 0],
      ["p", "n", Kind.integer, 0, 1],
    );
    expect(world.sent().get("meta/p")).toEqual({
      v: 1,
      gateway: "g",
      labels: { site: "turin" },
      device: "p",
      source: "devices",
      rule: "a/{device}",
      firstSeen: T / 1000,
      lastSeen: T / 1000,
      metrics: {
        temp_a: { kind: "number", unit: "Cel", description: "of the winding" },
        temp_b: { unit: "K", description: "of the winding" },
        n: { kind: "integer" },
      },
    });
    world.commit(["p", "temp_a", Kind.number, 0, 2, T, "Cel"], ["p", "temp_b", Kind.null, 0, 0]);
    expect([...world.sent().keys()]).toEqual(["last/p"]);
    world.store.devices.learn([{ device: "p", about: { model: "M1" } }]);
    expect(world.sent().get("meta/p")).toMatchObject({ source: "devices", model: "M1" });
    world.commit(["p", "temp_b", Kind.number, 0, 2]);
    expect(world.sent().get("meta/p")).toMatchObject({ metrics: { temp_b: { kind: "number" } } });
  });

  it("has each metric once, whatever its labels; labels that have gone are forgotten within two hours", () => {
    const world = new World();
    const rows = (from: number): Row[] =>
      Array.from({ length: 50 }, (_, i): Row => ["p", `cpu;pid=${from + i}`, Kind.number, 0, i, T, "s"]);
    world.commit(["p", "rare", Kind.number, 0, 1], ...rows(0));
    expect(world.sent().get("meta/p")).toMatchObject({
      metrics: { rare: { kind: "number" }, cpu: { kind: "number", unit: "s" } },
    });
    world.commit(...rows(50));
    expect([...world.sent().keys()]).toEqual(["last/p"]);
    expect(world.store.devices.get("p")?.values.size).toBe(101);
    for (let hour = 0; hour < 2; hour++) {
      world.nowMs += 3_600_001;
      world.commit(...rows(100));
      world.store.maintain(true);
    }
    const names = Object.keys(world.sent().get("last/p") ?? {});
    expect(names.filter((name) => name.startsWith("cpu"))).toEqual(rows(100).map(([, name]) => name));
    expect(names).toContain("rare");
  });

  it("is told once an hour as long as it sends, and emptied when it was silent for 30 days", () => {
    const world = new World();
    world.commit(["p", "x", Kind.number, 0, 1]);
    world.commit(["q", "x", Kind.number, 0, 1]);
    world.sent();
    for (let day = 0; day < 32; day++) {
      for (let hour = 0; hour < 24; hour++) {
        world.nowMs += 3_600_000;
        world.commit(["p", "x", Kind.number, 0, hour]);
        world.store.maintain(true);
      }
      const sent = world.sent();
      expect(sent.get("meta/p"), `day ${day}`).toMatchObject({ lastSeen: world.nowMs });
      expect(sent.get("meta/q"), `day ${day}`).toBe(day === 30 ? "" : undefined);
    }
    expect(world.again(true).sent().has("last/q")).toBe(false);
  });

  it("outlasts a jump of the clock, and a long time without power", () => {
    const world = new World();
    world.commit(["p", "x", Kind.number, 0, 1]);
    world.nowMs += 3650 * DAY;
    world.store.maintain(true);
    const later = world.again(true);
    later.nowMs += 90 * DAY;
    later.store.maintain(true);
    expect(later.store.devices.get("p")?.firstMs).toBe(T / 1000);
  });
});
