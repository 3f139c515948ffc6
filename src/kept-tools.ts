/** What the command line does with what is kept of plugins while no agent runs. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import Database from "better-sqlite3";
import type { RemovedPlugin } from "./api/types.ts";
import type { Config } from "./config/schema.ts";
import { messageOf, WeirError } from "./core/errors.ts";
import { dataPaths, holdDataFolder } from "./outbox/data-folder.ts";
import { Keepsakes } from "./outbox/keepsakes.ts";
import { removedPlugin } from "./parts.ts";
import { pluginFiles } from "./plugins/files.ts";
import { Kept } from "./plugins/kept.ts";
import { Settings } from "./plugins/settings.ts";
import { Versions } from "./plugins/versions.ts";

/**
 * Forgets a plugin in a data folder that no agent holds.
 * @throws WeirError like {@link Kept.purge}; `data.locked`, `data.unusable` or `cli.usage` when the folder can't be had
 */
export async function purgeKept({ data, plugins }: Config, name: string): Promise<RemovedPlugin> {
  const { database, store } = dataPaths(data.dir);
  if (!existsSync(database))
    throw new WeirError("cli.usage", `${database}: no such file; name the data folder with --data-dir`);
  // A relative one is where the agent is started: from elsewhere, everything would seem to be removed.
  if (!existsSync(plugins.dir))
    throw new WeirError(
      "cli.usage",
      `${resolve(plugins.dir)}: no such folder, so what is installed can't be told; run it where the agent is started`,
    );
  const folder = holdDataFolder(data.dir);
  try {
    const db = new Database(database, { fileMustExist: true });
    try {
      const keepsakes = new Keepsakes(db);
      const versions = new Versions(store, pluginFiles, {
        load: async (key) => keepsakes.setting(key),
        save: async (key, value) => keepsakes.setSetting(key, value),
      });
      const rows = {
        list: async () => keepsakes.kept(),
        dropState: async (plugin: string) => {
          while (keepsakes.dropState(plugin));
        },
      };
      const settings = new Settings(plugins);
      const kept = new Kept({ store: rows, versions, files: pluginFiles, settings: () => settings });
      return removedPlugin(await kept.purge(name));
    } finally {
      db.close();
    }
  } catch (thrown) {
    if (thrown instanceof WeirError) throw thrown;
    throw new WeirError("data.unusable", `${database}: ${messageOf(thrown)}`, { cause: thrown });
  } finally {
    folder.release();
  }
}
