/**
 * The last configuration that took effect, kept in the data folder: what a start falls back to when the files are broken,
 * as after a half-written edit or on a full disk. References stay as they stand in the text, so no secret is copied that
 * was not in the files themselves.
 */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { WeirError } from "../core/errors.ts";
import { mainFile, readConfigFiles } from "./files.ts";
import { type LoadedConfig, resolveConfig } from "./load.ts";
import type { Environment } from "./substitute.ts";

const NAME = "last-good.json";

/** A kept configuration. */
interface LastGood {
  /** the main file that it was of */
  readonly file: string;
  /** milliseconds since the Unix epoch: when it took effect */
  readonly at: number;
  readonly raw: unknown;
}

/** What a start goes by. */
export interface Chosen {
  readonly loaded: LoadedConfig;
  /** why the files are not what counts, when they are not */
  readonly fallback: string | undefined;
}

/**
 * Keeps what has taken effect. Nothing is kept without a file. The one before stays until this one is whole.
 * @throws the system's error, as on a full disk
 */
export function keepLastGood(dataDir: string, { file, raw }: LoadedConfig): void {
  if (file === undefined) return;
  const path = join(dataDir, NAME);
  const kept: LastGood = { file, at: Date.now(), raw };
  const before = readKept(dataDir);
  if (before?.file === file && JSON.stringify(before.raw) === JSON.stringify(raw)) return;
  const handle = openSync(`${path}.new`, "w", 0o600);
  try {
    // All of it or an error: a single write may store a part.
    writeFileSync(handle, JSON.stringify(kept));
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
  renameSync(`${path}.new`, path);
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

/**
 * Refuses a start without a file in a data folder where one counted that is gone: by the defaults, what its uplinks still hold
 * would be dropped.
 * @throws WeirError `config.invalid`
 */
export function refuseWithout({ file, config }: LoadedConfig): void {
  const kept = file === undefined ? readKept(config.data.dir) : undefined;
  if (kept === undefined || isNothing(kept.raw) || existsSync(kept.file)) return;
  throw new WeirError(
    "config.invalid",
    `${kept.file}: no such file, and until now it was in force with the data in ${config.data.dir}: what its uplinks hold there would be dropped. Put it back, or name another with --config; one with a comment alone means defaults`,
  );
}

const isNothing = (raw: unknown): boolean =>
  raw === null || (typeof raw === "object" && Object.keys(raw).length === 0);

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

function readKept(dataDir: string): LastGood | undefined {
  try {
    const kept: unknown = JSON.parse(readFileSync(join(dataDir, NAME), "utf8"));
    return isLastGood(kept) ? kept : undefined;
  } catch {
    // None yet, or not whole: then there is none.
    return undefined;
  }
}

function isLastGood(value: unknown): value is LastGood {
  if (typeof value !== "object" || value === null || !("raw" in value)) return false;
  return typeof Reflect.get(value, "file") === "string" && typeof Reflect.get(value, "at") === "number";
}
