/**
 * Hashes, in nanoseconds a hash and by size, and what loading the addon takes: `node bench/hash.bench.ts`. Beside them a copy of
 * the same bytes, the npm packages, and node:crypto in the same run. Best of several rounds: the machine is shared.
 */
import { spawnSync } from "node:child_process";
import { hash as cryptoHash } from "node:crypto";
import { createRequire } from "node:module";
import { join } from "node:path";
import xxhashWasm from "xxhash-wasm";
import { type HashName, openHash } from "../src/addon/hash.ts";
import { addonState } from "../src/addon/index.ts";

const SIZES = [16, 64, 256, 4096, 65_536, 1_048_576];
const ROUNDS = 7;
const ROUND_NS = 20e6;

/** Nanoseconds of one call, the best of {@link ROUNDS}. */
function nsOf(call: () => unknown): number {
  const time = (count: number): number => {
    const start = process.hrtime.bigint();
    for (let i = 0; i < count; i++) call();
    return Number(process.hrtime.bigint() - start) / count;
  };
  time(2_000);
  const count = Math.max(5, Math.ceil(ROUND_NS / time(200)));
  return Math.min(...Array.from({ length: ROUNDS }, () => time(count)));
}

const row = (name: string, cells: readonly number[]): void =>
  console.log(name.padEnd(34) + cells.map((ns) => ns.toFixed(ns < 100 ? 1 : 0).padStart(11)).join(""));

const memory = Buffer.from(Uint8Array.from({ length: 1_048_576 }, (_, i) => (i * 2_654_435_761) >>> 24));
const target = Buffer.alloc(memory.length);
const wasm = await xxhashWasm();
const { XXHash3 } = createRequire(import.meta.url)("xxhash-addon");

const open = (name: HashName) => {
  const hash = openHash(name);
  if (hash === undefined) throw new Error("no addon: npm run install");
  return hash;
};

/** As many slices in a call as make 16 KiB, and 8 at least: what a dictionary is like. */
function slicesOf(name: HashName, size: number): number {
  const hash = open(name);
  const count = Math.max(1, Math.min(Math.floor(memory.length / size), Math.max(8, 16_384 / size)));
  const starts = Uint32Array.from({ length: count + 1 }, (_, i) => i * size);
  const into = new BigUint64Array(2 * count);
  return nsOf(() => hash.slices(memory, starts, into)) / count;
}

console.log(
  `${"ns a hash of so many bytes".padEnd(34)}${SIZES.map((size) => String(size).padStart(11)).join("")}`,
);
const each = (name: string, make: (bytes: Buffer) => () => unknown): void =>
  row(
    name,
    SIZES.map((size) => nsOf(make(memory.subarray(0, size)))),
  );
each("(a copy: Buffer.copy)", (bytes) => () => bytes.copy(target));
for (const name of ["xxh3", "xxh128", "siphash13", "crc32c"] as const) {
  row(
    `${name}, many slices a call`,
    SIZES.map((size) => slicesOf(name, size)),
  );
  const hash = open(name);
  each(`${name}, one call each`, (bytes) => () => hash.of(bytes));
}
each("xxhash-wasm, XXH64", (bytes) => () => wasm.h64Raw(bytes));
each("xxhash-addon, XXH3", (bytes) => () => XXHash3.hash(bytes));
for (const name of ["md5", "sha256"]) each(`node:crypto, ${name}`, (bytes) => () => cryptoHash(name, bytes));

// Each in a process of its own, as at a start.
const state = addonState();
if (!state.ok) throw new Error(state.reason);
const source = join(import.meta.dirname, "../src/addon/index.ts");
const script = `
  const { createRequire } = await import("node:module");
  const start = performance.now();
  createRequire(${JSON.stringify(state.path)})(${JSON.stringify(state.path)});
  const loaded = performance.now();
  const { openProbe, PROBES } = await import(${JSON.stringify(source)});
  const ready = performance.now();
  const cpu = process.threadCpuUsage();
  const on = PROBES.filter((name) => openProbe(name).on).length;
  const attach = performance.now() - ready;
  const { user, system } = process.threadCpuUsage(cpu);
  console.log(JSON.stringify({ load: loaded - start, attach, cpu: (user + system) / 1000, on }));`;
const runs = Array.from({ length: ROUNDS }, () => {
  const { stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
  const run: { load: number; attach: number; cpu: number; on: number } = JSON.parse(stdout);
  return run;
});
const median = (values: readonly number[]): string =>
  ([...values].sort((a, b) => a - b)[ROUNDS >> 1] ?? 0).toFixed(1);
console.log(`\naddon: loads in ${median(runs.map(({ load }) => load))} ms (median of ${ROUNDS} processes)`);
console.log(
  `its ${runs[0]?.on} probes that this machine has attach in ${median(runs.map(({ attach }) => attach))} ms, ${median(runs.map(({ cpu }) => cpu))} ms of CPU`,
);
