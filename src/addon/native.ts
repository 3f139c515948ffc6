/** Finds, loads and checks `weir.node`. The only place that knows what the binding (native/binding) exports. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

/** Why a probe could not be loaded, as the binding says it. */
export interface NativeFailure {
  /** positive errno */
  readonly errno: number;
  /** the step that failed, in words */
  readonly step: string;
  /** the end of the verifier's log, or "" */
  readonly log: string;
  /** it was loaded all the same, over raw tracepoints */
  readonly raw: boolean;
}

/** A hash under a key. */
export interface NativeHash {
  of(bytes: Uint8Array): bigint;
  /** false when a start is out of order or `into` too short */
  slices(bytes: Uint8Array, starts: Uint32Array, into: BigUint64Array): boolean;
  /** hashes what lies in the stage, and leaves its digest's low word there */
  staged(): void;
}

/** A hash of parts. */
export interface NativeHashStream {
  update(bytes: Uint8Array): void;
  digest(): bigint;
}

/** Samples of perf_event_open(2). */
export interface NativeSampler {
  /** 0, or a positive errno: nothing was opened */
  readonly errno: number;
  drain(into: Uint8Array): number;
  counts(): readonly [produced: number, drained: number, lost: number];
  close(): void;
}

/** Rows of process events; `memory` as src/addon/process-rows.ts lays it out. */
export interface NativeProcessRows {
  survey(): void;
  /** false when the columns don't fit */
  write(block: ArrayBuffer): boolean;
}

/** What the binding exports. State is per environment: each worker thread has probes of its own. */
export interface Native {
  loadProbe(name: string, ringBytes: number): NativeFailure | null;
  closeProbe(name: string): boolean;
  readCounters(name: string, into: BigUint64Array): number;
  drain(name: string, into: Uint8Array): number;
  probeMemory(name: string): number;
  probeCost(name: string): readonly [nanoseconds: number, runs: number];
  /** 0, or a positive errno */
  countRuns(on: boolean): number;
  crc32c(bytes: Uint8Array, seed: number): number;
  bootTimeOffsetUs(): number;
  /** 0, or a positive errno */
  notifyService(address: string, message: string): number;
  /** gives back what malloc has free and maps code anew where it is used; see native/memory/trim.h */
  trimMemory(): void;
  /** collects all garbage of the calling thread at once; takes some 20 ms */
  collectGarbage(): void;
  /** four numbers for each TCP socket that listens (port, queued, limit, drops), or one negative errno */
  listeners(): readonly number[];
  /** the table of connections (src/addon/connections.ts): through the iterator of a loaded probe, or sock_diag */
  readConnections(name: string, into: Uint8Array): readonly [keptOrNegativeErrno: number, seen: number];
  askConnections(into: Uint8Array): readonly [keptOrNegativeErrno: number, seen: number];
  /** threads that still hold one of these capabilities, or a negative errno */
  dropCapabilities(numbers: Uint32Array): number;
  /**
   * `kind` as src/addon/hash.ts numbers it; `key` has two words, which are copied; `stage` is a SharedArrayBuffer whole: a word for
   * the digest, one for the length (32 bits), then 256 bytes
   */
  openHash(kind: number, key: BigUint64Array, stage: Uint8Array<SharedArrayBuffer>): NativeHash;
  readonly HashStream: new (kind: number, key: BigUint64Array) => NativeHashStream;
  readonly crc32cImplementation: string;
  readonly Sampler: new (
    event: number,
    rate: number,
    byPeriod: boolean,
    pid: number,
    ringBytes: number,
  ) => NativeSampler;
  readonly ProcessRows: new (memory: Uint8Array<SharedArrayBuffer>) => NativeProcessRows;
  demangle(name: string): string;
}

/** The addon, or why there is none. */
export type NativeState =
  | { readonly ok: true; readonly native: Native; readonly path: string }
  | { readonly ok: false; readonly reason: string; readonly remedy: string };

const FUNCTIONS = [
  "loadProbe",
  "closeProbe",
  "readCounters",
  "drain",
  "probeMemory",
  "probeCost",
  "countRuns",
  "crc32c",
  "bootTimeOffsetUs",
  "notifyService",
  "trimMemory",
  "collectGarbage",
  "dropCapabilities",
  "listeners",
  "readConnections",
  "askConnections",
  "openHash",
  "ProcessRows",
  "Sampler",
  "demangle",
  "HashStream",
];

function isNative(loaded: unknown): loaded is Native {
  if (typeof loaded !== "object" || loaded === null) return false;
  const has = (name: string, type: string): boolean => typeof Reflect.get(loaded, name) === type;
  return FUNCTIONS.every((name) => has(name, "function")) && has("crc32cImplementation", "string");
}

/** The folder of package.json, above this file. */
function packageFolder(): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, "package.json")) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}

/** Loads the addon: the one built on this machine, else the prebuilt one, or the one at `path`. Never throws. */
export function loadNative(path?: string): NativeState {
  const root = packageFolder();
  const remedy = existsSync(join(root, "binding.gyp"))
    ? "install python3, make and g++, then run `npm run install` in Weir's folder"
    : "packages carry it for glibc on x64 and arm64; elsewhere install Weir from a clone (docs/install.md)";
  const places = [
    join(root, "build", "Release", "weir.node"),
    join(root, "prebuilds", `linux-${process.arch}`, "weir.node"),
  ];
  const found = path ?? places.find((place) => existsSync(place));
  if (found === undefined) return { ok: false, reason: "the native addon is not built", remedy };
  try {
    const loaded: unknown = createRequire(import.meta.url)(found);
    if (isNative(loaded)) return { ok: true, native: loaded, path: found };
    return {
      ok: false,
      reason: "the native addon is of another version",
      remedy,
    };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { ok: false, reason: `the native addon does not load: ${why}`, remedy };
  }
}
