/** What the kernel says of a process and everything below it. */
import { readdirSync, readFileSync } from "node:fs";

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    // It has ended meanwhile.
    return [];
  }
}

/** The process and its descendants. */
export function family(pid: number): number[] {
  const children = threadsOf(pid)
    .flatMap((thread) => read(`/proc/${pid}/task/${thread}/children`).split(" "))
    .filter((child) => child !== "")
    .map(Number);
  return [pid, ...children.flatMap(family)];
}

/** User and system CPU seconds so far, of all of them. USER_HZ is 100 on every Linux that Node runs on. */
export function cpuSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const fields = read(`/proc/${pid}/stat`).split(") ")[1]?.split(" ") ?? [];
    return sum + (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / 100;
  }, 0);
}

/** A memory figure in MiB, of all of them: `Pss` counts shared pages by share, `Rss` in full. */
export function memoryMiB(pids: readonly number[], field: "Pss" | "Rss"): number {
  return pids.reduce((sum, pid) => {
    const kib = new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(read(`/proc/${pid}/smaps_rollup`))?.[1];
    return sum + Number(kib ?? 0) / 1024;
  }, 0);
}
