import { accessSync, constants, existsSync, readFileSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { WeirError } from "../core/errors.ts";
import { type JailLayer, jailLayers } from "./jail-report.ts";

/** The command line of a jailed process: where the launcher is, what it is told, and which flags Node gets. */

/** What to run and what it may touch. */
export interface JailOptions {
  /** Absolute path of the script; it and its nearest package.json are readable without being listed. */
  readonly script: string;
  /** Its arguments (`process.argv.slice(2)`). */
  readonly scriptArgs?: readonly string[];
  /** Absolute paths of files and folders (with all below) that the child may read, at most 200. One that isn't there is left out. */
  readonly readPaths: readonly string[];
  /** Extra socketpairs: the child has them as descriptors 3 … 3 + pipes - 1, and opens each with `new net.Socket({ fd })`. */
  readonly pipes: number;
  /**
   * What the process may hold, in MiB; Node itself needs about 60. Where a memory cgroup is writable the kernel sees to it,
   * swap included; elsewhere its resident memory is looked at twice a second. Bounds the JS heap and each wasm memory too.
   */
  readonly memoryMiB: number;
  /** Whether it may start worker threads. */
  readonly allowWorker: boolean;
  /**
   * Address space (RLIMIT_DATA) for each of its workers, one a pipe, in MiB. 576 by default, because V8 reserves 512 for code; for
   * workers started with `resourceLimits: { codeRangeSizeMb: 16 }` 96 are enough, a tighter wall where there are no cgroups.
   */
  readonly workerDataMiB?: number;
  /** Threads it may have in all, Node's own dozen included; 64 and two for each pipe by default. */
  readonly threads?: number;
  /** More flags for Node, such as `--v8-pool-size=1`. */
  readonly nodeFlags?: readonly string[];
  /** Called with each line the child prints, cut at 1,000 characters, at most 16 KiB a second; the rest waits in the child's memory. */
  readonly onOutput?: (line: string) => void;
  /** Layers to leave out: for tests of single layers. */
  readonly without?: readonly JailLayer[];
  /** These layers alone: for tests of single layers. */
  readonly only?: readonly JailLayer[];
}

/**
 * Used when Weir runs as root and there is no user `weir-plugin`: an id of our own, so that nothing else on the machine can be
 * read, signalled or traced by a plugin. Not `nobody`, which others share; below 65,536, so that it exists in containers
 * with a 16-bit range of ids.
 */
const fallbackUid = 64_757;

/**
 * The whole environment of a jailed process. UTC because the time zone's files are out of reach. What the compiler of wasm needs for a
 * moment is 64 KiB and more at a time: mapped, it goes back to the system, and an idle host holds 12 MB less.
 */
const environment = {
  MALLOC_ARENA_MAX: "1",
  MALLOC_MMAP_THRESHOLD_: "65536",
  TZ: "UTC",
  NODE_NO_WARNINGS: "1",
} as const;

/** Walks up from a file to the package it belongs to; undefined when there is none. */
function nearestPackage(file: string): string | undefined {
  for (let folder = dirname(file); ; folder = dirname(folder)) {
    const candidate = join(folder, "package.json");
    if (existsSync(candidate)) return candidate;
    if (folder === dirname(folder)) return undefined;
  }
}

/**
 * The launcher's path. Nothing of a plugin's is run without it: what is left then, Node's own permissions, is no boundary.
 * @throws WeirError `plugin.failed` with the remedy: another try may find it
 */
export function findLauncher(): string {
  const root = dirname(nearestPackage(fileURLToPath(import.meta.url)) ?? "/package.json");
  const candidates = [
    join(root, "build", "Release", "weir-jail"),
    join(root, "prebuilds", `linux-${process.arch}`, "weir-jail"),
  ];
  let missing =
    "the jail's launcher is not built: install python3, make and g++, then run `npm rebuild` in Weir's folder";
  for (const path of candidates) {
    if (!existsSync(path)) continue;
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      missing = `the jail's launcher can't be run: chmod 755 ${path}`;
    }
  }
  throw new WeirError("plugin.failed", missing);
}

/** What the launcher preloads into Node, beside it; none where it wasn't built. */
function findPreload(launcher: string): string | undefined {
  const path = join(dirname(launcher), "weir-trim.node");
  return existsSync(path) ? path : undefined;
}

/** The shared libraries this very Node runs on (addons left out): what the child's Node will load. */
function runtimeLibraries(): readonly string[] {
  const found = new Set<string>();
  for (const line of readFileSync("/proc/self/maps", "utf8").split("\n")) {
    const path = /\s(\/\S*\.so(?:\.[\w.]+)?)$/.exec(line)?.[1];
    if (path !== undefined) found.add(path);
  }
  return [...found];
}

/** Who the child becomes when Weir runs as root. */
function jailIdentity(): { uid: number; gid: number } {
  try {
    const entry = /^weir-plugin:[^:]*:(\d+):(\d+):/m.exec(readFileSync("/etc/passwd", "utf8"));
    const uid = Number(entry?.[1] ?? 0);
    const gid = Number(entry?.[2] ?? 0);
    if (uid > 0 && gid > 0) return { uid, gid };
  } catch {
    // No such file in some containers: the fallback is as good.
  }
  return { uid: fallbackUid, gid: fallbackUid };
}

/** A path as given and as it resolves: the permission model compares names, and Node's loader resolves links first. */
function withRealPath(path: string): readonly string[] {
  try {
    const real = realpathSync(path);
    return real === path ? [path] : [path, real];
  } catch {
    return [];
  }
}

function enabledLayers(options: Pick<JailOptions, "only" | "without">): ReadonlySet<JailLayer> {
  const without = new Set(options.without);
  return new Set((options.only ?? jailLayers).filter((layer) => !without.has(layer)));
}

function nodeFlags(options: JailOptions, readable: readonly string[], permission: boolean): string[] {
  const flags = [
    "--openssl-config=/dev/null", // an unreadable openssl.cnf ends Node with 13
    "--disallow-code-generation-from-strings",
    "--freeze-flags-after-init",
    "--disable-proto=delete",
    "--disable-sigusr1",
    "--no-addons",
    // node:sqlite ignores --permission, node:ffi makes any system call. A worker started with `execArgv: []` has both back:
    // hosts drop the right to start workers, and what is left for the launcher to stop is native code.
    "--no-experimental-sqlite",
    ...(process.allowedNodeEnvironmentFlags.has("--experimental-ffi") ? ["--no-experimental-ffi"] : []), // Node 26
    `--wasm-max-mem-pages=${Math.min(options.memoryMiB * 16, 65_536)}`,
    `--max-old-space-size=${Math.max(32, Math.floor((options.memoryMiB * 3) / 4))}`,
  ];
  if (permission) {
    flags.push("--permission", ...readable.map((path) => `--allow-fs-read=${path}`));
    if (options.allowWorker) flags.push("--allow-worker");
  }
  return [...flags, ...(options.nodeFlags ?? [])];
}

function launcherArguments(
  launcher: string,
  options: JailOptions,
  readable: readonly string[],
  enabled: ReadonlySet<JailLayer>,
): string[] {
  const { uid, gid } = jailIdentity();
  const preload = findPreload(launcher);
  const variables = { ...environment, ...(preload === undefined ? {} : { LD_PRELOAD: preload }) };
  const files = preload === undefined ? runtimeLibraries() : [...runtimeLibraries(), preload];
  const threads = options.threads ?? 64 + 2 * options.pipes;
  const workers = options.allowWorker ? Math.max(1, options.pipes) : 0;
  const mebibyte = 1024 * 1024;
  const list = [
    ["--report", 3 + options.pipes],
    ["--keep", 3 + options.pipes],
    ["--parent", process.pid],
    ["--uid", uid],
    ["--gid", gid],
    ["--memory", options.memoryMiB * mebibyte],
    // Counts what is reserved, stacks included, besides what is used: Node alone is at 0.6 GB before it does anything.
    ["--data", (1024 + options.memoryMiB + workers * (options.workerDataMiB ?? 576)) * mebibyte],
    ["--files", 128 + options.pipes + 8 * threads],
    ["--threads", threads],
    ["--oom", 500],
    ...[...files, ...readable].map((path) => ["--read", path]),
    ...Object.entries(variables).map(([name, value]) => ["--env", `${name}=${value}`]),
    ...jailLayers
      .filter((layer) => layer !== "permission" && !enabled.has(layer))
      .map((layer) => ["--without", layer]),
  ];
  return list.flat().map(String);
}

/** What to start, and how. */
export interface JailCommand {
  readonly command: string;
  readonly arguments: readonly string[];
  /** The environment of the command itself. */
  readonly environment: NodeJS.ProcessEnv;
  /** Whether Node's own permission model is on. */
  readonly permission: "on" | "off";
}

/** Puts together the command line for `options`; reads files, starts nothing. Throws like {@link findLauncher}. */
export function jailCommand(options: JailOptions): JailCommand {
  const launcher = findLauncher();
  const enabled = enabledLayers(options);
  const packageFile = nearestPackage(options.script);
  const paths = [...options.readPaths, options.script, ...(packageFile === undefined ? [] : [packageFile])];
  const readable = [...new Set(paths.flatMap(withRealPath))];
  const permission = enabled.has("permission") ? "on" : "off";
  const node = [
    ...nodeFlags(options, readable, permission === "on"),
    options.script,
    ...(options.scriptArgs ?? []),
  ];
  const common = { environment: enabled.has("environment") ? environment : process.env, permission } as const;
  const walls = launcherArguments(launcher, options, readable, enabled);
  return {
    ...common,
    command: launcher,
    arguments: [...walls, "--", process.execPath, ...node],
  };
}
