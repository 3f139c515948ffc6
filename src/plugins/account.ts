/** What people are shown of plugins. */

import type { Binding } from "./binding.ts";
import type { PluginLimits } from "./limits.ts";
import type { LogLevel } from "./wire.ts";

/** Log lines kept of each plugin. */
const KEPT_LINES = 200;
/** Plugins of which lines are kept: as many as the folder may hold. */
const KEPT_NAMES = 1_000;

/** A plugin, for a person to look at. */
export interface PluginInfo {
  readonly name: string;
  readonly version: string | undefined;
  /** SHA-256 of the component */
  readonly hash: string | undefined;
  /** `resting`: it failed several times and is started again in a moment; `failed`: it passed vetting but could not be started; `disabled`: by weir.yaml or by `weir plugin disable` */
  readonly state: "on" | "resting" | "refused" | "failed" | "quarantined" | "disabled" | "off";
  /** why it isn't on, why it last failed, or why it isn't the version that was dropped */
  readonly reason: string | undefined;
  readonly order: number;
  /** threads that it runs on, its devices divided among them */
  readonly lanes: number;
  readonly exports: readonly string[];
  readonly binding: Binding;
  readonly limits: PluginLimits | undefined;
  /** what its manifest asks for, and what of that and beyond is granted, in words */
  readonly asks: readonly string[];
  readonly grants: readonly string[];
  readonly failures: number;
  readonly restarts: number;
  /** time that it had a call to answer, in milliseconds */
  readonly busyMs: number;
  /** bytes that it keeps */
  readonly stateBytes: number;
  /** its WebAssembly memories and the JavaScript heaps of its threads, in bytes, as of its latest calls */
  readonly wasmBytes: number;
  readonly heapBytes: number;
  /** versions that are kept, newest first; the running one is among them */
  readonly versions: readonly string[];
  /** it was rolled back */
  readonly pinned: boolean;
  /** it is on, but not as the folder and weir.yaml have it: `reason` says why */
  readonly behind: boolean;
}

/** A line that a plugin logged, or that was logged about it. */
export interface PluginLine {
  /** milliseconds since the Unix epoch */
  readonly ts: number;
  readonly level: LogLevel;
  readonly message: string;
}

/** The latest log lines of each plugin: 200 of each. */
export class PluginLines {
  readonly #lines = new Map<string, PluginLine[]>();

  add(name: string, level: LogLevel, message: string): void {
    const lines = this.#lines.get(name) ?? [];
    lines.push({ ts: Date.now(), level, message });
    if (lines.length > KEPT_LINES) lines.shift();
    this.#lines.set(name, lines);
    if (this.#lines.size <= KEPT_NAMES) return;
    const [oldest = name] = this.#lines.keys();
    this.#lines.delete(oldest);
  }

  /** Oldest first. */
  list(name: string): readonly PluginLine[] {
    return [...(this.#lines.get(name) ?? [])];
  }
}
