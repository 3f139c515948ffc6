/** Where the data folder is: what the command line says comes before the configuration. */
import { resolve } from "node:path";
import type { LoadedConfig } from "./load.ts";

/** The same configuration with the data folder's absolute path: `named`, where the command line names one. */
export function inDataDir(loaded: LoadedConfig, named: string | undefined): LoadedConfig {
  const dir = resolve(named ?? loaded.config.data.dir);
  return { ...loaded, config: { ...loaded.config, data: { ...loaded.config.data, dir } } };
}
