/** A plugins folder and the real thing around it: vetting children, the jailed host, the chain. */
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { stringify } from "yaml";
import type { Frame } from "../../src/core/frame.ts";
import { Kind } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import type { Messages } from "../../src/core/messages.ts";
import type { ChainFailure, ChainOutput, ChainResult, StateEntry } from "../../src/core/ports.ts";
import { pluginFiles } from "../../src/plugins/files.ts";
import { PluginManager, type PluginManagerOptions } from "../../src/plugins/manager.ts";
import { pluginsSchema } from "../../src/plugins/options.ts";
import { Versions } from "../../src/plugins/versions.ts";

/** One plugin of a test: its component, and what its manifest and weir.yaml say. */
export interface Subject {
  /** a path from the top of the tree */
  readonly component: string;
  readonly manifest?: Readonly<Record<string, unknown>>;
  readonly options?: Readonly<Record<string, unknown>>;
}

/** A component of test/fixtures/plugins. */
export const fixture = (name: string): string => `test/fixtures/plugins/${name}.wasm`;
/** A component of test/fixtures/hostile. */
export const hostile = (name: string): string => `test/fixtures/hostile/${name}.wasm`;

/** A folder that the jail's user can reach. */
export function openFolder(prefix: string): string {
  const dir = mkdtempSync(join(tmpdir(), prefix));
  chmodSync(dir, 0o755);
  return dir;
}

/** Plugins in a folder of their own, run by a manager. */
export class Lane {
  readonly dir: string = openFolder("weir-lane-");
  readonly logs: { plugin: string; level: string; text: string }[] = [];
  /** what a database would keep: plugin → scope and key → value */
  readonly committed = new Map<string, Map<string, StateEntry>>();
  readonly decisions = new Map<string, string>();
  readonly manager: PluginManager;
  readonly #onTheWay = new Set<Promise<ChainResult>>();
  /** set while an action runs between chunks, or waits to */
  #hold: Promise<void> | undefined;

  private constructor(
    subjects: Readonly<Record<string, Subject>>,
    cacheDir: string,
    options: Partial<PluginManagerOptions>,
    lanes: number,
  ) {
    const plugins = join(this.dir, "plugins");
    mkdirSync(plugins);
    const section: Record<string, unknown> = { dir: plugins, lanes };
    for (const [name, { component, manifest, options: given }] of Object.entries(subjects)) {
      mkdirSync(join(plugins, name));
      copyFileSync(resolve(component), join(plugins, name, `${name}.wasm`));
      // A deadline that none misses because the machine is slow.
      const limits = { timeMs: 10_000, ...Object(manifest?.["limits"]) };
      const text = stringify({ name, version: "1", component: `${name}.wasm`, ...manifest, limits });
      writeFileSync(join(plugins, name, "plugin.yaml"), text);
      if (given !== undefined) section[name] = given;
    }
    this.manager = new PluginManager({
      options: pluginsSchema.parse(section),
      cacheDir,
      files: pluginFiles,
      versions: new Versions(join(this.dir, "store"), pluginFiles, {
        load: async (key) => this.decisions.get(key),
        save: async (key, value) =>
          void (value === undefined ? this.decisions.delete(key) : this.decisions.set(key, value)),
      }),
      exclusively: (action) => this.#exclusively(action),
      loadState: async (plugin) => [...(this.committed.get(plugin)?.values() ?? [])],
      onLog: (plugin, level, text) => this.logs.push({ plugin, level, text }),
      ...options,
    });
  }

  /** Starts plugins; `cacheDir` can be shared so that a component is vetted once. */
  static async start(
    subjects: Readonly<Record<string, Subject>>,
    cacheDir: string,
    options: Partial<PluginManagerOptions> = {},
    lanes = 1,
  ): Promise<Lane> {
    const lane = new Lane(subjects, cacheDir, options, lanes);
    await lane.manager.start(new AbortController().signal);
    return lane;
  }

  /** Sends an input through the chain. */
  send(
    frame: Frame,
    more: { without?: string[]; messages?: Map<string, Messages>; source?: string } = {},
  ): Promise<ChainResult> {
    if (this.#hold !== undefined) return this.#hold.then(() => this.send(frame, more));
    const { without = [], messages = new Map(), source = "devices" } = more;
    const result = this.manager.chain.process({ source, frame, messages, without: new Set(without) });
    this.#onTheWay.add(result);
    void result.finally(() => this.#onTheWay.delete(result));
    return result;
  }

  /** As the pipeline does: when nothing is on its way, and nothing goes in meanwhile. */
  async #exclusively(action: () => Promise<void>): Promise<void> {
    while (this.#hold !== undefined) await this.#hold;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#hold = promise;
    try {
      await Promise.all(this.#onTheWay);
      await action();
    } finally {
      this.#hold = undefined;
      resolve();
    }
  }

  /** Sends one that must go through, and commits its state. */
  async pass(frame: Frame, more: Parameters<Lane["send"]>[1] = {}): Promise<ChainOutput> {
    return this.commit(await this.send(frame, more));
  }

  /** Sends one that must fail, and restarts the chain as the pipeline does. */
  async fail(frame: Frame): Promise<ChainFailure> {
    const result = await this.send(frame);
    if (result.ok) throw new Error("went through");
    await this.manager.chain.restart();
    return result.failures[0];
  }

  /** Takes over what a call that went through wants kept. */
  commit(result: ChainResult): ChainOutput {
    if (!result.ok)
      throw new Error(result.failures.map(({ plugin, reason }) => `${plugin}: ${reason}`).join("; "));
    this.manager.chain.committed();
    for (const { plugin, scope, key, value } of result.output.state) {
      const entries = this.committed.get(plugin) ?? new Map<string, StateEntry>();
      if (value === undefined) entries.delete(`${scope}\0${key}`);
      else entries.set(`${scope}\0${key}`, { scope, key, value });
      this.committed.set(plugin, entries);
    }
    return result.output;
  }

  /** What is known of one plugin. */
  info(name: string): ReturnType<PluginManager["list"]>[number] {
    const info = this.manager.list().find((one) => one.name === name);
    if (info === undefined) throw new Error(`no plugin ${name}`);
    return info;
  }

  async stop(): Promise<void> {
    await this.manager.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** A row: device, metric, value; times count up by a second. */
export type Row = readonly [device: string, metric: string, value: number];

/** A frame of numbers. */
export function frameOf(...rows: readonly Row[]): Frame {
  const builder = new FrameBuilder(rows.length);
  rows.forEach(([device, metric, value], i) => {
    builder.add(
      builder.device(device),
      builder.metric(metric),
      1_763_640_000_000_000 + i * 1e6,
      Kind.number,
      0,
      value,
    );
  });
  return builder.build();
}

/** The rows of a frame of numbers. */
export function rowsOf(frame: Frame): Row[] {
  return Array.from(frame.value, (value, row) => [
    frame.devices[frame.device[row] ?? 0] ?? "",
    frame.metrics[frame.metric[row] ?? 0] ?? "",
    value,
  ]);
}
