/** Rows made of counters and records: needs no kernel. */
import { expect, test } from "vitest";
import { BUCKETS, type Counters, RECORD_BYTES } from "../../src/addon/index.ts";
import { Kind, validate } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { ProcessEvents } from "../../src/sources/kernel-process.ts";
import { HistogramRows, MOST_EVENT_ROWS } from "../../src/sources/kernel-rows.ts";
import { SoftirqRows } from "../../src/sources/kernel-shapes.ts";
import { rowsOf } from "./helpers.ts";

function counters(sumNs: bigint, counts: Readonly<Record<number, bigint>>): Counters {
  const buckets = new BigUint64Array(BUCKETS);
  for (const [bucket, count] of Object.entries(counts)) buckets[Number(bucket)] = count;
  return {
    produced: 0n,
    lost: 0n,
    sumNs: new BigUint64Array([sumNs]),
    buckets: [buckets],
    slots: new BigUint64Array(),
  };
}

function rowsOfHistogram(histogram: HistogramRows, read: Counters): Record<string, unknown> {
  const builder = new FrameBuilder();
  histogram.add(builder, read, 1_763_640_000_000_000);
  const frame = builder.build();
  validate(frame);
  return Object.fromEntries(rowsOf(frame).map(({ metric, value }) => [metric, value]));
}

test("a histogram's rows are what its interval added, bounds and sum in seconds", () => {
  const histogram = new HistogramRows(0, "tcp.rtt");
  expect(rowsOfHistogram(histogram, counters(3_000n, { 0: 1n, 10: 5n }))).toEqual({
    "tcp.rtt;le=1e-9": 1,
    "tcp.rtt;le=0.000001024": 5,
    "tcp.rtt.count": 6,
    "tcp.rtt.sum": 3e-6,
  });
  expect(rowsOfHistogram(histogram, counters(5_000n, { 0: 1n, 10: 7n, 63: 1n }))).toEqual({
    "tcp.rtt;le=0.000001024": 2,
    "tcp.rtt;le=9223372036.854776": 1,
    "tcp.rtt.count": 3,
    "tcp.rtt.sum": 2e-6,
  });
  expect(rowsOfHistogram(histogram, counters(5_000n, { 0: 1n, 10: 7n, 63: 1n }))).toEqual({
    "tcp.rtt.count": 0,
    "tcp.rtt.sum": 0,
  });
});

test("counters that start again from zero give what they hold, never a negative count", () => {
  const histogram = new HistogramRows(0, "tcp.rtt");
  rowsOfHistogram(histogram, counters(9_000n, { 10: 100n }));
  expect(rowsOfHistogram(histogram, counters(2_000n, { 10: 4n }))).toEqual({
    "tcp.rtt;le=0.000001024": 4,
    "tcp.rtt.count": 4,
    "tcp.rtt.sum": 2e-6,
  });
});

test("runs of a software interrupt that were timed stand for those that were not", () => {
  const [netTx, netRx] = [2, 3];
  const rows = new SoftirqRows();
  const builder = new FrameBuilder();
  const found = (runs: bigint, ns: bigint, timed: bigint): Record<string, unknown> => {
    const words = { [netTx]: 1n, [netRx]: runs, [16 + netRx]: ns, [32 + netRx]: timed };
    rows.add(builder, counters(0n, words), 1_763_640_000_000_000);
    return Object.fromEntries(rowsOf(builder.build()).map(({ metric, value }) => [metric, value]));
  };
  expect(found(100n, 30_000n, 10n)).toEqual({
    "system.softirq.count;vector=net_tx": 1, // not timed yet: its time isn't known
    "system.softirq.count;vector=net_rx": 100,
    "system.softirq.time;vector=net_rx": expect.closeTo(300e-6, 9),
  });
  expect(found(104n, 34_000n, 12n)).toEqual({
    "system.softirq.count;vector=net_rx": 4,
    "system.softirq.time;vector=net_rx": expect.closeTo(8e-6, 9),
  });
});

test("records become rows that share their time; a process may call itself anything", () => {
  const records = new Uint8Array(3 * RECORD_BYTES);
  const view = new DataView(records.buffer);
  const put = (at: number, kind: number, status: number, comm: Uint8Array): void => {
    view.setBigUint64(at + 8, 5_000_000_000n, true);
    view.setBigUint64(at + 16, 1_500_000_000n, true);
    for (const [i, word] of [kind, 42, 1, status, 1000].entries())
      view.setUint32(at + 24 + 4 * i, word, true);
    records.set(comm, at + 48);
  };
  put(0, 1, 0, new TextEncoder().encode("sh"));
  put(RECORD_BYTES, 2, 7 << 8, new TextEncoder().encode("sh"));
  put(2 * RECORD_BYTES, 2, 0x80 | 11, Uint8Array.of(0xff, 0x0a, 0xfe));
  const builder = new FrameBuilder();
  new ProcessEvents().add(builder, records, 3, 1_000_000);
  const frame = builder.build();
  validate(frame);
  const rows = rowsOf(frame);
  expect(new Set(rows.map(({ timeUs }) => timeUs))).toEqual(new Set([6_000_000]));
  expect(new Set(rows.map(({ device }) => device))).toEqual(new Set(["_gateway"]));
  expect(rows.length).toBeLessThanOrEqual(3 * MOST_EVENT_ROWS);
  const common = { "process.pid": 42, "process.parent_pid": 1, "process.real_user.id": 1000 };
  const events = [0, 5, 12].map((from, i, starts) =>
    Object.fromEntries(rows.slice(from, starts[i + 1]).map(({ metric, value }) => [metric, value])),
  );
  expect(events).toEqual([
    { ...common, "event.name": "process.exec", "process.executable.name": "sh" },
    {
      ...common,
      "event.name": "process.exit",
      "process.executable.name": "sh",
      "process.exit.code": 7,
      "process.uptime": 1.5,
    },
    {
      ...common,
      "event.name": "process.exit",
      "process.executable.name": "\ufffd\n\ufffd",
      "process.exit.signal": 11,
      "process.uptime": 1.5,
    },
  ]);
  expect(rows.find(({ metric }) => metric === "process.uptime")?.kind).toBe(Kind.number);
});
