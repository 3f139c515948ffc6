/**
 * The last configuration that took effect, kept in the data folder: what a start falls back to when the files are broken,
 * as after a half-written edit or on a full disk. References stay as they stand in the text, so no secret is copied that
 * was not in the files themselves.
 */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { WeirError } from "../core/errors.ts";
import type { LoadedConfig } from "./load.ts";

const NAME = "last-good.json";

/** A kept configuration. */
export interface LastGood {
  /** the main file that it was of */
  readonly file: string;
  /** milliseconds since the Unix epoch: when it took effect */
  readonly at: number;
  readonly raw: unknown;
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

/** Whether a file says nothing at all. */
export const isNothing = (raw: unknown): boolean =>
  raw === null || (typeof raw === "object" && Object.keys(raw).length === 0);

/** What is kept in a data folder; undefined when that is nothing whole. */
export function readKept(dataDir: string): LastGood | undefined {
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
