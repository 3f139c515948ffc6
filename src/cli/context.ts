import { writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { ApiClient } from "../api/client.ts";
import { type Chosen, loadOrLastGood } from "../config/last-good.ts";
import { type LoadedConfig, loadConfig } from "../config/load.ts";
import { messageOf, WeirError } from "../core/errors.ts";
import { STREAMS, type Stream } from "../core/ports.ts";
import type { Invocation } from "./commands.ts";

/** The value of an option that takes one. */
export function option(invocation: Invocation, name: string): string | undefined {
  const value = invocation.values[name];
  return typeof value === "string" ? value : undefined;
}

/** The stream that `--stream` names, if it is there. */
export function streamOf(invocation: Invocation): Stream | undefined {
  const text = option(invocation, "stream");
  const stream = STREAMS.find((one) => one === text);
  if (text !== undefined && stream === undefined)
    throw new WeirError("cli.usage", `--stream takes ${STREAMS.join(", ")}, not ${text}`);
  return stream;
}

/** The configuration that the options name, with `--data-dir` applied; where they name none, `file`, or what there is. */
export function configOf(invocation: Invocation, file?: string): LoadedConfig {
  return withDataDir(invocation, loadConfig(option(invocation, "config") ?? file, process.env));
}

/** The same, or the last good one when the files are broken: for commands that are to work all the same. */
export function chosenConfigOf(invocation: Invocation): Chosen {
  const named = option(invocation, "config");
  const { loaded, fallback } = loadOrLastGood(named, process.env, option(invocation, "data-dir"));
  return { loaded: withDataDir(invocation, loaded), fallback };
}

function withDataDir(invocation: Invocation, loaded: LoadedConfig): LoadedConfig {
  const dir = resolve(option(invocation, "data-dir") ?? loaded.config.data.dir);
  return { ...loaded, config: { ...loaded.config, data: { ...loaded.config.data, dir } } };
}

/** The running agent of that data folder. */
export function agentOf(invocation: Invocation): ApiClient {
  return new ApiClient(join(chosenConfigOf(invocation).loaded.config.data.dir, "weir.sock"));
}

/**
 * Writes a file that an option names, for its owner alone where `mode` says so. `fresh`: nobody named it, so nothing may be there yet,
 * such as a link that somebody else has put into a common folder.
 */
export function writeOut(path: string, contents: string | Uint8Array, mode = 0o666, fresh = false): void {
  try {
    writeFileSync(path, contents, { mode, flag: fresh ? "wx" : "w" });
  } catch (thrown) {
    throw new WeirError("cli.usage", `can't write ${path}: ${messageOf(thrown)}`, { cause: thrown });
  }
}
