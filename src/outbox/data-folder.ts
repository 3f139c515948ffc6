/**
 * The data folder: made with tight modes, held by one agent at a time. The lock is SQLite's on the file `lock`: the kernel
 * gives it up when the process ends in whatever way, and it holds across namespaces.
 */
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  statSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
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
  /**
   * Takes the lock again at the same path: its file system may be another one by now.
   * @throws WeirError `data.unusable` when nothing of the folder is there, `data.locked` when another agent was quicker
   */
  renew(): void;
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
    makeFolder(paths.dir);
    accessSync(paths.dir, constants.R_OK | constants.W_OK | constants.X_OK);
    mkdirSync(paths.cache, { recursive: true, mode: 0o755 });
    if ((statSync(paths.cache).mode & 0o777) !== 0o755) chmodSync(paths.cache, 0o755);
  } catch (thrown) {
    throw unusable(paths.dir, thrown);
  }
  const [problem] = folderProblems(paths.dir);
  if (problem !== undefined) throw new WeirError("data.unusable", problem);
  const path = join(paths.dir, "lock");
  let lock = take(path);
  const renew = (): void => {
    // First, so that a file system that is to be mended isn't busy; and a process's locks on a file go with any descriptor of it.
    lock.close();
    if (!existsSync(path))
      throw new WeirError("data.unusable", `${paths.dir} is empty: is its file system mounted?`);
    lock = take(path);
  };
  return { paths, renew, release: () => lock.close() };
}

/** Makes a folder and those above it. Node's own way never ends where none can be made, as in /proc. */
function makeFolder(path: string): void {
  try {
    mkdirSync(path, { mode: 0o711 });
  } catch (thrown) {
    const code = errnoOf(thrown);
    if (code === "EEXIST" && statSync(path).isDirectory()) return;
    if (code !== "ENOENT" || existsSync(dirname(path))) throw thrown;
    makeFolder(dirname(path));
    mkdirSync(path, { mode: 0o711 });
  }
}

function take(path: string): Database.Database {
  const before = process.umask(0o077);
  let lock: Database.Database | undefined;
  try {
    // Not by SQLite, which would not say why it can't.
    closeSync(openSync(path, "a", 0o600));
    lock = new Database(path, { timeout: 0 });
    lock.exec("BEGIN EXCLUSIVE");
    return lock;
  } catch (thrown) {
    lock?.close();
    if (errnoOf(thrown) === "SQLITE_BUSY")
      throw new WeirError("data.locked", `${dirname(path)} is held by another agent`);
    throw unusable(path, thrown);
  } finally {
    process.umask(before);
  }
}

const unusable = (path: string, thrown: unknown): WeirError =>
  new WeirError("data.unusable", whyUnusable(path, thrown), { cause: thrown });

/** Where, why, and for whose rights: what an error at a path of the data folder means to a person. */
export function whyUnusable(path: string, thrown: unknown): string {
  const code = errnoOf(thrown);
  if (code === "EROFS") return `${path}: its file system is read-only`;
  if (code === "ENOTDIR" || code === "EEXIST") return `${path}: there is a file in the place of a folder`;
  if (code === "EPERM" && process.geteuid?.() === 0)
    return `${path}: not permitted, even to root: it may be immutable (lsattr shows it, chattr -i ends it)`;
  if (code !== "EACCES" && code !== "EPERM") return `${path}: ${messageOf(thrown)}`;
  return `${path}: ${rights(path)}`;
}

/** Whose a path is, or the nearest folder above it that can be seen, and who asks. */
function rights(path: string): string {
  for (let at = path; ; at = dirname(at)) {
    try {
      const { uid, mode } = statSync(at);
      const whose = `${at === path ? "it" : at} belongs to user ${uid}, mode ${(mode & 0o7777).toString(8).padStart(4, "0")}`;
      return `permission denied: ${whose}, and Weir runs as user ${process.geteuid?.() ?? "?"}`;
    } catch (thrown) {
      if (at === dirname(at)) return messageOf(thrown);
    }
  }
}

/** Files of a data folder that its agent writes. */
const FILES = ["lock", "weir.db", "weir.db-wal", "weir.db-shm", "cache", "store", "quarantine"];

/** What of an existing data folder this user can't write to, as after a run as root: a sentence each. */
export function folderProblems(dir: string): string[] {
  let names: readonly string[];
  try {
    names = readdirSync(dir);
  } catch (thrown) {
    return [whyUnusable(dir, thrown)];
  }
  return FILES.filter((name) => names.includes(name)).flatMap((name) => {
    const path = join(dir, name);
    try {
      accessSync(path, constants.R_OK | constants.W_OK);
      return [];
    } catch (thrown) {
      return [whyUnusable(path, thrown)];
    }
  });
}
