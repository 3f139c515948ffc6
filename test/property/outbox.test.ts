import { copyFileSync, existsSync } from "node:fs";
import fc from "fast-check";
import { afterAll, afterEach, expect, it } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import type { Stream } from "../../src/core/ports.ts";
import type { Batch } from "../../src/outbox/lanes.ts";
import type { UplinkPlan } from "../../src/outbox/plan.ts";
import { Store } from "../../src/outbox/store.ts";
import { frameOf, newPath, planFor, removeDatabases, uplink } from "../helpers/outbox.ts";

afterAll(removeDatabases);

/** Seeds that have failed once; they are run every time. */
const SEEDS = [1, 20_261_121, 1_098_976_819, 1_125_294_456];
const RUNS = 25;

/** Configurations that a restart may switch between. Small batches, so that sealing happens often. */
const PLANS: readonly (readonly UplinkPlan[])[] = [
  [
    uplink("a", { batch: { samples: 600, bytes: 1e6, ageMs: 50 } }),
    uplink("b", { streams: ["alarm", "data"], batch: { samples: 1500, bytes: 40_000, ageMs: 1000 } }),
  ],
  [uplink("a", { batch: { samples: 300, bytes: 1e6, ageMs: 0 } })],
  [
    uplink("a", { streams: ["alarm", "data"], batch: { samples: 600, bytes: 1e6, ageMs: 50 } }),
    uplink("c", { batch: { samples: 2048, bytes: 1e6, ageMs: 100 } }),
  ],
];
/** Small enough to overflow within a run: the data below takes up to 8 KB a chunk. */
const MAX_BYTES = 600_000;
const UPLINKS = ["a", "b", "c"] as const;
const open = (path: string, plan: number, now: () => number): Store =>
  new Store(planFor(path, { uplinks: PLANS[plan] ?? [], maxBytes: MAX_BYTES }), crc32c, now);

/** What happened to each number that a lane was given: exactly one thing, once. */
type Fate = "held" | "acked" | "rejected" | "gap";

/** What must be true of the outbox, kept the simple way: a map entry for every single sample. */
class Model {
  plan = 0;
  /** the alarm `outbox-copied` is raised */
  copied = false;
  nowMs = 1_800_000_000_000;
  value = 0;
  /** `epoch/stream/seq` → the sample's value */
  readonly values = new Map<string, number>();
  readonly next = new Map<string, number>();
  /** by `uplink/stream`: `epoch/stream/seq` → fate */
  readonly lanes = new Map<string, Map<string, Fate>>();
  /** by `uplink/epoch/stream/seq`: span of each batch that was ever given out */
  readonly spans = new Map<string, number>();
  readonly leased = new Map<number, { uplink: string; batch: Batch }>();

  lane(uplinkName: string, stream: Stream): Map<string, Fate> {
    const key = `${uplinkName}/${stream}`;
    let lane = this.lanes.get(key);
    if (lane === undefined) {
      lane = new Map();
      this.lanes.set(key, lane);
    }
    return lane;
  }

  decide(uplinkName: string, epoch: string, stream: Stream, from: number, to: number, fate: Fate): void {
    const lane = this.lane(uplinkName, stream);
    for (let seq = from; seq <= to; seq++) {
      const key = `${epoch}/${stream}/${seq}`;
      if (lane.get(key) !== "held")
        expect.fail(`${uplinkName}: ${key} was ${lane.get(key)}, and is now ${fate}`);
      lane.set(key, fate);
    }
  }
}

interface Real {
  path: string;
  store: Store;
}

/** The rows agree with the model, lane by lane, and the identity holds. */
function checkLedger(model: Model, { store }: Real): void {
  const counts = store.transaction(() => store.counts());
  for (const { uplink: name, stream, committed, acked, dropped, rejected, lost, held } of counts) {
    const where = `${name}/${stream}`;
    expect(acked + dropped + rejected + lost + held, where).toBe(committed);
    const fates = { held: 0, acked: 0, rejected: 0, gap: 0 };
    for (const fate of model.lane(name, stream).values()) fates[fate] += 1;
    expect(committed, where).toBe(fates.held + fates.acked + fates.rejected + fates.gap);
    expect(acked, where).toBe(fates.acked);
    expect(rejected, where).toBe(fates.rejected);
    expect(lost, where).toBe(0);
    // A gap that is not announced yet is still `held` in the model.
    expect(held, where).toBeLessThanOrEqual(fates.held);
    expect(dropped, where).toBeGreaterThanOrEqual(fates.gap);
  }
}

class Step implements fc.Command<Model, Real> {
  readonly #name: string;
  readonly #run: (model: Model, real: Real) => void;
  constructor(name: string, run: (model: Model, real: Real) => void) {
    this.#name = name;
    this.#run = run;
  }
  check(): boolean {
    return true;
  }
  run(model: Model, real: Real): void {
    this.#run(model, real);
    checkLedger(model, real);
  }
  toString(): string {
    return this.#name;
  }
}

function append(model: Model, { store }: Real, stream: Stream, rows: number): void {
  // Doubles that neither a decimal nor zstd makes smaller.
  const values = Array.from({ length: rows }, () => ++model.value * Math.PI);
  store.append({ stream, frame: frameOf(values), state: [], effects: [] });
  committed(model, store, stream, values);
}

/** These samples have the next numbers, and every lane of the stream holds them. */
function committed(model: Model, store: Store, stream: Stream, values: readonly number[]): void {
  const rows = values.length;
  const at = `${store.epoch}/${stream}`;
  const seq = model.next.get(at) ?? 0;
  model.next.set(at, seq + rows);
  for (const { name, streams } of PLANS[model.plan] ?? []) {
    if (!streams.includes(stream)) continue;
    for (let i = 0; i < rows; i++) model.lane(name, stream).set(`${at}/${seq + i}`, "held");
  }
  for (const [i, value] of values.entries()) model.values.set(`${at}/${seq + i}`, value);
}

function lease(model: Model, { store }: Real, name: string, count: number): Batch[] {
  const batches = store.transaction(() => store.lease(name, count));
  for (const batch of batches) {
    const { id, epoch, stream, seq, span } = batch;
    expect(model.leased.has(id), "leased twice").toBe(false);
    model.leased.set(id, { uplink: name, batch });
    const key = `${name}/${epoch}/${stream}/${seq}`;
    expect(model.spans.get(key) ?? span, `${key} keeps its span`).toBe(span);
    model.spans.set(key, span);
    const found = store.read(batch).flatMap((frame) => Array.from(frame.value));
    expect(found).toEqual(
      Array.from({ length: span }, (_, i) => model.values.get(`${epoch}/${stream}/${seq + i}`)),
    );
  }
  return batches;
}

function announce(model: Model, { store }: Real, name: string): number {
  const gaps = store.transaction(() => store.gaps.list(name));
  for (const { id, epoch, stream, from, to, reason } of gaps) {
    if (reason === "rejected") {
      const lane = model.lane(name, stream);
      for (let seq = from; seq <= to; seq++) expect(lane.get(`${epoch}/${stream}/${seq}`)).toBe("rejected");
    } else model.decide(name, epoch, stream, from, to, "gap");
    store.transaction(() => store.gaps.done(name, id));
  }
  return gaps.length;
}

function finish(model: Model, { store }: Real, how: "acked" | "rejected", pick: number): void {
  const leased = [...model.leased.values()];
  const chosen = leased[pick % leased.length];
  if (chosen === undefined) return;
  const { id, epoch, stream, seq, span } = chosen.batch;
  store.transaction(() =>
    how === "acked" ? store.ends.ack(chosen.uplink, [id, id]) : store.ends.reject(chosen.uplink, id, "no"),
  );
  model.leased.delete(id);
  model.decide(chosen.uplink, epoch, stream, seq, seq + span - 1, how);
}

/** Opens a copy of the files as they are on disk, as after `kill -9`, or the files themselves after an orderly stop. */
function reopen(model: Model, real: Real, crash: boolean, plan: number): void {
  let { path } = real;
  if (crash) {
    path = newPath();
    for (const end of ["", "-wal"])
      if (existsSync(real.path + end)) copyFileSync(real.path + end, path + end);
  }
  real.store.close();
  real.path = path;
  model.plan = plan;
  model.leased.clear();
  real.store = open(path, plan, () => model.nowMs);
  // The alarm `outbox-copied` begins or ends, in three rows: whether it is active, and two texts.
  const { copied } = real.store;
  if (copied !== undefined || model.copied)
    committed(model, real.store, "alarm", [copied === undefined ? 0 : 1, 0, 1]);
  model.copied = copied !== undefined;
}

const stream = fc.constantFrom<Stream>("alarm", "data", "host");
const name = fc.constantFrom(...UPLINKS);
const steps = [
  fc
    .tuple(stream, fc.integer({ min: 1, max: 900 }))
    .map(
      ([s, rows]) =>
        new Step(`append(${s}, ${rows})`, (model, real) =>
          real.store.transaction(() => append(model, real, s, rows)),
        ),
    ),
  fc.tuple(stream, fc.integer({ min: 10, max: 120 })).map(
    ([s, chunks]) =>
      new Step(`burst(${s}, ${chunks})`, (model, real) => {
        for (let i = 0; i < chunks; i++) real.store.transaction(() => append(model, real, s, 400));
      }),
  ),
  fc.tuple(stream, fc.integer({ min: 1, max: 300 })).map(
    ([s, rows]) =>
      new Step(`fail(${s}, ${rows})`, (_, { store }) => {
        const work = (): void => {
          store.append({
            stream: s,
            frame: frameOf(Array.from({ length: rows }, Math.random)),
            state: [],
            effects: [],
          });
          store.lease("a", 3);
          throw new Error("the disk is full");
        };
        expect(() => store.transaction(work)).toThrow("the disk is full");
      }),
  ),
  fc
    .tuple(name, fc.integer({ min: 1, max: 6 }))
    .map(
      ([n, count]) => new Step(`lease(${n}, ${count})`, (model, real) => void lease(model, real, n, count)),
    ),
  fc.nat(50).map((pick) => new Step(`ack(${pick})`, (model, real) => finish(model, real, "acked", pick))),
  fc.nat(50).map((pick) => new Step(`ack(${pick})`, (model, real) => finish(model, real, "acked", pick))),
  fc
    .nat(50)
    .map((pick) => new Step(`reject(${pick})`, (model, real) => finish(model, real, "rejected", pick))),
  name.map(
    (n) =>
      new Step(`release(${n})`, (model, { store }) => {
        const ids = [...model.leased].filter(([, entry]) => entry.uplink === n).map(([id]) => id);
        store.transaction(() => store.release(ids));
        for (const id of ids) model.leased.delete(id);
      }),
  ),
  fc.integer({ min: -5000, max: 5000 }).map(
    (ms) =>
      new Step(`clock(${ms})`, (model) => {
        model.nowMs += ms;
      }),
  ),
  name.map((n) => new Step(`announce(${n})`, (model, real) => void announce(model, real, n))),
  fc.boolean().map((idle) => new Step(`maintain(${idle})`, (_, { store }) => void store.maintain(idle))),
  fc
    .tuple(fc.boolean(), fc.nat(PLANS.length - 1))
    .map(
      ([crash, plan]) =>
        new Step(`reopen(${crash}, ${plan})`, (model, real) => reopen(model, real, crash, plan)),
    ),
];

/** At the end every number of every lane is accounted for: acknowledged, rejected, or in a gap. */
function drain(model: Model, real: Real): void {
  real.store.transaction(() => real.store.release([...model.leased.keys()]));
  model.leased.clear();
  // Later than anything was stored, however far the clock was set back: so that all of it is due.
  model.nowMs += 1_000_000;
  for (const { name: n } of PLANS[model.plan] ?? []) {
    while (lease(model, real, n, 8).length > 0) while (model.leased.size > 0) finish(model, real, "acked", 0);
  }
  for (const n of UPLINKS) while (announce(model, real, n) > 0);
  for (const [lane, fates] of model.lanes) {
    for (const [key, fate] of fates) if (fate === "held") expect.fail(`${lane}: ${key} is nowhere`);
  }
  checkLedger(model, real);
}

const stores = new Set<Real>();
afterEach(() => {
  for (const { store } of stores) store.close();
  stores.clear();
});

const property = fc.property(fc.commands(steps, { maxCommands: 80, size: "max" }), (commands) => {
  const model = new Model();
  const path = newPath();
  const real = { path, store: open(path, 0, () => model.nowMs) };
  stores.add(real);
  fc.modelRun(() => ({ model, real }), commands);
  drain(model, real);
  real.store.close();
  stores.delete(real);
});

it.each(SEEDS)("accounts for every sample at every lane, whatever happens (seed %i)", (seed) => {
  fc.assert(property, { seed, numRuns: RUNS });
});

it("accounts for every sample at every lane, whatever happens (a new seed)", () => {
  fc.assert(property, { numRuns: RUNS });
});
