/** The thread of `reader.ts`: reads and checks what it is asked for. Each request brings a port for its answer. */
import { type MessagePort, parentPort } from "node:worker_threads";
import { type Chosen, loadOrLastGood } from "./config/choose.ts";
import type { LoadedConfig } from "./config/load.ts";
import { type ErrorCode, messageOf, WeirError } from "./core/errors.ts";
import { loadWithPlugins } from "./plugin-settings.ts";
import { type PluginFiles, pluginFiles } from "./plugins/files.ts";
import type { PluginsOptions } from "./plugins/options.ts";

/** What can be asked for. */
export interface Readings extends PluginFiles {
  /** The configuration that a start goes by: {@link loadOrLastGood}. */
  chosen(named: string | undefined, dataDir: string | undefined): Promise<Chosen>;
  /** The configuration as its files are now: {@link loadWithPlugins}. */
  loaded(named: string | undefined, before: PluginsOptions): Promise<LoadedConfig>;
}

/** What a request's port brings. Structured cloning keeps no class of errors: `code` is a WeirError's. */
export type Answer<K extends keyof Readings> =
  | { readonly ok: true; readonly value: Awaited<ReturnType<Readings[K]>> }
  | { readonly ok: false; readonly code: ErrorCode | undefined; readonly message: string };

const readings: Readings = {
  ...pluginFiles,
  chosen: async (named, dataDir) => loadOrLastGood(named, process.env, dataDir),
  loaded: (named, before) => loadWithPlugins(named, process.env, before),
};

async function answer(name: keyof Readings, args: readonly [never, never], port: MessagePort): Promise<void> {
  try {
    const value = await readings[name](...args);
    port.postMessage({ ok: true, value } satisfies Answer<keyof Readings>);
  } catch (thrown) {
    const code = thrown instanceof WeirError ? thrown.code : undefined;
    port.postMessage({ ok: false, code, message: messageOf(thrown) } satisfies Answer<keyof Readings>);
  }
  port.close();
}

parentPort?.on("message", ({ name, args, port }) => void answer(name, args, port));
