import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { transpileBytes } from "@bytecodealliance/jco-transpile";
import { afterAll, describe, expect, it, type TestContext } from "vitest";
import { parse } from "yaml";

const root = join(import.meta.dirname, "../..");
const samples = ["deadband", "scale"];
const work = mkdtempSync(join(tmpdir(), "weir-plugins-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));

interface Columns {
  devices: string[];
  metrics: string[];
  units: string[];
  texts: string[];
  blobs: Uint8Array[];
  device: Uint32Array;
  metric: Uint32Array;
  time: Float64Array;
  kind: Uint8Array;
  status: Uint8Array;
  value: Float64Array;
}

interface Instance {
  lifecycle: { configure(config: string): void };
  transform: { transform(batch: Columns): Columns };
}

type Value = number | string | boolean | null;

/** A line of a test case: one object of the json batch. */
interface Sample {
  device: string;
  ts: number;
  q?: string;
  values: Record<string, Value>;
}

const qualities = ["good", "uncertain", "bad", "stale"];

/** Runs a component of ours in this process: it is trusted here, as the source beside it is. */
async function instantiate(component: string): Promise<Instance> {
  const { files } = await transpileBytes(readFileSync(component), {
    name: "plugin",
    instantiation: "sync",
    wasiShim: false,
    emitTypescriptDeclarations: false,
  });
  const folder = mkdtempSync(join(work, "run-"));
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes);
  const generated = await import(pathToFileURL(join(folder, "plugin.js")).href);
  const { Module } = Reflect.get(globalThis, "WebAssembly");
  const denied = (): never => {
    throw "not-granted";
  };
  return generated.instantiate((name: string) => new Module(readFileSync(join(folder, name))), {
    "weir:plugin/log": { write: () => undefined },
    "weir:plugin/state": { get: denied, set: denied, delete: denied },
    "weir:plugin/effects": { publish: denied, alarm: denied },
  });
}

function indexIn(dictionary: string[], entry: string): number {
  const known = dictionary.indexOf(entry);
  return known >= 0 ? known : dictionary.push(entry) - 1;
}

function toColumns(samples: Sample[]): Columns {
  const [devices, metrics, texts]: [string[], string[], string[]] = [[], [], []];
  const rows = samples.flatMap(({ device, ts, q = "good", values }) =>
    Object.entries(values).map(([metric, value]) => {
      const row = { device: indexIn(devices, device), metric: indexIn(metrics, metric), time: ts * 1000 };
      const status = qualities.indexOf(q);
      if (typeof value === "string") return { ...row, status, kind: 3, value: indexIn(texts, value) };
      if (typeof value === "boolean") return { ...row, status, kind: 2, value: Number(value) };
      return { ...row, status, kind: value === null ? 5 : 0, value: value ?? 0 };
    }),
  );
  return {
    devices,
    metrics,
    units: metrics.map(() => ""),
    texts,
    blobs: [],
    device: Uint32Array.from(rows, (row) => row.device),
    metric: Uint32Array.from(rows, (row) => row.metric),
    time: Float64Array.from(rows, (row) => row.time),
    kind: Uint8Array.from(rows, (row) => row.kind),
    status: Uint8Array.from(rows, (row) => row.status),
    value: Float64Array.from(rows, (row) => row.value),
  };
}

/** Rows that share device, time and status share an object; a repeated metric starts a new one. */
function toSamples(frame: Columns): Sample[] {
  const samples: Sample[] = [];
  let last: Sample | undefined;
  frame.value.forEach((value, i) => {
    const device = frame.devices[frame.device[i] ?? -1] ?? "?";
    const metric = frame.metrics[frame.metric[i] ?? -1] ?? "?";
    const ts = (frame.time[i] ?? 0) / 1000;
    const q = qualities[(frame.status[i] ?? 0) & 3] ?? "?";
    if (last?.device !== device || last.ts !== ts || (last.q ?? "good") !== q || metric in last.values) {
      last = q === "good" ? { device, ts, values: {} } : { device, ts, q, values: {} };
      samples.push(last);
    }
    const kinds: Value[] = [value, value, value !== 0, frame.texts[value] ?? "?", "?", null];
    last.values[metric] = kinds[frame.kind[i] ?? 4] ?? null;
  });
  return samples;
}

function lines(path: string): Sample[] {
  const text = readFileSync(path, "utf8").trim();
  return text.split("\n").map((line) => JSON.parse(line));
}

async function runCases(name: string, component: string): Promise<void> {
  const cases = join(root, "plugins", name, "testcases");
  for (const folder of readdirSync(cases)) {
    const instance = await instantiate(component);
    const config: unknown = parse(readFileSync(join(cases, folder, "config.yaml"), "utf8"));
    instance.lifecycle.configure(JSON.stringify(config));
    const result = instance.transform.transform(toColumns(lines(join(cases, folder, "input.ndjson"))));
    expect(toSamples(result), `${name}/${folder}`).toEqual(lines(join(cases, folder, "expected.ndjson")));
  }
}

/** Runs a build script; skips the test, naming the tool, where one is missing. */
function build(context: TestContext, script: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, script), ...args], {
    encoding: "utf8",
  });
  if (status === 3) context.skip(stderr.trim());
  expect(status, stdout + stderr).toBe(0);
  return stdout;
}

describe.each(samples)("%s", (name) => {
  it("does what its test cases say, as committed", async () => {
    await runCases(name, join(root, "plugins", name, `${name}.wasm`));
  });

  it("is committed as its source makes it", (context) => {
    expect(build(context, "scripts/build-plugins.mjs", "--check", name)).toBe(`${name}: current\n`);
  });

  it("does what its test cases say when rebuilt", async (context) => {
    build(context, "scripts/build-plugins.mjs", "--out", work, name);
    await runCases(name, join(work, `${name}.wasm`));
  });

  it("takes the configuration of its own manifest", async () => {
    const manifest: { config: unknown } = parse(
      readFileSync(join(root, "plugins", name, "plugin.yaml"), "utf8"),
    );
    const instance = await instantiate(join(root, "plugins", name, `${name}.wasm`));
    expect(() => instance.lifecycle.configure(JSON.stringify(manifest.config))).not.toThrow();
  });
});

it.for(["c", "js"])(
  "the first plugin of docs/plugins.md in %s is built and does what it says",
  async (language, context) => {
    const page = readFileSync(join(root, "docs/plugins.md"), "utf8");
    const [, source = ""] = new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, "ms").exec(page) ?? [];
    const file = join(work, `tenth.${language}`);
    writeFileSync(file, source);
    build(context, "scripts/build-plugins.mjs", file);
    const { lifecycle, transform } = await instantiate(join(work, "tenth.wasm"));
    lifecycle.configure("{}");
    const sample = { device: "demo-1", ts: 1763640000000, values: { temp: 712, on: true } };
    expect(toSamples(transform.transform(toColumns([sample])))).toEqual([
      { ...sample, values: { temp: 71.2, on: true } },
    ]);
  },
);

it("deadband refuses a configuration that it doesn't understand, and says what it expected", async () => {
  const { lifecycle } = await instantiate(join(root, "plugins/deadband/deadband.wasm"));
  const problem = (config: string): unknown => {
    try {
      return lifecycle.configure(config);
    } catch (error) {
      return error;
    }
  };
  expect(problem('{"band":-1}')).toContain("band");
  expect(problem('{"maxAge":"5"}')).toContain("maxAge");
  expect(problem('{"metrics":{"a*b*":1}}')).toContain("metrics");
  expect(problem('{"bnad":1}')).toContain("known keys");
  expect(problem('{"band":1')).toContain("not JSON");
  expect(problem('{"band":1e-3,"maxAge":"1.5h","metrics":{"a*":"2.5%"}}')).toBeUndefined();
});

it("deadband forgets series rather than hold back a row when there are more than it has room for", async () => {
  const { lifecycle, transform } = await instantiate(join(root, "plugins/deadband/deadband.wasm"));
  lifecycle.configure('{"band":1e9,"maxAge":"365d"}');
  const batch = (round: number): Sample[] =>
    Array.from({ length: 1000 }, (_, i) => ({ device: `d${round}-${i}`, ts: 1, values: { v: 1 } }));
  for (let round = 0; round < 40; round++) {
    expect(transform.transform(toColumns(batch(round))).value.length, `round ${round}`).toBe(1000);
  }
  expect(transform.transform(toColumns(batch(39))).value.length).toBe(0);
});

it("scale gives the renamed metric its unit, and keeps the dictionary free of duplicates", async () => {
  const { lifecycle, transform } = await instantiate(join(root, "plugins/scale/scale.wasm"));
  lifecycle.configure('{"rules":[{"metric":"*_c","factor":1.8,"offset":32,"rename":"*_f","unit":"[degF]"}]}');
  const result = transform.transform(
    toColumns([
      { device: "demo-1", ts: 1, values: { temp_f: 50, temp_c: 10, [`${"é".repeat(127)}_c`]: 0, rpm: 1 } },
    ]),
  );
  expect(result.metrics).toEqual(["temp_f", `${"é".repeat(127)}_f`, "rpm"]);
  expect(result.units).toEqual(["[degF]", "[degF]", ""]);
  expect([...result.metric]).toEqual([0, 0, 1, 2]);
  expect([...result.value]).toEqual([50, 50, 32, 1]);
});

it("the fixtures are committed as their sources make them", (context) => {
  const out = join(work, "fixtures");
  build(context, "test/fixtures/build-fixtures.mjs", "--out", out);
  for (const folder of ["plugins", "hostile"]) {
    for (const file of readdirSync(join(out, folder))) {
      const committed = join(root, "test/fixtures", folder, file);
      const same =
        existsSync(committed) && readFileSync(committed).equals(readFileSync(join(out, folder, file)));
      expect(same, `${folder}/${file}`).toBe(true);
    }
  }
});
