/**
 * Samples a second from the agent's thread into a jailed component and back, through the whole chain (binding, pipe,
 * worker, component, checks), 8 calls in flight. Beside it, in turns of the same run:
 *
 *     component   the same component called in this thread: lifting and lowering, no pipe, no jail
 *     core        the core module's own function on a frame that already lies in its memory
 *
 * Then the same plugin in 1, 2, 4 … lanes, up to the number of cores.
 *
 *     node bench/plugin.bench.ts [seconds a turn, default 1]
 *
 * Aims: C >= 15 M samples/s at 1,024 rows of 20 devices, >= 4 M of 1,000; JavaScript >= 2 M.
 */

import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { chmod } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import type { Frame } from "../src/core/frame.ts";
import { FrameBuilder } from "../src/core/frame-builder.ts";
import { Chain } from "../src/plugins/chain.ts";
import { HostPool } from "../src/plugins/host.ts";
import { DEFAULT_LIMITS } from "../src/plugins/limits.ts";
import { Runner, type RunnerSpec } from "../src/plugins/runner.ts";
import { type Vetted, vet } from "../src/plugins/vet.ts";
import { WASI } from "../src/plugins/wasi-stubs.ts";

const turnMs = Number(process.argv[2] ?? 1) * 1000;
const rounds = 3;
const inFlight = 8;
const root = join(import.meta.dirname, "..");
const cacheDir = mkdtempSync(join(tmpdir(), "weir-bench-"));
await chmod(cacheDir, 0o755);

function frameOf(rows: number, devices: number): Frame {
  const builder = new FrameBuilder(rows);
  const metrics = 10;
  for (let row = 0; row < rows; row++) {
    const device = builder.device(`press-${Math.floor(row / (devices > 100 ? 1 : metrics)) % devices}`);
    const metric = builder.metric(`metric_${row % metrics}`, "Cel");
    builder.add(device, metric, 1_763_640_000_000_000 + row * 1000, 0, 0, 20 + (row % 97) / 10);
  }
  return builder.build();
}

type CoreFunction = (...given: number[]) => number;
interface Loaded {
  readonly transform: (frame: Frame) => { value: Float64Array };
  /** the core function and what it was last called with; undefined where the component is several modules */
  readonly core: () => (() => number) | undefined;
}

/** The component in this thread. Only here: the agent never does this. */
async function loadHere(vetted: Vetted, config: string): Promise<Loaded> {
  const generated = await import(join(vetted.dir, "component.js"));
  const imports = {
    ...WASI,
    "weir:plugin/types": {},
    "weir:plugin/log": { write: () => {} },
    "weir:plugin/state": { get: () => undefined, set: () => {}, delete: () => {} },
    "weir:plugin/effects": { publish: () => {}, alarm: () => {} },
  };
  let last: (() => number) | undefined;
  const made = generated.instantiate(
    (name: string) => new WebAssembly.Module(readFileSync(join(vetted.dir, name))),
    imports,
    (module: WebAssembly.Module, given: object) => {
      const instance = new WebAssembly.Instance(module, given);
      const name = "weir:plugin/transform@0.1.0#transform";
      const call = instance.exports[name];
      if (call === undefined) return instance;
      const seen: CoreFunction = (...given) => {
        last = () => call(...given);
        return call(...given);
      };
      return { exports: { ...instance.exports, [name]: seen } };
    },
  );
  made.lifecycle.configure(config);
  return { transform: made.transform.transform, core: () => last };
}

interface Way {
  readonly name: string;
  readonly run: (untilMs: number) => Promise<number> | number;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Calls a second of each way, in turns so that a busy machine slows all of them. */
async function measure(ways: readonly Way[]): Promise<Map<string, number>> {
  const rates = new Map<string, number[]>(ways.map(({ name }) => [name, []]));
  for (const { run } of ways) await run(performance.now() + turnMs / 3);
  for (let round = 0; round < rounds; round++) {
    for (const { name, run } of ways) {
      const start = performance.now();
      const calls = await run(start + turnMs);
      rates.get(name)?.push((calls * 1000) / (performance.now() - start));
    }
  }
  return new Map([...rates].map(([name, all]) => [name, median(all)]));
}

async function through(chain: Chain, frame: Frame, untilMs: number): Promise<number> {
  let calls = 0;
  const input = { source: "devices", frame, messages: new Map(), without: new Set<string>() };
  const work = async (): Promise<void> => {
    while (performance.now() < untilMs) {
      const result = await chain.process(input);
      if (!result.ok) throw new Error(result.failures[0].reason);
      calls += 1;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, work));
  return calls;
}

function here(call: () => unknown, untilMs: number): number {
  let calls = 0;
  for (; performance.now() < untilMs; calls++) call();
  return calls;
}

const subjects = [
  { language: "C", file: "test/fixtures/plugins/passthrough.wasm", config: "{}" },
  {
    language: "JavaScript",
    file: "plugins/scale/scale.wasm",
    config: JSON.stringify({ rules: [{ metric: "metric_1", factor: 1.8, offset: 32, decimals: 2 }] }),
  },
];
const pool = new HostPool({ cacheDir, slots: 64, memoryMiB: 8192, onOutput: console.error });

function specOf(vetted: Vetted, config: string, lanes: number): RunnerSpec {
  return {
    name: "subject",
    version: "0",
    hash: "",
    id: "",
    order: 0,
    lanes,
    perDevice: lanes > 1,
    config,
    vetted,
    startMs: 5_000,
    exports: vetted.exports,
    limits: { ...DEFAULT_LIMITS, timeMs: 5_000 },
    grants: { state: false, alarm: false, publish: [] },
    binding: { sources: ["devices"], devices: ["*"], metrics: ["*"] },
    onFailure: "bypass",
    scheduleMs: 60_000,
    onLog: () => {},
  };
}

async function startRunner(spec: RunnerSpec): Promise<Runner> {
  const runner = new Runner(spec, {
    lease: () => pool.lease(),
    loadState: async () => [],
    exclusively: (action) => action(),
    onChange: () => {},
  });
  await runner.start();
  if (runner.state !== "on") throw new Error(runner.lastError ?? "did not start");
  return runner;
}

/** One plugin in more and more lanes: 4,096 rows of 1,000 devices. */
async function measureLanes(language: string, vetted: Vetted, config: string): Promise<void> {
  const cores = availableParallelism();
  const counts = [1, 2, 4, 8, 16].filter((count) => count <= cores);
  const frame = frameOf(4096, 1000);
  const rows: Record<string, string | number>[] = [];
  for (const lanes of counts) {
    const runner = await startRunner(specOf(vetted, config, lanes));
    const chain = new Chain([runner]);
    const way = { name: "jailed", run: (untilMs: number) => through(chain, frame, untilMs) };
    const calls = (await measure([way])).get("jailed") ?? 0;
    rows.push({ language, lanes, "M samples/s": Number(((calls * frame.rows) / 1e6).toFixed(2)) });
    await runner.stop();
  }
  lanesTable.push(...rows);
}
const table: Record<string, string | number>[] = [];
const lanesTable: Record<string, string | number>[] = [];
try {
  for (const { language, file, config } of subjects) {
    const bytes = readFileSync(join(root, file));
    const coldMs = performance.now();
    const vetted = await vet(createHash("sha256").update(bytes).digest("hex"), async () => bytes, {
      cacheDir,
      memoryMiB: 64,
    });
    const vetMs = performance.now() - coldMs;
    const startMs = performance.now();
    const runner = await startRunner(specOf(vetted, config, 1));
    const started = performance.now() - startMs;
    console.log(`${language}: vetted in ${vetMs.toFixed(0)} ms, first instance in ${started.toFixed(0)} ms`);
    const chain = new Chain([runner]);
    const loaded = await loadHere(vetted, config);
    for (const [rows, devices] of [
      [64, 20],
      [1024, 20],
      [1024, 1000],
      [4096, 20],
    ] as const) {
      const frame = frameOf(rows, devices);
      loaded.transform(frame);
      const core = language === "C" ? loaded.core() : undefined;
      const rates = await measure([
        { name: "jailed", run: (untilMs) => through(chain, frame, untilMs) },
        { name: "component", run: (untilMs) => here(() => loaded.transform(frame), untilMs) },
        ...(core === undefined ? [] : [{ name: "core", run: (untilMs: number) => here(core, untilMs) }]),
      ]);
      const millions = (name: string): number => ((rates.get(name) ?? 0) * rows) / 1e6;
      const jailed = millions("jailed");
      const component = millions("component");
      table.push({
        language,
        rows,
        devices,
        "jailed M/s": Number(jailed.toFixed(2)),
        "µs a call": Number(((rows / jailed) * 1).toFixed(1)),
        "component M/s": Number(component.toFixed(2)),
        "component : jailed": Number((component / jailed).toFixed(2)),
        "core M/s": core === undefined ? "-" : Number(millions("core").toFixed(0)),
      });
    }
    await runner.stop();
    await measureLanes(language, vetted, config);
  }
  console.table(table);
  console.table(lanesTable);
} finally {
  await pool.stop();
  rmSync(cacheDir, { recursive: true, force: true });
}
