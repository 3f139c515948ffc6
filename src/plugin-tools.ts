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
  realpathSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { parse } from "yaml";
import { z } from "zod";
import { messageOf, WeirError } from "./core/errors.ts";
import { type Frame, Kind, Status } from "./core/frame.ts";
import { FrameBuilder } from "./core/frame-builder.ts";
import { COMPONENT_BYTES, readBounded, readComponent } from "./plugins/component-file.ts";
import { readEntry } from "./plugins/discover.ts";
import { pluginFiles } from "./plugins/files.ts";
import { mergeLimits } from "./plugins/limits.ts";
import { PluginManager } from "./plugins/manager.ts";
import { type Manifest, mergeConfig, parseManifest, problemsOf } from "./plugins/manifest.ts";
import { pluginsSchema } from "./plugins/options.ts";
import { Versions } from "./plugins/versions.ts";
import { vet } from "./plugins/vet.ts";
import { encodeJson } from "./uplink/encode-json.ts";

/** What vetting says of a component, or of a plugin's folder. */
export interface FileVerdict {
  readonly file: string;
  /** of the component; undefined when it could not be read */
  readonly bytes: number | undefined;
  /** SHA-256 */
  readonly hash: string | undefined;
  readonly verdict: "good" | "refused";
  readonly reason: string | undefined;
  /** interfaces that it exports, with their versions */
  readonly exports: readonly string[];
  /** wasm memories of one instance */
  readonly memories: number;
}

/** Vets a component, or a plugin's folder, as the agent would, in the jail. Nothing of it is run. */
export async function inspectFile(file: string): Promise<FileVerdict> {
  let read: { bytes: number; hash: string } | undefined;
  try {
    const { component, hash, manifest } = await readPlugin(resolve(file));
    read = { bytes: component.byteLength, hash };
    const { memoryMiB } = mergeLimits(manifest?.limits ?? {});
    if (manifest !== undefined) mergeConfig(manifest, {});
    const { exports, memories } = await inFolder((cacheDir) =>
      vet(hash, async () => component, { cacheDir, memoryMiB }),
    );
    const names = Object.values(exports).flatMap((one) => one ?? []);
    return { file, ...read, verdict: "good", reason: undefined, exports: names, memories };
  } catch (thrown) {
    const { bytes, hash } = read ?? {};
    const reason = messageOf(thrown);
    return { file, bytes, hash, verdict: "refused", reason, exports: [], memories: 0 };
  }
}

/** What lies at a path: a plugin's folder with its manifest, or a component alone, whatever it is called; a link is followed. */
async function readPlugin(
  path: string,
): Promise<{ component: Uint8Array; hash: string; manifest?: Manifest }> {
  if (statSync(path).isDirectory()) {
    const plugin = await readEntry(dirname(path), basename(path));
    if (plugin !== undefined) return { ...plugin, component: await readComponent(plugin.path, plugin.hash) };
  }
  const component = await readBounded(realpathSync(path), COMPONENT_BYTES);
  return { component, hash: createHash("sha256").update(component).digest("hex") };
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
  const entries = existsSync(cases) ? readdirSync(cases, { withFileTypes: true }) : [];
  const names = entries.flatMap((entry) => (entry.isDirectory() ? entry.name : [])).sort();
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
  const config = existsSync(configFile) ? readYaml(configFile) : {};
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
      save: async (key, value) =>
        void (value === undefined ? decisions.delete(key) : decisions.set(key, value)),
    }),
    exclusively: (action) => action(),
    loadState: async () => [],
    onLog: () => {},
  });
  try {
    await manager.start(new AbortController().signal);
    const info = manager.list().find(({ name }) => name === plugin);
    if (info?.state !== "on") throw new WeirError("plugin.refused", `${info?.state}: ${info?.reason}`);
    const frame = readSamples(join(dir, "input.ndjson"));
    const input = { source: "devices", frame, messages: new Map(), without: new Set<string>() };
    const result = await manager.chain.process(input);
    if (!result.ok) return result.failures.map(({ reason }) => `the call failed: ${reason}`);
    const expected = readLines(join(dir, "expected.ndjson")).map(({ value }) => JSON.stringify(value));
    return difference(expected, samplesOf(result.output.frame));
  } finally {
    await manager.stop();
  }
}

/** Steps that finding a longest common run may take: as many numbers are held for it. */
const MOST_STEPS = 4_000_000;

/** Lines only expected (`-`) and lines only there (`+`), along a longest common run. */
function difference(expected: readonly string[], actual: readonly string[]): string[] {
  let from = 0;
  while (from < expected.length && expected[from] === actual[from]) from += 1;
  const [left, right] = [expected.slice(from), actual.slice(from)];
  while (left.length > 0 && left.at(-1) === right.at(-1)) {
    left.pop();
    right.pop();
  }
  const [n, m] = [left.length, right.length];
  if (n * m > MOST_STEPS) return [...left.map((line) => `- ${line}`), ...right.map((line) => `+ ${line}`)];
  const longest = Array.from({ length: n + 1 }, () => new Uint32Array(m + 1));
  const at = (i: number, j: number): number => longest[i]?.[j] ?? 0;
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      const row = longest[i];
      if (row !== undefined)
        row[j] = left[i] === right[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const out: string[] = [];
  for (let i = 0, j = 0; i < n || j < m; ) {
    if (i < n && j < m && left[i] === right[j]) {
      i += 1;
      j += 1;
    } else if (j < m && (i === n || at(i, j + 1) > at(i + 1, j))) out.push(`+ ${right[j++]}`);
    else out.push(`- ${left[i++]}`);
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

const QUALITIES = ["good", "uncertain", "bad", "stale"] as const;

const sampleSchema = z.object({
  device: z.string(),
  ts: z.number(),
  q: z.enum(QUALITIES).default("good"),
  values: z.record(
    z.string(),
    z.union([z.number(), z.boolean(), z.string(), z.null(), z.strictObject({ b64: z.base64() })]),
  ),
});

/** Rows of sample objects, as the json encoding has them. */
function readSamples(file: string): Frame {
  const builder = new FrameBuilder();
  for (const { value: given, where } of readLines(file)) {
    const sample = sampleSchema.safeParse(given);
    if (!sample.success)
      throw new WeirError(
        "plugin.refused",
        `${where}: ${problemsOf(sample.error)}; expected {"device", "ts", "values"}`,
      );
    const { device, ts, q, values } = sample.data;
    const time = Math.round(ts * 1000);
    const status = QUALITIES.indexOf(q) & Status.qualityMask;
    for (const [name, value] of Object.entries(values)) {
      const [d, m] = [builder.device(device), builder.metric(name)];
      if (typeof value === "number") builder.add(d, m, time, Kind.number, status, value);
      else if (typeof value === "boolean") builder.add(d, m, time, Kind.boolean, status, Number(value));
      else if (typeof value === "string") builder.add(d, m, time, Kind.text, status, builder.text(value));
      else if (value === null) builder.add(d, m, time, Kind.null, status, 0);
      else builder.add(d, m, time, Kind.bytes, status, builder.blob(Buffer.from(value.b64, "base64")));
    }
  }
  return builder.build();
}

/** The lines of a file of JSON. */
function readLines(file: string): { readonly value: unknown; readonly where: string }[] {
  return readText(file)
    .split("\n")
    .flatMap((line, i) => {
      if (line.trim() === "") return [];
      const where = `${basename(file)}, line ${i + 1}`;
      try {
        return { value: JSON.parse(line), where };
      } catch (thrown) {
        throw new WeirError("plugin.refused", `${where}: ${messageOf(thrown)}`, { cause: thrown });
      }
    });
}

function readYaml(file: string): unknown {
  try {
    return parse(readText(file), { prettyErrors: false });
  } catch (thrown) {
    if (thrown instanceof WeirError) throw thrown;
    throw new WeirError("plugin.refused", `${basename(file)}: ${messageOf(thrown)}`, { cause: thrown });
  }
}

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
