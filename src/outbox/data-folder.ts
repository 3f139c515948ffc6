/**
 * The data folder: made with tight modes, held by one agent at a time. The lock is SQLite's on the file `lock`: the kernel
 * gives it up when the process ends in whatever way, and it holds across namespaces.
 */
import { accessSync, chmodSync, constants, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import Database from "better-sqlite3";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";

/** Places in the data folder. */
export interface DataPaths {
  readonly dir: string;
  readonly database: string;
  readonly socket: string;
  /** vetted components: written by the agent alone, read by the jail's user */
  readonly cache: string;
  /** versions of plugins */
  readonly store: string;
}

/** The places in a data folder. */
export function dataPaths(dir: string): DataPaths {
  const absolute = resolve(dir);
  return {
    dir: absolute,
    database: join(absolute, "weir.db"),
    socket: join(absolute, "weir.sock"),
    cache: join(absolute, "cache"),
    store: join(absolute, "store"),
  };
}

/** A data folder that this process holds. */
export interface HeldDataFolder {
  readonly paths: DataPaths;
  /** Lets another agent have it. */
  release(): void;
}

/**
 * Makes the folder if need be, and takes its lock.
 * @throws WeirError `data.unusable`, or `data.locked` when another process has it
 */
export function holdDataFolder(dir: string): HeldDataFolder {
  const paths = dataPaths(dir);
  try {
    // 0711: the jail's user passes through to the cache, and lists nothing.
    mkdirSync(paths.dir, { recursive: true, mode: 0o711 });
    accessSync(paths.dir, constants.R_OK | constants.W_OK | constants.X_OK);
    mkdirSync(paths.cache, { recursive: true, mode: 0o755 });
    chmodSync(paths.cache, 0o755);
  } catch (thrown) {
    throw new WeirError("data.unusable", `${paths.dir}: ${messageOf(thrown)}`, { cause: thrown });
  }
  const before = process.umask(0o077);
  let lock: Database.Database | undefined;
  try {
    lock = new Database(join(paths.dir, "lock"), { timeout: 0 });
    lock.exec("BEGIN EXCLUSIVE");
  } catch (thrown) {
    lock?.close();
    if (errnoOf(thrown) === "SQLITE_BUSY")
      throw new WeirError("data.locked", `${paths.dir} is held by another agent`);
    throw new WeirError("data.unusable", `${paths.dir}/lock: ${messageOf(thrown)}`, { cause: thrown });
  } finally {
    process.umask(before);
  }
  const held = lock;
  return { paths, release: () => held.close() };
}
