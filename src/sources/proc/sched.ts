/** /proc/schedstat (Documentation/scheduler/sched-stats.rst) and /proc/softirqs (proc(5)). */
import { count, lines, words } from "./numbers.ts";

/** What threads waited for a processor since boot, over all processors. */
export interface RunQueue {
  readonly waitNs: number;
  /** turns on a processor */
  readonly turns: number;
}

/** Undefined when no line of a processor is readable: versions 10 (2.6.0) to 17 have these two at the same place. */
export function parseSchedstat(text: string): RunQueue | undefined {
  let found: { waitNs: number; turns: number } | undefined;
  for (const line of lines(text)) {
    const [name = "", ...fields] = words(line);
    const [waitNs, turns] = fields.slice(7, 9).map(Number);
    if (!/^cpu\d+$/.test(name) || waitNs === undefined || turns === undefined) continue;
    if (!(waitNs >= 0 && turns >= 0)) continue;
    found = { waitNs: (found?.waitNs ?? 0) + waitNs, turns: (found?.turns ?? 0) + turns };
  }
  return found;
}

/** Runs of software interrupts since boot over all processors, by vector in lower case (`net_rx`). */
export function parseSoftirqs(text: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  for (const line of lines(text)) {
    const [name = "", ...fields] = words(line);
    if (!/^[A-Z_]{2,16}:$/.test(name)) continue;
    const runs = fields.map(count);
    if (runs.length > 0 && runs.every((value) => value !== undefined))
      found.set(
        name.slice(0, -1).toLowerCase(),
        runs.reduce((sum, value) => sum + value, 0),
      );
  }
  return found;
}
