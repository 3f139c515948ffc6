/**
 * The outbox alone: chunks of 2,048 samples in, encoded batches out. `node bench/outbox.bench.ts [--json]`.
 *
 * The peer, in the same run and on the same file system, is a bare better-sqlite3 loop that inserts blocks packed and
 * compressed beforehand, one to a transaction: no encoding, no thread, no counters. `append` is as fast as it goes with 8
 * chunks in flight. `main loop p99` is how late a 1 ms timer of the main thread fires at a paced 1.2 M samples/s, and before that, for
 * as long, with nothing to do: that much is the machine's.
 *
 * The backlog is of 10 M samples: its first 6 M are a million messages of six values. `start` is until the outbox answers a lease;
 * RSS is the whole process's, from before the drain to its highest during it.
 *
 * Aims: >= 1.2 M samples/s with `full`, main-loop stall p99 <= 2 ms; a million messages in <= 20 MB; drained with RSS flat within
 * 20 MB; start with the backlog <= 1 s.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout } from "node:timers/promises";
import { zstdCompressSync } from "node:zlib";
import Database from "better-sqlite3";
import { crc32c } from "../src/addon/index.ts";
import { packBlock } from "../src/core/block.ts";
import { Frame } from "../src/core/frame.ts";
import { FrameBuilder } from "../src/core/frame-builder.ts";
import { WorkerOutbox } from "../src/outbox/outbox.ts";

const CHUNKS = 2_000;
const IN_FLIGHT = 8;
/** 1.2 M samples/s: six chunks in ten milliseconds, for three seconds. */
const PACED_CHUNKS = 6;
const PACED_MS = 10;
const PACED_TICKS = 300;
const METRICS = ["temp_c", "rpm", "pressure_bar", "current_a", "flow_lpm", "vibration_mm_s"];

/** 2,048 samples: 20 devices that send six decimals a message, as the path's bench does. */
function sampleFrame(): Frame {
  const builder = new FrameBuilder(2048);
  let timeUs = 1_763_640_000_000_000;
  for (let i = 0; builder.rows < 2048; i++) {
    timeUs += 1000 + ((i * 7919) % 211);
    const device = builder.device(`pump-${i % 20}`);
    for (const [m, name] of METRICS.entries()) {
      if (builder.rows === 2048) break;
      builder.add(
        device,
        builder.metric(name),
        timeUs,
        0,
        16,
        Math.round(200 + 100 * m + 50 * Math.sin(i * (m + 1))) / 10,
      );
    }
  }
  return builder.build();
}

const frame = sampleFrame();
const SAMPLES = CHUNKS * frame.rows;
const folder = mkdtempSync(join(tmpdir(), "weir-bench-outbox-"));

interface Result {
  readonly sync: string;
  readonly bareSamplesPerS: number;
  readonly appendSamplesPerS: number;
  readonly ratio: number;
  readonly mainLoopP99Ms: number;
  readonly idleLoopP99Ms: number;
  readonly drainSamplesPerS: number;
  readonly bytesPerSample: number;
}

function bare(sync: "normal" | "full"): number {
  const db = new Database(join(folder, `bare-${sync}.db`));
  db.pragma("journal_mode = WAL");
  db.pragma(`synchronous = ${sync}`);
  db.exec("CREATE TABLE block (id INTEGER PRIMARY KEY AUTOINCREMENT, block BLOB)");
  const insert = db.prepare("INSERT INTO block (block) VALUES (?)");
  const block = zstdCompressSync(packBlock(frame, crc32c));
  const start = performance.now();
  for (let i = 0; i < CHUNKS; i++) insert.run(block);
  const seconds = (performance.now() - start) / 1000;
  db.close();
  return SAMPLES / seconds;
}

const outboxOf = (name: string, sync: "normal" | "full"): WorkerOutbox =>
  new WorkerOutbox(new URL("../src/worker.ts", import.meta.url), {
    path: join(folder, `${name}.db`),
    gateway: "bench",
    sync,
    maxBytes: 2 ** 30,
    machine: "bench",
    uplinks: [
      {
        name: "up",
        streams: ["alarm", "data", "host"],
        batch: { samples: 2048, bytes: 2 ** 20, ageMs: 1000 },
        topics: { batch: "weir/v1/{gateway}/{stream}", last: undefined, meta: undefined, alarm: undefined },
        format: { encoding: "json", compression: "none" },
        filter: { devices: ["*"], metrics: ["*"] },
        qos: 1,
        traceparent: false,
      },
    ],
  });

async function feed(outbox: WorkerOutbox, chunks: number): Promise<void> {
  let left = chunks;
  const lane = async (): Promise<void> => {
    while (left-- > 0)
      await outbox.append({ stream: "data", frame: new Frame(frame.buffer.slice()), state: [], effects: [] });
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
}

/** Leases and acknowledges until nothing is left; the samples that came. `each` is called after every lease. */
async function drain(outbox: WorkerOutbox, each: () => void = () => {}): Promise<number> {
  let samples = 0;
  for (;;) {
    const batches = await outbox.lease("up", 32);
    if (batches.length === 0) return samples;
    for (const batch of batches) samples += batch.samples;
    await outbox.ack(
      "up",
      batches.map(({ id }) => id),
    );
    each();
  }
}

interface Backlog {
  readonly messageBytes: number;
  readonly startMs: number;
  readonly drainSamplesPerS: number;
  readonly rssGrowthBytes: number;
}

/** Fills an outbox with a backlog, starts it again and drains it. */
async function backlog(): Promise<Backlog> {
  const first = outboxOf("backlog", "normal");
  await first.start();
  await feed(first, Math.ceil(6_000_000 / frame.rows));
  const { usedBytes: messageBytes } = await first.info();
  await feed(first, Math.ceil(4_000_000 / frame.rows));
  await first.stop();
  const outbox = outboxOf("backlog", "normal");
  let start = performance.now();
  await outbox.start();
  const [batch] = await outbox.lease("up", 1);
  const startMs = performance.now() - start;
  if (batch !== undefined) await outbox.release("up", [batch.id]);
  const before = process.memoryUsage.rss();
  let most = before;
  start = performance.now();
  const samples = await drain(outbox, () => {
    most = Math.max(most, process.memoryUsage.rss());
  });
  const drainSamplesPerS = (samples / (performance.now() - start)) * 1000;
  await outbox.stop();
  return { messageBytes, startMs, drainSamplesPerS, rssGrowthBytes: most - before };
}

/** How late a 1 ms timer of this thread fires, in 99 of 100, while `work` is begun every ten milliseconds. */
async function stallP99Ms(work: () => Promise<void>): Promise<number> {
  const stalls = monitorEventLoopDelay({ resolution: 1 });
  stalls.enable();
  for (let tick = 0; tick < PACED_TICKS; tick++) await Promise.all([work(), setTimeout(PACED_MS)]);
  stalls.disable();
  // The timer itself is a millisecond.
  return Math.max(0, stalls.percentile(99) / 1e6 - 1);
}

async function measure(sync: "normal" | "full"): Promise<Result> {
  const bareSamplesPerS = bare(sync);
  const outbox = outboxOf(`weir-${sync}`, sync);
  await outbox.start();
  await feed(outbox, 200);
  await drain(outbox);
  const idleLoopP99Ms = await stallP99Ms(() => Promise.resolve());
  const mainLoopP99Ms = await stallP99Ms(() => feed(outbox, PACED_CHUNKS));
  await drain(outbox);
  let start = performance.now();
  await feed(outbox, CHUNKS);
  const appendSeconds = (performance.now() - start) / 1000;
  const { usedBytes } = await outbox.info();
  start = performance.now();
  const drained = await drain(outbox);
  const drainSeconds = (performance.now() - start) / 1000;
  if (drained !== SAMPLES) throw new Error(`${drained} of ${SAMPLES} samples came out`);
  await outbox.stop();
  const appendSamplesPerS = SAMPLES / appendSeconds;
  return {
    sync,
    bareSamplesPerS,
    appendSamplesPerS,
    ratio: appendSamplesPerS / bareSamplesPerS,
    mainLoopP99Ms,
    idleLoopP99Ms,
    drainSamplesPerS: drained / drainSeconds,
    bytesPerSample: usedBytes / SAMPLES,
  };
}

const results = [await measure("normal"), await measure("full")];
const waiting = await backlog();
rmSync(folder, { recursive: true });
if (process.argv.includes("--json")) console.log(JSON.stringify({ results, waiting }));
else {
  const millions = (n: number): string => `${(n / 1e6).toFixed(2)} M/s`;
  console.log("sync    append (samples)  bare insert  ratio  main loop p99 (idle)  lease+ack   disk");
  for (const r of results) {
    console.log(
      [
        r.sync.padEnd(6),
        millions(r.appendSamplesPerS).padStart(17),
        millions(r.bareSamplesPerS).padStart(12),
        r.ratio.toFixed(2).padStart(6),
        `${r.mainLoopP99Ms.toFixed(2)} (${r.idleLoopP99Ms.toFixed(2)}) ms`.padStart(21),
        millions(r.drainSamplesPerS).padStart(10),
        `${r.bytesPerSample.toFixed(2)} B/sample`,
      ].join(" "),
    );
  }
  const mb = (n: number): string => `${(n / 1e6).toFixed(1)} MB`;
  console.log(
    `backlog: a million messages ${mb(waiting.messageBytes)}; with 10 M samples start ${waiting.startMs.toFixed(0)} ms, ` +
      `drain ${millions(waiting.drainSamplesPerS)}, RSS +${mb(waiting.rssGrowthBytes)}`,
  );
}
