import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import type { Frame } from "../../src/core/frame.ts";
import { Ledger } from "../../src/core/ledger.ts";
import type { ChainOutput } from "../../src/core/ports.ts";
import { WorkerOutbox } from "../../src/outbox/outbox.ts";
import { Ingest } from "../../src/pipeline/ingest.ts";
import { RejectedLog } from "../../src/pipeline/rejected.ts";
import { frameOf, numbers, planFor, range, uplink } from "../helpers/outbox.ts";
import { until } from "../helpers/until.ts";

const crashing = new URL("../helpers/crashing-worker.ts", import.meta.url);
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function open(): Promise<{ outbox: WorkerOutbox; dir: string; crashes: string[] }> {
  const dir = mkdtempSync(join(tmpdir(), "weir-crash-"));
  const crashes: string[] = [];
  const outbox = new WorkerOutbox(crashing, planFor(join(dir, "weir.db")), {
    onCrash: ({ message }) => crashes.push(message),
  });
  await outbox.start();
  cleanups.push(() => rmSync(dir, { recursive: true }));
  cleanups.push(() => outbox.stop());
  return { outbox, dir, crashes };
}
const chunk = (values: readonly number[]) => ({
  stream: "data" as const,
  frame: frameOf(values),
  state: [],
  effects: [],
});

test("a worker that crashes is started again: what was committed is there, what was on lease stays so, later chunks wait for `resume`", async () => {
  const { outbox, dir, crashes } = await open();
  const epoch = outbox.epoch;
  await outbox.append(chunk(range(0, 10)));
  const [first] = await outbox.lease("up", 4);
  await outbox.append(chunk(range(10, 20)));
  writeFileSync(join(dir, "crash"), "");
  await until("the crash", () => crashes.length > 0);
  expect(crashes[0]).toContain("crashes as told");
  await expect(outbox.append(chunk([99]))).rejects.toMatchObject({ code: "outbox.commit" });
  // Held until there is a worker again.
  await outbox.resume();
  expect(outbox.epoch).not.toBe(epoch);
  expect(outbox.restarts).toBe(1);
  await outbox.append(chunk(range(20, 30)));
  const rest = await outbox.lease("up", 4);
  expect(rest.flatMap(numbers)).toEqual(range(10, 30));
  expect(rest.map(({ key }) => key.epoch)).toEqual([epoch, outbox.epoch]);
  await outbox.ack(
    "up",
    [first, ...rest].flatMap((batch) => batch?.id ?? []),
  );
  expect((await outbox.counts()).find(({ stream }) => stream === "data")).toMatchObject({
    committed: 30,
    acked: 30,
    held: 0,
  });
});

test("what a worker committed before it crashed is not done twice: its messages are acknowledged, in order with the rest", async () => {
  const { outbox, dir, crashes } = await open();
  const ledger = new Ledger();
  const untouched = (frame: Frame): ChainOutput => ({
    frame,
    state: [],
    effects: [],
    rejected: [],
    counts: [],
  });
  const ingest = new Ingest({
    decoder: {
      decode: ({ payload }, into) => {
        into.add(into.device("pump-1"), into.metric("n"), 1e15, 0, 0, payload[0] ?? -1);
        return undefined;
      },
    },
    // No plugins.
    chain: {
      process: async ({ frame }) => ({ ok: true, output: untouched(frame) }),
      committed: () => {},
      restart: async () => {},
      timed: false,
      tick: () => undefined,
    },
    outbox,
    ledger,
    rejected: new RejectedLog(),
    clock: { valid: true, offsetUs: 0, nowUs: 0 },
    log: () => {},
    onEffects: () => {},
    options: { chunkSamples: 1, lingerMs: 1, queueBytes: 1e6 },
  });
  ingest.start();
  const settled: number[] = [];
  const send = (n: number): void =>
    ingest.message({
      topic: "devices/pump-1/t",
      route: { device: "pump-1", channel: "t", rule: 0, plugin: undefined },
      payload: Uint8Array.of(n),
      timeUs: Date.now() * 1000,
      qos: 1,
      retained: false,
      settle: (outcome) => {
        if (outcome === "committed") settled.push(n);
      },
    });
  send(0);
  await until("the first to be acknowledged", () => settled.length === 1);
  writeFileSync(join(dir, "mute"), "");
  for (const n of range(1, 40)) send(n);
  await until("all to be acknowledged", () => settled.length === 40);
  expect(crashes[0]).toContain("has no time to answer");
  expect(settled).toEqual(range(0, 40));
  const batches = await outbox.lease("up", 32);
  expect(batches.flatMap(numbers)).toEqual(range(0, 40));
  expect(ledger.lines().find(({ stage }) => stage === "commit")).toMatchObject({ in: 40, out: 40 });
  await ingest.stop(1_000);
});

test("another plan takes effect while calls go on: in order, and without a lease being lost", async () => {
  const { outbox, dir } = await open();
  const appended = range(0, 20).map((n) => outbox.append(chunk([n])));
  await Promise.all(appended);
  const before = await outbox.lease("up", 1);
  const restarted = outbox.restart(
    planFor(join(dir, "weir.db"), { uplinks: [uplink("up"), uplink("more")] }),
  );
  const later = range(20, 40).map((n) => outbox.append(chunk([n])));
  await Promise.all([restarted, ...later]);
  const up = await outbox.lease("up", 32);
  expect([...before, ...up].flatMap(numbers)).toEqual(range(0, 40));
  expect((await outbox.lease("more", 32)).flatMap(numbers)).toEqual(range(20, 40));
  expect(outbox.restarts).toBe(0);
});
