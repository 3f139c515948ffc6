/** What one instance of a plugin may take, and who says so. */
import type { SomeLimits } from "./manifest.ts";

/** What one instance of a plugin may take. The names carry their units. */
export interface PluginLimits {
  /** each of its wasm memories */
  readonly memoryMiB: number;
  /** one call, from when the plugin could begin with it */
  readonly timeMs: number;
  /** rows of one result */
  readonly outputRows: number;
  /** the frame of one result */
  readonly outputBytes: number;
  /** all kept entries with their scopes and keys */
  readonly stateBytes: number;
  readonly logPerMin: number;
  readonly effectsPerBatch: number;
}

/** What holds where neither the manifest nor weir.yaml says otherwise. */
export const DEFAULT_LIMITS: PluginLimits = {
  memoryMiB: 64,
  timeMs: 250,
  outputRows: 65_536,
  outputBytes: 4_194_304,
  stateBytes: 1_048_576,
  logPerMin: 60,
  effectsPerBatch: 100,
};

/** The first value that is given for each limit, the defaults last. */
export function mergeLimits(...given: readonly SomeLimits[]): PluginLimits {
  const pick = (name: keyof PluginLimits): number =>
    given.map((limits) => limits[name]).find((value) => value !== undefined) ?? DEFAULT_LIMITS[name];
  return {
    memoryMiB: pick("memoryMiB"),
    timeMs: pick("timeMs"),
    outputRows: pick("outputRows"),
    outputBytes: pick("outputBytes"),
    stateBytes: pick("stateBytes"),
    logPerMin: pick("logPerMin"),
    effectsPerBatch: pick("effectsPerBatch"),
  };
}
