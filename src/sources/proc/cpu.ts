/** /proc/stat, /proc/loadavg and /proc/uptime (proc(5)). */
import { count, decimal, lines, words } from "./numbers.ts";

/** Modes of a processor, by their place in /proc/stat, with OpenTelemetry's names (`cpu.mode`). */
export const CPU_MODES = [
  "user",
  "nice",
  "system",
  "idle",
  "iowait",
  "interrupt",
  "softirq",
  "steal",
] as const;

/** What /proc/stat says. */
export interface Stat {
  /** ticks of 10 ms since boot by mode, over all processors, in the order of {@link CPU_MODES} */
  readonly ticks: readonly number[];
  readonly processors: number;
  readonly created: number | undefined;
  readonly running: number | undefined;
  readonly blocked: number | undefined;
}

/** Undefined when the line `cpu` is not there or not readable. */
export function parseStat(text: string): Stat | undefined {
  let ticks: number[] | undefined;
  let processors = 0;
  const single = new Map<string, number | undefined>();
  for (const line of lines(text)) {
    const [name = "", ...rest] = words(line);
    if (name === "cpu") {
      // Old kernels have fewer modes: those are 0.
      const values = CPU_MODES.map((_, i) => (rest[i] === undefined ? 0 : count(rest[i])));
      if (rest.length >= 4 && values.every((value) => value !== undefined)) ticks = values;
    } else if (/^cpu\d+$/.test(name)) processors += 1;
    else if (rest.length === 1) single.set(name, count(rest[0]));
  }
  if (ticks === undefined) return undefined;
  return {
    ticks,
    processors,
    created: single.get("processes"),
    running: single.get("procs_running"),
    blocked: single.get("procs_blocked"),
  };
}

/**
 * The part of the time between two readings that was spent in each mode, 0 to 1; undefined when no time has passed. A
 * counter that went back (the kernel's iowait does) counts as 0.
 */
export function utilization(before: Stat, after: Stat): readonly number[] | undefined {
  const spent = after.ticks.map((ticks, i) => Math.max(0, ticks - (before.ticks[i] ?? 0)));
  const total = spent.reduce((sum, ticks) => sum + ticks, 0);
  return total === 0 ? undefined : spent.map((ticks) => ticks / total);
}

/** Load averages over 1, 5 and 15 minutes, and the number of threads; undefined when not readable. */
export function parseLoadavg(
  text: string,
): { readonly load: readonly [number, number, number]; readonly threads: number | undefined } | undefined {
  const [one, five, fifteen, entities] = words(text);
  const [a, b, c] = [decimal(one), decimal(five), decimal(fifteen)];
  if (a === undefined || b === undefined || c === undefined) return undefined;
  return { load: [a, b, c], threads: count(entities?.split("/")[1]) };
}

/** Seconds since boot, or undefined. */
export const parseUptime = (text: string): number | undefined => decimal(words(text)[0]);
