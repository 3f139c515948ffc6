/** Rows made of counters and records: needs no kernel. */
import { describe, expect, test } from "vitest";
import { addonState, BUCKETS, type Counters, RECORD_BYTES } from "../../src/addon/index.ts";
import { MOST_PROCESS_EVENTS } from "../../src/addon/process-rows.ts";
import { Kind, validate } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { ProcessEvents } from "../../src/sources/kernel-process.ts";
import { HistogramRows, OpenEvents } from "../../src/sources/kernel-rows.ts";
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

interface Event {
  readonly kind: number;
  readonly status?: number;
  readonly pid?: number;
  readonly comm: string | Uint8Array;
}

/** Rows of each of these events, as a drain has them. */
function rowsOfEvents(into: ProcessEvents, events: readonly Event[]): readonly Record<string, unknown>[] {
  const { records } = into;
  const view = new DataView(records.buffer, records.byteOffset);
  for (const [i, { kind, status = 0, pid = 42, comm }] of events.entries()) {
    const at = i * RECORD_BYTES;
    records.fill(0, at, at + RECORD_BYTES);
    view.setBigUint64(at + 8, 5_000_000_000n, true);
    view.setBigUint64(at + 16, 1_500_000_000n, true);
    for (const [word, value] of [kind, pid, 1, status, 1000].entries())
      view.setUint32(at + 24 + 4 * word, value, true);
    records.set(Buffer.from(comm), at + 48);
  }
  const frame = into.frame(events.length, 1_000_000);
  validate(frame);
  const rows = rowsOf(frame);
  expect(new Set(rows.map(({ timeUs }) => timeUs))).toEqual(new Set([6_000_000]));
  expect(new Set(rows.map(({ device }) => device))).toEqual(new Set(["_gateway"]));
  expect(new Set(frame.status)).toEqual(new Set([0]));
  const starts = rows.flatMap(({ metric }, row) => (metric === "event.name" ? [row] : []));
  expect(starts).toHaveLength(events.length);
  expect(starts[0]).toBe(0);
  for (const { metric, kind } of rows) if (metric === "process.uptime") expect(kind).toBe(Kind.number);
  return starts.map((from, i) =>
    Object.fromEntries(rows.slice(from, starts[i + 1]).map(({ metric, value }) => [metric, value])),
  );
}

describe.skipIf(!addonState().ok)("process events (skipped without the addon)", () => {
  const common = {
    "process.pid": 42,
    "process.parent_pid": 1,
    "process.real_user.id": 1000,
    "process.executable.name": "sh",
  };
  const ended = { ...common, "event.name": "process.exit", "process.uptime": 1.5 };

  test("records become rows that share their time; a process may call itself anything", () => {
    expect(
      rowsOfEvents(new ProcessEvents(), [
        { kind: 1, comm: "sh" },
        { kind: 2, status: 7 << 8, comm: "sh" },
        { kind: 2, status: 0x80 | 11, comm: Uint8Array.of(0xff, 0x0a, 0xfe) },
        { kind: 1, comm: "process.exit" },
        { kind: 1, comm: "" },
      ]),
    ).toEqual([
      { ...common, "event.name": "process.exec" },
      { ...ended, "process.exit.code": 7 },
      { ...ended, "process.executable.name": "\ufffd\n\ufffd", "process.exit.signal": 11 },
      { ...common, "event.name": "process.exec", "process.executable.name": "process.exit" },
      { ...common, "event.name": "process.exec", "process.executable.name": "" },
    ]);
  });

  test("names that differ in what isn't UTF-8 alone are one text", () => {
    const rows = rowsOfEvents(
      new ProcessEvents(),
      [0xfe, 0xff].map((byte) => ({ kind: 1, comm: Uint8Array.of(0x61, byte) })),
    );
    for (const row of rows) expect(row["process.executable.name"]).toBe("a\ufffd");
  });

  test("as many events as there is room for, each with a name of its own, and then few with others", () => {
    const events = new ProcessEvents();
    for (const [count, prefix] of [
      [MOST_PROCESS_EVENTS, "w"],
      [3, "x"],
      [MOST_PROCESS_EVENTS, "w"],
    ] as const) {
      const given = Array.from({ length: count }, (_, i) => ({
        kind: 1 + (i % 3),
        pid: i,
        comm: `${prefix}${(i * 7) % 200}é`,
      }));
      const rows = rowsOfEvents(events, given);
      expect(rows.map((row) => row["process.executable.name"])).toEqual(given.map(({ comm }) => comm));
      expect(rows.map((row) => row["process.pid"])).toEqual(given.map(({ pid }) => pid));
    }
  });
});

test("a path is that of its own open, whatever records between were lost", () => {
  const events = new OpenEvents();
  const { records } = events;
  let count = 0;
  const record = (time: bigint, kind: number, tell: (at: number) => void): void => {
    const at = count++ * RECORD_BYTES;
    records.fill(0, at, at + RECORD_BYTES);
    records.writeBigUInt64LE(time, at + 8);
    records.writeUInt32LE(kind, at + 24);
    tell(at);
  };
  const part = (time: bigint, which: number, text: string): void =>
    record(time, 4, (at) => {
      records.writeUInt32LE(which, at + 16);
      records.writeUInt32LE(7, at + 28);
      records.write(text, at + 32, 32);
    });
  const opened = (time: bigint): void =>
    record(time, 3, (at) => {
      records.writeUInt32LE(7, at + 28);
      records.writeUInt32LE(7, at + 32);
    });
  const [long, rest] = ["/long/".padEnd(32, "x"), "rest"];
  // Whole; the event lost; then without its first part, and without any.
  part(1000n, 0, long);
  part(1000n, 1, rest);
  opened(1000n);
  part(2000n, 0, "/lost");
  part(2000n, 1, "");
  part(3000n, 1, rest);
  opened(3000n);
  part(4000n, 0, "/lost");
  part(4000n, 1, "");
  opened(5000n);
  // What is cut at the first part's end is no path; one that ends there is.
  part(6000n, 0, long);
  opened(6000n);
  part(7000n, 0, "/short");
  opened(7000n);
  const frame = events.frame(count, 0);
  validate(frame);
  const paths = rowsOf(frame).flatMap(({ metric, timeUs, value }) =>
    metric === "file.path" ? [[timeUs, value]] : [],
  );
  expect(paths).toEqual([
    [1, `${long}${rest}`],
    [7, "/short"],
  ]);
});
