/**
 * Events from a BPF ring to JavaScript: our drain through N-API against a reader in C++ on the same ring, in turns.
 *
 *     node bench/ring.bench.ts [events per second, default 2600000] [seconds a turn, default 2]
 *
 * A BPF program (native/bpf/flood.bpf.c, not part of the addon) produces from a thread of its own. CPU is the reading
 * thread's. The ring is the largest that the agent makes; a reader that gets no CPU for longer than it holds loses events, which
 * are counted. Then what watching each file that a program opens costs it, beside bpftrace, which can't read another's ring.
 * Needs root, and g++ to build the addon with the producer inside.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RECORD_BYTES } from "../src/addon/index.ts";
import { loadNative, type Native } from "../src/addon/native.ts";
import { MOST_PROCESS_EVENTS } from "../src/addon/process-rows.ts";
import { LARGEST_RING_BYTES } from "../src/sources/kernel-events.ts";
import { ProcessEvents } from "../src/sources/kernel-process.ts";
import { compareOpens } from "./tools/opens.ts";

const root = join(import.meta.dirname, "..");
const ratePerSecond = Number(process.argv[2] ?? 2_600_000);
const turnMs = Number(process.argv[3] ?? 2) * 1000;
const ringBytes = LARGEST_RING_BYTES;
const holdsMs = (ringBytes / RECORD_BYTES / ratePerSecond) * 1000;
const intervalMs = 5;
const rounds = 3;

/** What the addon exports when it is built with WEIR_BENCH. */
interface Bench extends Native {
  startFlood(name: string, perSecond: number): void;
  stopFlood(): void;
  drainInC(
    name: string,
    milliseconds: number,
    intervalUs: number,
  ): { records: number; longestNs: number; cpuNs: number };
}

const isBench = (native: Native): native is Bench => typeof Reflect.get(native, "startFlood") === "function";

const folder = join(root, "build", "bench");

function build(): Bench {
  mkdirSync(folder, { recursive: true });
  const out = join(folder, "weir-bench.node");
  const require = createRequire(import.meta.url);
  const api = join(require.resolve("node-addon-api"), "..");
  const xxHash = join(require.resolve("xxhash-addon/package.json"), "..", "xxHash");
  const headers = join(process.execPath, "..", "..", "include", "node");
  const include = [`-I${api}`, `-I${headers}`, `-I${xxHash}`, "-Inative/bpf/include"];
  const common = ["-O2", "-fPIC", "-DWEIR_BENCH", "-DNAPI_VERSION=8", "-DNAPI_DISABLE_CPP_EXCEPTIONS"];
  const run = (command: string, args: string[]) =>
    execFileSync(command, args, { cwd: root, stdio: "inherit" });
  const inFolders = ["binding", "bpf", "hash", "net", "perf", "ring", "service"].flatMap((name) =>
    readdirSync(join(root, "native", name)).map((file) => `native/${name}/${file}`),
  );
  const all = ["native/addon.cc", ...inFolders.filter((file) => !file.endsWith(".bpf.c"))];
  const objects = all
    .filter((file) => file.endsWith(".c"))
    .map((file) => {
      const object = join(folder, `${basename(file)}.o`);
      run("gcc", [...common, "-std=gnu11", ...include, "-c", file, "-o", object]);
      return object;
    });
  const sources = all.filter((file) => file.endsWith(".cc"));
  run("g++", [...common, "-std=gnu++20", "-shared", ...include, ...sources, ...objects, "-o", out]);
  const loaded = loadNative(out);
  if (!loaded.ok) throw new Error(loaded.reason);
  if (!isBench(loaded.native)) throw new Error("the addon was built without WEIR_BENCH");
  return loaded.native;
}

interface Turn {
  readonly events: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** from one drain to the next */
  readonly longestMs: number;
}

const native = build();
const failure = native.loadProbe("flood", ringBytes);
if (failure !== null) throw new Error(`could not ${failure.step}: errno ${failure.errno} ${failure.log}`);
const into = new Uint8Array(ringBytes);
const events = new ProcessEvents();
const counters = new BigUint64Array(8);

/** Everything that is in the ring. */
const drainAll = (): number => native.drain("flood", into);

/** The same, as frames of rows, whose memory is freed at once: what the agent does with processes that start and end. */
function drainIntoFrames(): number {
  let records = 0;
  for (let found = MOST_PROCESS_EVENTS; found === MOST_PROCESS_EVENTS; records += found) {
    found = native.drain("flood", events.records);
    if (found > 0) events.frame(found, 0).buffer.transfer(0);
  }
  return records;
}

/** Drains every few milliseconds. */
async function ours(drain: () => number): Promise<Turn> {
  const started = performance.now();
  const cpu = process.threadCpuUsage();
  let [drained, longestMs, last] = [0, 0, started];
  for (let now = started; now - started < turnMs; now = performance.now()) {
    longestMs = Math.max(longestMs, now - last);
    last = now;
    drained += drain();
    await sleep(intervalMs);
  }
  const used = process.threadCpuUsage(cpu);
  return {
    events: drained,
    longestMs,
    seconds: (performance.now() - started) / 1000,
    cpuSeconds: (used.user + used.system) / 1e6,
  };
}

function inC(): Promise<Turn> {
  const started = performance.now();
  const { records, longestNs, cpuNs } = native.drainInC("flood", turnMs, intervalMs * 1000);
  return Promise.resolve({
    events: records,
    longestMs: longestNs / 1e6,
    seconds: (performance.now() - started) / 1000,
    cpuSeconds: cpuNs / 1e9,
  });
}

const ways: readonly { readonly name: string; readonly run: () => Promise<Turn> }[] = [
  { name: "C++ reader, in place", run: inC },
  { name: "drain(buf) through N-API", run: () => ours(drainAll) },
  { name: "the same, as frames", run: () => ours(drainIntoFrames) },
];

/** Runs one way under the flood, then empties the ring; counts what was lost and checks the account. */
async function turn(run: () => Promise<Turn>): Promise<Turn & { readonly lost: number }> {
  native.readCounters("flood", counters);
  const [producedBefore = 0n, lostBefore = 0n] = counters;
  native.startFlood("flood", ratePerSecond);
  const result = await run();
  native.stopFlood();
  let drained = result.events;
  for (let count = drainAll(); count > 0; count = drainAll()) drained += count;
  native.readCounters("flood", counters);
  const produced = Number((counters[0] ?? 0n) - producedBefore);
  const lost = Number((counters[1] ?? 0n) - lostBefore);
  if (produced !== drained + lost) throw new Error(`${produced} produced, ${drained} drained, ${lost} lost`);
  return { ...result, lost };
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1] ?? 0;
const results = new Map(ways.map(({ name }) => [name, [] as (Turn & { lost: number })[]]));
for (const { run } of ways) await turn(run); // warm up
for (let round = 0; round < rounds; round++) {
  for (const { name, run } of ways) results.get(name)?.push(await turn(run));
}

console.log(
  `ring: ${ratePerSecond} events/s asked for, ${ringBytes >> 20} MiB (${holdsMs.toFixed(0)} ms), every ${intervalMs} ms, median of ${rounds}`,
);
const perEvent = (turns: readonly Turn[]): number =>
  median(turns.map((t) => (t.cpuSeconds / t.events) * 1e9));
const base = perEvent(results.get("C++ reader, in place") ?? []);
console.table(
  Object.fromEntries(
    [...results].map(([name, turns]) => [
      name,
      {
        "M events/s": (median(turns.map((t) => t.events / t.seconds)) / 1e6).toFixed(2),
        "CPU %": (median(turns.map((t) => t.cpuSeconds / t.seconds)) * 100).toFixed(1),
        "ns/event": perEvent(turns).toFixed(1),
        "C++ = 1": (perEvent(turns) / base).toFixed(1),
        lost: turns.reduce((sum, t) => sum + t.lost, 0),
        "longest wait ms": Math.max(...turns.map((t) => t.longestMs)).toFixed(1),
      },
    ]),
  ),
);
native.closeProbe("flood");

const opens = await compareOpens(folder, turnMs / 2, ringBytes);
const untraced = opens.get("untraced")?.perSecond ?? 0;
console.log("opens: a program that opens a file again and again");
console.table(
  Object.fromEntries(
    [...opens].map(([name, { perSecond, seen }]) => [
      name,
      {
        "k opens/s": (perSecond / 1000).toFixed(0),
        "times slower": (untraced / perSecond).toFixed(1),
        seen: seen === undefined ? "" : `${(seen * 100).toFixed(1)} %`,
      },
    ]),
  ),
);
