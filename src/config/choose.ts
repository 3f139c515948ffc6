/** What a start goes by: the files, or the last configuration that took effect where they are broken. */
import { resolve } from "node:path";
import { WeirError } from "../core/errors.ts";
import { readConfigFiles } from "./files.ts";
import { isNothing, type LastGood, readKept } from "./last-good.ts";
import { type LoadedConfig, resolveConfig } from "./load.ts";
import { mainFile } from "./main-file.ts";
import type { Environment } from "./substitute.ts";

/** What a start goes by. */
export interface Chosen {
  readonly loaded: LoadedConfig;
  /** why the files are not what counts, when they are not */
  readonly fallback: string | undefined;
}

/**
 * Loads the configuration, or the last good one of the same file when that is broken. A file that is missing is never
 * replaced: somebody took it away.
 * @param dataDir the data folder that the command line names, if it does
 * @throws WeirError `config.invalid` when there is nothing to fall back to
 */
export function loadOrLastGood(
  named: string | undefined,
  environment: Environment,
  dataDir: string | undefined,
): Chosen {
  const file = mainFile(named);
  const read = readConfigFiles(file);
  let why: WeirError;
  try {
    const loaded = resolveConfig(read, environment);
    const kept = loaded.empty
      ? findKept(file, dataDir ?? loaded.config.data.dir, read.raw, environment)
      : undefined;
    if (kept === undefined || isNothing(kept.raw)) return { loaded, fallback: undefined };
    why = new WeirError(
      "config.invalid",
      `${file}: has no byte, as after a write to a full disk; a line with a comment in it means defaults`,
    );
  } catch (thrown) {
    if (!(thrown instanceof WeirError) || read.problems.some((one) => one === `${file}: no such file`))
      throw thrown;
    why = thrown;
  }
  const kept = findKept(file, dataDir, read.raw, environment);
  if (kept === undefined) throw why;
  try {
    const loaded = resolveConfig({ ...read, raw: kept.raw, problems: [] }, environment);
    const since = new Date(kept.at).toISOString();
    return { loaded, fallback: `${why.message}\nthe last good configuration, of ${since}, is in force` };
  } catch {
    // A reference that no longer resolves: the files' own errors say more.
    throw why;
  }
}

/** Looks where the data folder may be, as far as broken files say. */
function findKept(
  file: string | undefined,
  dataDir: string | undefined,
  raw: unknown,
  environment: Environment,
): LastGood | undefined {
  const section: unknown = typeof raw === "object" && raw !== null ? Reflect.get(raw, "data") : undefined;
  const said: unknown =
    typeof section === "object" && section !== null ? Reflect.get(section, "dir") : undefined;
  const dirs = [
    dataDir,
    environment["WEIR__DATA__DIR"],
    said,
    environment["STATE_DIRECTORY"],
    "./.weir",
    "/var/lib/weir",
  ];
  for (const dir of dirs) {
    if (typeof dir !== "string" || dir === "") continue;
    const kept = readKept(resolve(dir));
    if (kept !== undefined && kept.file === file) return kept;
  }
  return undefined;
}
