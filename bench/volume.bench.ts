/**
 * What stream `host` comes to in a day at the default interval: `node bench/volume.bench.ts`, for `VOLUME_SECONDS` (120). The
 * sources run on this machine as it is, their frames are made batches of a second and encoded as an uplink does; beside each
 * other, JSON and blocks, plain and compressed.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { crc32c } from "../src/addon/index.ts";
import type { Frame } from "../src/core/frame.ts";
import { Ledger } from "../src/core/ledger.ts";
import type { Intake } from "../src/core/ports.ts";
import { KernelSource } from "../src/sources/kernel.ts";
import { SystemSource } from "../src/sources/system.ts";
import { encodeBatch, type WireFormat } from "../src/uplink/wire.ts";

const INTERVAL_MS = 10_000;
const BATCH_MS = 1000;
/** Of a batch, by default. */
const SAMPLES = 1000;
const FORMATS: readonly WireFormat[] = [
  { encoding: "json", compression: "none" },
  { encoding: "json", compression: "zstd" },
  { encoding: "block", compression: "none" },
  { encoding: "block", compression: "zstd" },
];
const seconds = Number(process.env["VOLUME_SECONDS"] ?? 120);
if (!(seconds >= 20)) throw new Error("VOLUME_SECONDS: 20 or more");

/** Frames of one part of the stream, encoded batch by batch. */
class Part {
  readonly bytes = FORMATS.map(() => 0);
  rows = 0;
  batches = 0;
  #frames: Frame[] = [];

  add(frame: Frame): void {
    this.rows += frame.rows;
    this.#frames.push(frame);
    if (this.#frames.reduce((sum, { rows }) => sum + rows, 0) >= SAMPLES) this.seal();
  }

  seal(): void {
    if (this.#frames.length === 0) return;
    this.batches += 1;
    const span = this.#frames.reduce((sum, { rows }) => sum + rows, 0);
    const key = { epoch: "5f1c9a2e", stream: "host", seq: this.rows - span, span } as const;
    for (const [i, format] of FORMATS.entries())
      this.bytes[i] =
        (this.bytes[i] ?? 0) +
        (encodeBatch("hall3-9f2c", key, this.#frames, format, crc32c)?.byteLength ?? 0);
    this.#frames = [];
  }
}

const parts = {
  "probes, counts": new Part(),
  "probes, process events": new Part(),
  "source system": new Part(),
  "all together": new Part(),
};
const intake: Intake = {
  message() {},
  frame(source, frame) {
    const events = frame.metrics.includes("event.name");
    if (source === "system") parts["source system"].add(frame);
    else parts[events ? "probes, process events" : "probes, counts"].add(frame);
    parts["all together"].add(frame);
    return true;
  },
};
const kernel = new KernelSource({ intervalMs: INTERVAL_MS, ledger: new Ledger() });
const system = new SystemSource({ intervalMs: INTERVAL_MS }, () => {});
const { signal } = new AbortController();
await kernel.start(intake, signal);
await system.start(intake, signal);
const off = kernel
  .probes()
  .flatMap(({ name, state, onDemand }) => (state === "on" || onDemand ? [] : [name]));
console.log(`${seconds} s, an interval of ${INTERVAL_MS / 1000} s; probes off: ${off.join(" ") || "none"}`);
const end = performance.now() + seconds * 1000;
while (performance.now() < end) {
  await sleep(BATCH_MS);
  for (const part of Object.values(parts)) part.seal();
}
await kernel.stop();
await system.stop();
for (const part of Object.values(parts)) part.seal();

const heads = FORMATS.map(({ encoding, compression }) =>
  `${encoding}${compression === "none" ? "" : ` + ${compression}`}`.padStart(12),
);
console.log(`${"MB a day".padEnd(24)} rows/interval${heads.join("")}`);
for (const [name, { rows, bytes }] of Object.entries(parts)) {
  const cells = bytes.map((sum) => ((sum / seconds) * 86_400 * 1e-6).toFixed(1).padStart(12));
  const perInterval = ((rows / seconds) * INTERVAL_MS) / 1000;
  console.log(`${name.padEnd(24)} ${perInterval.toFixed(0).padStart(13)}${cells.join("")}`);
}
