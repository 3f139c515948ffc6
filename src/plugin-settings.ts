/** Whether what weir.yaml sets for plugins fits the schemas of those that lie in the plugins folder. */
import { resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { readConfigFiles } from "./config/files.ts";
import { type LoadedConfig, resolveConfig } from "./config/load.ts";
import { mainFile } from "./config/main-file.ts";
import type { Environment } from "./config/substitute.ts";
import { messageOf, WeirError } from "./core/errors.ts";
import { pluginFiles } from "./plugins/files.ts";
import type { PluginsOptions } from "./plugins/options.ts";

/**
 * Loads a configuration as `loadConfig` does, and has each plugin's own schema look at its settings. Not for a start: a plugin that
 * was replaced is no reason to stay down; there it is refused alone.
 * @param before settings that are in force: what they have in common with the new ones is not looked at, and their folder stays
 * @throws WeirError `config.invalid`
 */
export async function loadWithPlugins(
  named: string | undefined,
  environment: Environment,
  before?: PluginsOptions,
): Promise<LoadedConfig> {
  const read = readConfigFiles(mainFile(named));
  const loaded = resolveConfig(read, environment);
  const { dir, plugins } = loaded.config.plugins;
  const changed = [...plugins].filter(
    ([name, { enabled, config }]) =>
      enabled && !isDeepStrictEqual(config, before?.plugins.get(name)?.config ?? (before && {})),
  );
  if (changed.length === 0) return loaded;
  const { candidates } = await pluginFiles.discover(resolve(before?.dir ?? dir));
  const problems: string[] = [];
  for (const [name, { config }] of changed) {
    const manifest = candidates.find((one) => one.name === name)?.manifest;
    if (manifest === undefined) continue;
    await pluginFiles.config(manifest, config).catch((thrown: unknown) => {
      problems.push(`${read.placeOf(["plugins", name, "config"])}: plugins.${name}: ${messageOf(thrown)}`);
    });
  }
  if (problems.length > 0) throw new WeirError("config.invalid", problems.join("\n"));
  return loaded;
}
