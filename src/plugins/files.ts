/**
 * What is read of plugins' files and checked by a schema, in one place: the agent has it done in a thread that ends
 * afterwards (src/reader.ts), because the schemas' memory is as much as all else that it holds of plugins.
 */
import { type Candidate, type Discovered, discover, readKept } from "./discover.ts";
import { type Manifest, mergeConfig } from "./manifest.ts";

/** Reads and checks; here or in another thread. */
export interface PluginFiles {
  /** Looks into the plugins folder; one that isn't there holds no plugins. Never rejects. */
  discover(dir: string): Promise<Discovered>;
  /** A version that was kept in a folder. Rejects when that is not whole. */
  kept(folder: string): Promise<Candidate>;
  /**
   * The configuration that `configure` gets, as JSON.
   * @throws WeirError `plugin.refused` when it does not fit the manifest's own schema
   */
  config(manifest: Manifest, given: Readonly<Record<string, unknown>>): Promise<string>;
}

/** In this thread. */
export const pluginFiles: PluginFiles = {
  discover,
  kept: readKept,
  config: async (manifest, given) => mergeConfig(manifest, given),
};
