/** What a plugin's author uses without an agent: vetting a file, and running golden cases. Real jail, real host. */
import { createHash } from "node:crypto";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parse } from "yaml";
import { messageOf, WeirError } from "./core/errors.ts";
import { type Frame, Kind, Status } from "./core/frame.ts";
import { FrameBuilder } from "./core/frame-builder.ts";
import { COMPONENT_BYTES } from "./plugins/component-file.ts";
import { pluginFiles } from "./plugins/files.ts";
import { DEFAULT_LIMITS } from "./plugins/limits.ts";
import { PluginManager } from "./plugins/manager.ts";
import { parseManifest } from "./plugins/manifest.ts";
import { pluginsSchema } from "./plugins/options.ts";
import { Versions } from "./plugins/versions.ts";
import { vet } from "./plugins/vet.ts";
import { encodeJson } from "./uplink/encode-json.ts";

/** What vetting says of a file. */
export interface FileVerdict {
  readonly file: string;
  readonly bytes: number;
  /** SHA-256 */
  readonly hash: string;
  readonly verdict: "good" | "refused";
  readonly reason: string | undefined;
  /** interfaces that it exports, with their versions */
  readonly exports: readonly string[];
  /** wasm memories of one instance */
  readonly memories: number;
}

/** Vets a component as the agent would, in the jail. Nothing of it is run. */
export async function inspectFile(file: string): Promise<FileVerdict> {
  const component = new Uint8Array(readFileSync(file));
  if (component.byteLength > COMPONENT_BYTES) {
    throw new WeirError(
      "plugin.refused",
      `${file}: ${component.byteLength} bytes, the limit is ${COMPONENT_BYTES}`,
    );
  }
  const hash = createHash("sha256").update(component).digest("hex");
  const common = { file, bytes: component.byteLength, hash };
  return await inFolder(async (folder) => {
    try {
      const { exports, memories } = await vet(hash, async () => component, {
        cacheDir: folder,
        memoryMiB: DEFAULT_LIMITS.memoryMiB,
      });
      return {
        ...common,
        verdict: "good",
        reason: undefined,
        exports: Object.values(exports).flatMap((one) => one ?? []),
        memories,
      };
    } catch (thrown) {
      return { ...common, verdict: "refused", reason: messageOf(thrown), exports: [], memories: 0 };
    }
  });
}

/** What became of one golden case. */
export interface CaseResult {
  readonly name: string;
  readonly passed: boolean;
  /** lines that were expected and didn't come, and lines that came and weren't expected, in order; or what went wrong */
  readonly differences: readonly string[];
}

/**
 * Runs `<dir>/testcases/<case>/{config.yaml,input.ndjson,expected.ndjson}`: the input's sample objects go through a fresh
 * instance in one call. Only what a plugin makes of samples can be tested so, not what a decoder makes of messages.
 * @throws WeirError `plugin.refused` when the folder is no plugin, or has no cases
 */
export async function runCases(dir: string): Promise<CaseResult[]> {
  const manifestFile = join(dir, "plugin.yaml");
  if (!existsSync(manifestFile))
    throw new WeirError("plugin.refused", `${dir}: no plugin's folder: it has no plugin.yaml`);
  const manifest = parseManifest(readText(manifestFile));
  const cases = join(dir, "testcases");
  const names = existsSync(cases) ? readdirSync(cases).sort() : [];
  if (names.length === 0) throw new WeirError("plugin.refused", `${dir}: no testcases/<case>/ folder`);
  return await inFolder(async (folder) => {
    const plugin = join(folder, "plugins", manifest.name);
    mkdirSync(plugin, { recursive: true });
    for (const file of ["plugin.yaml", manifest.component]) cpSync(join(dir, file), join(plugin, file));
    const results: CaseResult[] = [];
    for (const name of names) {
      try {
        const differences = await runCase(folder, manifest.name, join(cases, name));
        results.push({ name, passed: differences.length === 0, differences });
      } catch (thrown) {
        results.push({ name, passed: false, differences: [messageOf(thrown)] });
      }
    }
    return results;
  });
}

async function runCase(folder: string, plugin: string, dir: string): Promise<string[]> {
  const configFile = join(dir, "config.yaml");
  const config: unknown = existsSync(configFile) ? parse(readText(configFile)) : {};
  const options = pluginsSchema.parse({
    dir: join(folder, "plugins"),
    lanes: 1,
    [plugin]: { bind: { devices: ["*"] }, config: config ?? {} },
  });
  const decisions = new Map<string, string>();
  const manager = new PluginManager({
    options,
    cacheDir: join(folder, "cache"),
    files: pluginFiles,
    versions: new Versions(join(folder, "store"), pluginFiles, {
      load: async (key) => decisions.get(key),
      save: async (key, value) => void decisions.set(key, value),
    }),
    exclusively: (action) => action(),
    loadState: async () => [],
    onLog: () => {},
  });
  try {
    await manager.start(new AbortController().signal);
    const info = manager.list().find(({ name }) => name === plugin);
    if (info?.state !== "on") throw new WeirError("plugin.refused", `${info?.state}: ${info?.reason}`);
    const frame = readSamples(readText(join(dir, "input.ndjson")));
    const input = { source: "devices", frame, messages: new Map(), without: new Set<string>() };
    const result = await manager.chain.process(input);
    if (!result.ok) return result.failures.map(({ reason }) => `the call failed: ${reason}`);
    const expected = lines(readText(join(dir, "expected.ndjson"))).map((line) =>
      JSON.stringify(JSON.parse(line)),
    );
    return difference(expected, samplesOf(result.output.frame));
  } finally {
    await manager.stop();
  }
}

/** Lines only expected (`-`) and lines only there (`+`), along a longest common run. */
function difference(expected: readonly string[], actual: readonly string[]): string[] {
  const [n, m] = [expected.length, actual.length];
  const longest = Array.from({ length: n + 1 }, () => new Uint32Array(m + 1));
  const at = (i: number, j: number): number => longest[i]?.[j] ?? 0;
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      const row = longest[i];
      if (row !== undefined)
        row[j] = expected[i] === actual[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const out: string[] = [];
  for (let i = 0, j = 0; i < n || j < m; ) {
    if (i < n && j < m && expected[i] === actual[j]) {
      i += 1;
      j += 1;
    } else if (j < m && (i === n || at(i, j + 1) > at(i + 1, j))) out.push(`+ ${actual[j++]}`);
    else out.push(`- ${expected[i++]}`);
  }
  return out;
}

/** The sample objects of a frame, as the json encoding has them. */
function samplesOf(frame: Frame): string[] {
  const key = { epoch: "0", stream: "data" as const, seq: 0, span: frame.rows };
  const batch: { samples: readonly unknown[] } = JSON.parse(
    Buffer.from(encodeJson("test", key, [frame])).toString("utf8"),
  );
  return batch.samples.map((sample) => JSON.stringify(sample));
}

const QUALITIES = ["good", "uncertain", "bad", "stale"];

/** Rows of sample objects: numbers, booleans, texts and null. */
function readSamples(text: string): Frame {
  const builder = new FrameBuilder();
  lines(text).forEach((line, i) => {
    const {
      device,
      ts,
      q = "good",
      values,
    }: { device?: unknown; ts?: unknown; q?: string; values?: object } = JSON.parse(line);
    const quality = QUALITIES.indexOf(q);
    if (typeof device !== "string" || typeof ts !== "number" || values === undefined || quality < 0) {
      throw new WeirError(
        "plugin.refused",
        `input.ndjson, line ${i + 1}: expected {"device", "ts", "values"}`,
      );
    }
    const time = Math.round(ts * 1000);
    for (const [name, value] of Object.entries(values)) {
      const [d, m] = [builder.device(device), builder.metric(name)];
      const status = quality & Status.qualityMask;
      if (typeof value === "number") builder.add(d, m, time, Kind.number, status, value);
      else if (typeof value === "boolean") builder.add(d, m, time, Kind.boolean, status, Number(value));
      else if (typeof value === "string") builder.add(d, m, time, Kind.text, status, builder.text(value));
      else builder.add(d, m, time, Kind.null, status, 0);
    }
  });
  return builder.build();
}

const lines = (text: string): string[] => text.split("\n").filter((line) => line.trim() !== "");

function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (thrown) {
    throw new WeirError("plugin.refused", messageOf(thrown), { cause: thrown });
  }
}

/** Works in a folder that the jail's user can reach, removed afterwards. */
async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(resolve(tmpdir()), "weir-plugin-"));
  chmodSync(folder, 0o755);
  try {
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
