/** /proc/meminfo, /proc/vmstat and /proc/pressure/* (proc(5), Documentation/accounting/psi.rst). */
import { count, decimal, lines, words } from "./numbers.ts";

/** Sizes by their name in /proc/meminfo, in bytes. */
export function parseMeminfo(text: string): ReadonlyMap<string, number> {
  const sizes = new Map<string, number>();
  for (const line of lines(text)) {
    const [name = "", amount, unit] = words(line);
    const value = count(amount);
    if (!name.endsWith(":") || value === undefined) continue;
    const bytes = unit === "kB" ? value * 1024 : value;
    if (Number.isSafeInteger(bytes)) sizes.set(name.slice(0, -1), bytes);
  }
  return sizes;
}

/** Counters by their name in /proc/vmstat. */
export function parseVmstat(text: string): ReadonlyMap<string, number> {
  const counters = new Map<string, number>();
  for (const line of lines(text)) {
    const [name, amount, more] = words(line);
    const value = count(amount);
    if (name !== undefined && value !== undefined && more === undefined) counters.set(name, value);
  }
  return counters;
}

/** How long tasks have stalled for want of one resource. */
export interface Pressure {
  readonly stall: "some" | "full";
  /** part of the last 10 seconds, 0 to 1 */
  readonly tenSeconds: number;
  /** microseconds since boot */
  readonly totalUs: number;
}

/** The lines of a file of /proc/pressure that are readable. */
export function parsePressure(text: string): readonly Pressure[] {
  const found: Pressure[] = [];
  for (const line of lines(text)) {
    const [stall, ...rest] = words(line);
    const fields = new Map(rest.map((field) => [field.split("=")[0], field.split("=")[1]]));
    const percent = decimal(fields.get("avg10"));
    const totalUs = count(fields.get("total"));
    if ((stall === "some" || stall === "full") && percent !== undefined && totalUs !== undefined) {
      found.push({ stall, tenSeconds: percent / 100, totalUs });
    }
  }
  return found;
}
