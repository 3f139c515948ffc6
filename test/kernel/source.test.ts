/** The kernel source over the real kernel: what reaches the pipeline, and its ledger. */
import { spawnSync } from "node:child_process";
import { afterEach, describe, expect, test } from "vitest";
import { countRuns, PROBES } from "../../src/addon/index.ts";
import { type Frame, validate } from "../../src/core/frame.ts";
import { imbalance, Ledger } from "../../src/core/ledger.ts";
import type { Intake } from "../../src/core/ports.ts";
import { KernelSource } from "../../src/sources/kernel.ts";
import { LARGEST_RING_BYTES } from "../../src/sources/kernel-events.ts";
import { eventually } from "../helpers/eventually.ts";
import { bpfHoldings, exchangeOverTcp, missing, open, PRESENT, type Row, rowsOf } from "./helpers.ts";

/** Takes frames in, as the pipeline would. */
class Collector implements Intake {
  readonly frames: Frame[] = [];
  get rows(): Row[] {
    return this.frames.flatMap(rowsOf);
  }
  message(): void {
    expect.fail("the kernel sends no messages");
  }
  frame(source: string, frame: Frame): boolean {
    expect(source).toBe("kernel");
    validate(frame);
    this.frames.push(frame);
    return true;
  }
}

const started = new Set<KernelSource>();
// One that a failed test left running would fail the next: a thread loads each probe once.
afterEach(async () => {
  for (const source of started) await source.stop();
  started.clear();
});

/** A source that ends with its test. */
function newSource(options: ConstructorParameters<typeof KernelSource>[0]): KernelSource {
  const source = new KernelSource(options);
  started.add(source);
  return source;
}

describe.skipIf(missing !== "")(`kernel source${missing === "" ? "" : ` (skipped: ${missing})`}`, () => {
  test("processes, connections and waits arrive as rows of the gateway", async () => {
    const ledger = new Ledger();
    const intake = new Collector();
    const source = newSource({ intervalMs: 100, ledger, eventBudget: 1e6, ringBytes: LARGEST_RING_BYTES });
    expect(new Set(source.probes().map(({ state }) => state))).toEqual(new Set(["stopped"]));
    await source.start(intake, new AbortController().signal);
    expect(
      source.probes().flatMap(({ name, state, onDemand }) => (onDemand ? [] : [`${name} ${state}`])),
    ).toEqual(PROBES.map((name) => `${name} ${PRESENT.includes(name) ? "on" : "unavailable"}`));
    const bytes = source.probes().reduce((sum, { memoryBytes = 0 }) => sum + memoryBytes, 0);
    expect(bytes).toBeLessThanOrEqual(16 * 2 ** 20);
    const { pid } = spawnSync("sh", ["-c", "exit 3"]);
    await exchangeOverTcp(20);

    const sum = (metric: string): number =>
      intake.rows.reduce((total, row) => total + (row.metric === metric ? Number(row.value) : 0), 0);
    await eventually(() => {
      expect(sum("system.cpu.run_queue.latency.count")).toBeGreaterThan(0);
      expect(sum("tcp.connect.duration.count")).toBeGreaterThan(0);
      expect(sum("system.cpu.context_switches")).toBeGreaterThan(0);
      expect(sum("tcp.rtt.sum")).toBeGreaterThan(0);
      expect(intake.rows.some((row) => row.metric === "process.pid" && row.value === pid)).toBe(true);
    });
    await source.stop();

    const rows = intake.rows;
    for (const metric of ["system.cpu.run_queue.latency", "tcp.connect.duration", "tcp.rtt"]) {
      const buckets = rows.filter((row) => row.metric.startsWith(`${metric};le=`));
      expect(buckets.reduce((total, row) => total + Number(row.value), 0)).toBe(sum(`${metric}.count`));
    }
    const exit = rows.findIndex((row, i) => row.value === "process.exit" && rows[i + 1]?.value === pid);
    const event = rows.slice(exit, exit + 7);
    expect(event.find((row) => row.metric === "process.exit.code")?.value).toBe(3);
    expect(new Set(event.map((row) => row.timeUs)).size).toBe(1);
    expect(Math.abs((event[0]?.timeUs ?? 0) - Date.now() * 1000)).toBeLessThan(30e6);
    expect(new Set(rows.map((row) => row.device))).toEqual(new Set(["_gateway"]));
    expect(source.probes().filter(({ state }) => state === "on")).toEqual([]);
  });

  test("its ledger accounts for a flood that the ring could not hold", async () => {
    const ledger = new Ledger();
    const intake = new Collector();
    const source = newSource({ intervalMs: 100, ledger, ringBytes: 1 });
    await source.start(intake, new AbortController().signal);
    // Nothing is drained while this thread waits for the shell.
    spawnSync("sh", ["-c", "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done"]);
    const line = () => ledger.lines().find(({ name }) => name === "exec");
    await eventually(() => {
      expect(line()?.in).toBeGreaterThanOrEqual(600);
      expect(line()?.lost).toBeGreaterThan(0);
      expect(ledger.lines().filter((one) => imbalance(one) !== 0)).toEqual([]);
    });
    // What was too small is made larger, and the account goes on.
    const bytes = (): number => source.probes().find(({ name }) => name === "exec")?.memoryBytes ?? 0;
    const small = bytes();
    spawnSync("sh", ["-c", "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done"]);
    await eventually(() => {
      expect(bytes()).toBeGreaterThan(small);
      expect(ledger.lines().filter((one) => imbalance(one) !== 0)).toEqual([]);
    });
    await source.stop();
    const events = intake.rows.filter(({ metric }) => metric === "event.name").length;
    expect(events).toBe(line()?.out);
  });

  test("events beyond the budget are dropped, and the counts by name still have them", async () => {
    const ledger = new Ledger();
    const intake = new Collector();
    const source = newSource({ intervalMs: 60_000, ledger, eventBudget: 10 });
    await source.start(intake, new AbortController().signal);
    spawnSync("sh", ["-c", "i=0; while [ $i -lt 40 ]; do /bin/false; i=$((i+1)); done"]);
    // Other processes of this machine come and go between a drain and a reading.
    await eventually(() => expect(ledger.lines().filter((one) => imbalance(one) !== 0)).toEqual([]));
    await source.stop();
    const line = ledger.lines().find(({ name }) => name === "exec");
    expect(line?.out).toBe(10);
    expect(line?.dropped).toBeGreaterThanOrEqual(70);
    const count = (metric: string) => Number(intake.rows.find((row) => row.metric === metric)?.value);
    expect(count("process.starts;process.executable.name=false")).toBeGreaterThanOrEqual(40);
    expect(count("process.exits;outcome=failure;process.executable.name=false")).toBeGreaterThanOrEqual(40);
  });

  test.skipIf(process.getuid?.() !== 0)(
    "what a probe takes is known while the kernel counts it",
    async () => {
      const probe = open("sched");
      try {
        expect(countRuns(true)).toBe(true);
        await eventually(() => {
          const { ns, runs } = probe.cost();
          expect(runs).toBeGreaterThan(100);
          expect(ns / runs).toBeGreaterThan(1);
        });
      } finally {
        countRuns(false);
        probe.close();
      }
    },
  );

  test("an abort stops it, and nothing stays in the kernel", async () => {
    const before = bpfHoldings();
    const abort = new AbortController();
    const source = newSource({ intervalMs: 100, ledger: new Ledger() });
    await source.start(new Collector(), abort.signal);
    expect(bpfHoldings()).not.toEqual(before);
    abort.abort();
    expect(bpfHoldings()).toEqual(before);
    await source.stop();
  });
});
