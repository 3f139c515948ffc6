/**
 * The frame and block codec: ns per sample of build, pack, read, validate and select, and bytes per sample, beside
 * JSON of the same rows in the same run. One thread, nothing else: `node bench/codec.bench.ts [--json]`.
 *
 * Two shapes of data: `20x10` is 20 devices that send 10 decimal metrics a message; `1000x10` is 1,000 devices that
 * send one or a few values each, so that the dictionaries weigh as much as the rows.
 */
import { zstdCompressSync } from "node:zlib";
import { crc32c, crc32cImplementation } from "../src/addon/index.ts";
import { packBlock, readBlock } from "../src/core/block.ts";
import { Frame, Kind, Status, validate } from "../src/core/frame.ts";
import { FrameBuilder, select } from "../src/core/frame-builder.ts";

interface Row {
  readonly device: string;
  readonly metric: string;
  readonly timeUs: number;
  readonly value: number;
}

/** A reproducible generator (mulberry32): the same rows in every run. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const METRICS = [
  "temp_c",
  "pressure_bar",
  "rpm",
  "flow_lpm",
  "current_a",
  "voltage_v",
  "power_w",
  "vibration_mm_s",
  "humidity_pct",
  "level_mm",
];
/** Decimal places of each metric. */
const DECIMALS = [1, 2, 0, 2, 2, 1, 0, 3, 1, 0];

/** Random walks, as devices send them: a message has one time, and `perMessage` metrics in the same order. */
function rowsOf(count: number, devices: number, perMessage: number): Row[] {
  const random = generator(count + devices);
  const level = Array.from({ length: devices * METRICS.length }, () => 20 + random() * 80);
  const rows: Row[] = [];
  let timeUs = 1_763_640_000_000_000;
  for (let message = 0; rows.length < count; message++) {
    const device = message % devices;
    timeUs += 1000 * Math.round(5 + random() * 90);
    for (let i = 0; i < perMessage && rows.length < count; i++) {
      const metric = (i + Math.floor(message / devices) * perMessage) % METRICS.length;
      const series = device * METRICS.length + metric;
      const next = (level[series] ?? 0) + (random() - 0.5) * 2;
      level[series] = next;
      const value = Number(next.toFixed(DECIMALS[metric]));
      rows.push({ device: `device-${device + 1}`, metric: METRICS[metric] ?? "", timeUs, value });
    }
  }
  return rows;
}

/** The way a decoder does it: every name looked up for every row. */
function build(builder: FrameBuilder, rows: readonly Row[]): Frame {
  for (const row of rows) {
    builder.add(
      builder.device(row.device),
      builder.metric(row.metric),
      row.timeUs,
      Kind.number,
      Status.good,
      row.value,
    );
  }
  return builder.build();
}

/** Median ns per sample over rounds of about 20 ms, after a warm-up. */
function measure(samples: number, work: () => unknown): number {
  let sink: unknown;
  const spin = (milliseconds: number): number => {
    const start = process.hrtime.bigint();
    const end = start + BigInt(milliseconds * 1e6);
    let calls = 0;
    let now = start;
    for (; now < end; calls++) {
      sink = work();
      now = process.hrtime.bigint();
    }
    return Number(now - start) / (calls * samples);
  };
  spin(150);
  const rounds = Array.from({ length: 15 }, () => spin(20)).sort((a, b) => a - b);
  if (sink === undefined) throw new Error("the measured work gave nothing");
  return rounds[7] ?? 0;
}

interface Result {
  readonly shape: string;
  readonly rows: number;
  /** ns per sample */
  readonly ns: Record<"build" | "pack" | "read" | "validate" | "select" | "json" | "jsonParse", number>;
  /** bytes per sample */
  readonly bytes: Record<"raw" | "packed" | "packedZstd" | "json" | "jsonZstd", number>;
}

function run(shape: string, count: number, devices: number, perMessage: number): Result {
  const rows = rowsOf(count, devices, perMessage);
  const builder = new FrameBuilder();
  const frame = build(builder, rows);
  const block = packBlock(frame, crc32c);
  const raw = new Uint8Array(frame.buffer);
  // What a plugin bound to every other device is given.
  const keep = Uint8Array.from(frame.device, (device) => device % 2);
  const objects = rows.map(({ device, metric, timeUs, value }) => ({
    device,
    metric,
    ts: timeUs / 1000,
    value,
  }));
  const json = JSON.stringify(objects);
  const zstd = (bytes: Uint8Array | string): number => zstdCompressSync(bytes).byteLength / count;
  return {
    shape,
    rows: count,
    ns: {
      build: measure(count, () => build(builder, rows)),
      pack: measure(count, () => packBlock(frame, crc32c)),
      read: measure(count, () => readBlock(block, crc32c)),
      validate: measure(count, () => {
        // A fresh frame each time, as on every hop: nothing is decoded yet.
        const hop = new Frame(frame.buffer);
        validate(hop);
        return hop;
      }),
      select: measure(count, () => select(new Frame(frame.buffer), keep)),
      json: measure(count, () => JSON.stringify(objects)),
      jsonParse: measure(count, () => JSON.parse(json)),
    },
    bytes: {
      raw: raw.byteLength / count,
      packed: block.byteLength / count,
      packedZstd: zstd(block),
      json: Buffer.byteLength(json) / count,
      jsonZstd: zstd(json),
    },
  };
}

const results = [1024, 2048, 4096].flatMap((rows) => [
  run("20x10", rows, 20, 10),
  run("1000x10", rows, 1000, 1),
]);
if (process.argv.includes("--json")) console.log(JSON.stringify(results));
else {
  console.log(`ns per sample (one thread, median; crc32c: ${crc32cImplementation()})`);
  console.table(
    results.map(({ shape, rows, ns }) => ({
      shape,
      rows,
      ...Object.fromEntries(Object.entries(ns).map(([name, value]) => [name, Number(value.toFixed(1))])),
      "json : pack": Number((ns.json / ns.pack).toFixed(1)),
      "parse : read": Number((ns.jsonParse / ns.read).toFixed(1)),
    })),
  );
  console.log("bytes per sample (zstd at its default level, 3)");
  console.table(
    results.map(({ shape, rows, bytes }) => ({
      shape,
      rows,
      ...Object.fromEntries(Object.entries(bytes).map(([name, value]) => [name, Number(value.toFixed(2))])),
      "json : packed": Number((bytes.json / bytes.packed).toFixed(1)),
      "both zstd": Number((bytes.jsonZstd / bytes.packedZstd).toFixed(1)),
    })),
  );
}
