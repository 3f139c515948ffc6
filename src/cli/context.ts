import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { ApiClient } from "../api/client.ts";
import { type Chosen, loadOrLastGood } from "../config/choose.ts";
import { inDataDir } from "../config/data-dir.ts";
import { type LoadedConfig, loadConfig } from "../config/load.ts";
import { messageOf, WeirError } from "../core/errors.ts";
import { STREAMS, type Stream } from "../core/ports.ts";
import type { Invocation } from "./commands.ts";
import { option } from "./option.ts";

/** The stream that `--stream` names, if it is there. */
export function streamOf(invocation: Invocation): Stream | undefined {
  const text = option(invocation, "stream");
  const stream = STREAMS.find((one) => one === text);
  if (text !== undefined && stream === undefined)
    throw new WeirError("cli.usage", `--stream takes ${STREAMS.join(", ")}, not ${text}`);
  return stream;
}

/** The configuration that the options name, with `--data-dir` applied. */
export function configOf(invocation: Invocation): LoadedConfig {
  return inDataDir(loadConfig(option(invocation, "config"), process.env), option(invocation, "data-dir"));
}

/** The same, or the last good one when the files are broken: for commands that are to work all the same. */
export function chosenConfigOf(invocation: Invocation): Chosen {
  const dataDir = option(invocation, "data-dir");
  const { loaded, fallback } = loadOrLastGood(option(invocation, "config"), process.env, dataDir);
  return { loaded: inDataDir(loaded, dataDir), fallback };
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
