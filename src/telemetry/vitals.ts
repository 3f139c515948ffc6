/** How this process is doing: loop lag, garbage collection, memory and CPU of each process. Watching costs next to nothing. */
import { readdirSync, readFileSync } from "node:fs";
import { constants, type EventLoopUtilization, PerformanceObserver, performance } from "node:perf_hooks";
import { Histogram } from "../core/histogram.ts";

/** A delay histogram of a millisecond's resolution costs a tenth of a core; a timer that fires so rarely costs nothing. */
const LOOK_MS = 500;
/** Looks that the largest delay and the load are of: 10 s, whoever reads them and however often. */
const LOOKS = 20;
/** The memory of processes is read again after so long. */
const FRESH_MS = 2_000;

/** Memory and CPU of one process. */
export interface ProcessFigures {
  readonly name: string;
  readonly pid: number;
  readonly pssBytes: number;
  readonly cpuSeconds: number;
}

const KINDS: Readonly<Record<number, string>> = {
  [constants.NODE_PERFORMANCE_GC_MINOR]: "minor",
  [constants.NODE_PERFORMANCE_GC_MAJOR]: "major",
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL]: "incremental",
  [constants.NODE_PERFORMANCE_GC_WEAKCB]: "weakcb",
};

/** Watches the main thread. */
export class Vitals {
  /** pauses in seconds, by kind */
  readonly gc: Map<string, Histogram> = new Map();
  #timer: NodeJS.Timeout | undefined;
  #observer: PerformanceObserver | undefined;
  #dueMs = 0;
  readonly #delaysMs: number[] = [];
  readonly #loads: EventLoopUtilization[] = [];
  /** PSS by pid */
  readonly #memory = new Map<number, number>();
  #memoryMs = Number.NEGATIVE_INFINITY;

  start(): void {
    this.#loads.push(performance.eventLoopUtilization());
    this.#dueMs = performance.now() + LOOK_MS;
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
    this.#timer.unref();
    this.#observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const kind = KINDS[Number(Reflect.get(Object(Reflect.get(entry, "detail")), "kind"))] ?? "other";
        const pauses = this.gc.get(kind) ?? new Histogram();
        this.gc.set(kind, pauses);
        pauses.observe(entry.duration / 1000);
      }
    });
    this.#observer.observe({ entryTypes: ["gc"] });
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#observer?.disconnect();
  }

  /** The largest delay of the loop in the latest 10 s, in seconds. */
  get lag(): number {
    return Math.max(0, ...this.#delaysMs) / 1000;
  }

  /** The part of the latest 10 s that the loop was busy. */
  get busy(): number {
    return performance.eventLoopUtilization(performance.eventLoopUtilization(), this.#loads[0]).utilization;
  }

  /** Figures of processes, by name; those that are gone are left out. Memory is read again after {@link FRESH_MS}: it walks page tables. */
  processes(pids: ReadonlyMap<string, number>): readonly ProcessFigures[] {
    const now = performance.now();
    if (now - this.#memoryMs >= FRESH_MS) {
      this.#memoryMs = now;
      this.#memory.clear();
    }
    return [...pids].flatMap(([name, pid]) => {
      const pssBytes = this.#memory.get(pid) ?? pssOf(pid);
      if (pssBytes === undefined) return [];
      this.#memory.set(pid, pssBytes);
      return [{ name, pid, pssBytes, cpuSeconds: cpuOf(pid) }];
    });
  }

  #look(): void {
    const now = performance.now();
    this.#delaysMs.push(Math.max(0, now - this.#dueMs));
    this.#loads.push(performance.eventLoopUtilization());
    if (this.#delaysMs.length > LOOKS) this.#delaysMs.shift();
    if (this.#loads.length > LOOKS) this.#loads.shift();
    this.#dueMs = now + LOOK_MS;
  }
}

/** Open descriptors of this process. */
export const openDescriptors = (): number => readdirSync("/proc/self/fd").length;

function pssOf(pid: number): number | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
    return Number(/^Pss:\s+(\d+)/m.exec(text)?.[1] ?? 0) * 1024;
  } catch {
    // It has ended, or belongs to another user: then its resident size has to do.
    return residentOf(pid);
  }
}

function residentOf(pid: number): number | undefined {
  try {
    return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    return undefined;
  }
}

/** USER_HZ is 100 on every Linux that Node runs on. */
function cpuOf(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / 100;
  } catch {
    return 0;
  }
}
