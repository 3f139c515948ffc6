/**
 * The kernel as a source: each probe is loaded on its own, and one that can't be never takes another along.
 *
 * Counts are read once a second, for the ledger, and published every `intervalMs`. The ring of process events is drained
 * every 2 to 50 ms, depending on how much was in it; its rows go out with the next second, or earlier when they
 * fill a chunk.
 */
import {
  bootTimeOffsetUs,
  type Counters,
  openProbe,
  PROBES,
  type Probe,
  type ProbeName,
  RECORD_BYTES,
} from "../addon/index.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import type { Ledger, StageCount } from "../core/ledger.ts";
import type { Intake, Source } from "../core/ports.ts";
import { addProcessEvents, HistogramRows, MOST_EVENT_ROWS } from "./kernel-rows.ts";
import { BlockRows, EventRows, SoftirqRows } from "./kernel-shapes.ts";
import { SlotRows } from "./kernel-slots.ts";

/** What `weir probe ls` shows. */
export interface ProbeStatus {
  readonly name: ProbeName;
  readonly state: "on" | "unavailable" | "stopped";
  /** why it is unavailable, and what a person can do about it */
  readonly reason?: string;
  readonly remedy?: string;
  /** what the kernel charges for its maps and programs, while it is on */
  readonly memoryBytes?: number;
}

/** How a {@link KernelSource} runs. */
export interface KernelSourceOptions {
  /** between two publications of the counts */
  readonly intervalMs: number;
  readonly ledger: Ledger;
  /** room in the ring of process events; 256 KiB hold 4,095 */
  readonly ringBytes?: number;
  /** process events sent on in an interval, 200 by default; the others are `dropped`, and still in the counts by name */
  readonly eventBudget?: number;
}

/** The metrics of each probe's histograms, in the order of its counters. */
const METRICS: Readonly<Partial<Record<ProbeName, readonly string[]>>> = {
  sched: ["system.cpu.run_queue.latency"],
  tcp: ["tcp.connect.duration", "tcp.rtt"],
};

const SHORTEST_DRAIN_MS = 2;
const LONGEST_DRAIN_MS = 50;
const READ_MS = 1000;
/** Rows of a chunk (DESIGN.md): events are published when they fill one. */
const CHUNK_ROWS = 2048;
/** Records copied in one call. A quarter of the ring, so that "full" also means: come back sooner. */
const DRAIN_RECORDS = 1024;

/** Turns what a probe has counted since the last time into rows. */
interface Rows {
  add(into: FrameBuilder, counters: Counters, timeUs: number): void;
}

function rowsOf(name: ProbeName): readonly Rows[] {
  const histograms = (METRICS[name] ?? []).map((metric, place) => new HistogramRows(place, metric));
  if (name === "block") return [new BlockRows(), new SlotRows(name)];
  if (name === "softirq") return [new SoftirqRows()];
  if (name === "counters" || name === "hardware") return [new EventRows(name)];
  return [...histograms, new SlotRows(name)];
}

interface Running {
  readonly probe: Probe;
  /** undefined where nothing is ever lost: counters of the kernel's own */
  readonly stage: StageCount | undefined;
  readonly rows: readonly Rows[];
}

/** Source `kernel`. */
export class KernelSource implements Source {
  readonly name = "kernel";
  readonly #options: KernelSourceOptions;
  readonly #running = new Map<ProbeName, Running>();
  readonly #status = new Map<ProbeName, ProbeStatus>();
  readonly #events = new FrameBuilder(CHUNK_ROWS);
  readonly #counts = new FrameBuilder(256);
  readonly #records = new Uint8Array(DRAIN_RECORDS * RECORD_BYTES);
  readonly #readMs: number;
  readonly #mostEvents: number;
  #intake: Intake | undefined;
  #drained = 0;
  #dropped = 0;
  #budget = 0;
  #drainMs = LONGEST_DRAIN_MS;
  #drainTimer: NodeJS.Timeout | undefined;
  #readTimer: NodeJS.Timeout | undefined;
  #publishAt = 0;

  constructor(options: KernelSourceOptions) {
    this.#options = options;
    this.#readMs = Math.min(READ_MS, options.intervalMs);
    this.#mostEvents = options.eventBudget ?? 200;
  }

  /** Every probe's state, in a fixed order. */
  probes(): readonly ProbeStatus[] {
    return PROBES.map((name) => this.#status.get(name) ?? { name, state: "stopped" });
  }

  /** Loads what can be loaded. Never throws: {@link probes} says what is off, and why. */
  start(intake: Intake, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    signal.addEventListener("abort", () => void this.stop(), { once: true });
    this.#intake = intake;
    this.#drained = this.#dropped = 0;
    this.#budget = this.#mostEvents;
    for (const name of PROBES) this.#open(name);
    if (this.#running.size === 0) return Promise.resolve();
    const { intervalMs } = this.#options;
    this.#publishAt = performance.now() + intervalMs;
    this.#readTimer = setInterval(() => this.#read(), this.#readMs);
    if (this.#running.has("exec")) this.#drainLater();
    return Promise.resolve();
  }

  /** Publishes what is left, and unloads the probes. */
  stop(): Promise<void> {
    clearTimeout(this.#drainTimer);
    clearInterval(this.#readTimer);
    if (this.#running.size > 0) {
      this.#publishAt = 0;
      this.#read();
    }
    for (const [name, { probe }] of this.#running) {
      probe.close();
      this.#status.set(name, { name, state: "stopped" });
    }
    this.#running.clear();
    this.#intake = undefined;
    return Promise.resolve();
  }

  #open(name: ProbeName): void {
    const result = openProbe(name, this.#options.ringBytes);
    if (!result.on) {
      this.#status.set(name, { name, state: "unavailable", reason: result.reason, remedy: result.remedy });
      return;
    }
    this.#status.set(name, { name, state: "on", memoryBytes: result.probe.memoryBytes });
    this.#running.set(name, { probe: result.probe, stage: this.#stage(name), rows: rowsOf(name) });
  }

  #stage(name: ProbeName): StageCount | undefined {
    if (name === "counters" || name === "hardware") return undefined;
    // Held: what is in the ring, produced and not yet drained.
    const stage: StageCount = this.#options.ledger.stage(
      "kernel",
      name,
      "events",
      () => stage.in - stage.out - stage.lost - stage.dropped,
    );
    return stage;
  }

  #drainLater(): void {
    this.#drainTimer = setTimeout(() => {
      const records = this.#drain();
      // Twice as soon while a quarter of the buffer fills up, later again while next to nothing comes.
      if (records > DRAIN_RECORDS / 4) this.#drainMs = Math.max(SHORTEST_DRAIN_MS, this.#drainMs / 2);
      else if (records < DRAIN_RECORDS / 16) this.#drainMs = Math.min(LONGEST_DRAIN_MS, this.#drainMs * 2);
      this.#drainLater();
    }, this.#drainMs);
  }

  /** Empties the ring, at most a few times its size, and returns how many records there were. */
  #drain(): number {
    const running = this.#running.get("exec");
    if (running === undefined) return 0;
    const offsetUs = bootTimeOffsetUs();
    let records = 0;
    for (let calls = 0; calls < 16; calls++) {
      const found = running.probe.drain(this.#records);
      const count = Math.min(found, this.#budget);
      records += found;
      this.#dropped += found - count;
      this.#budget -= count;
      for (let from = 0; from < count; ) {
        const room = Math.max(1, Math.floor((CHUNK_ROWS - this.#events.rows) / MOST_EVENT_ROWS));
        const part = Math.min(room, count - from);
        addProcessEvents(this.#events, this.#records.subarray(from * RECORD_BYTES), part, offsetUs);
        from += part;
        if (this.#events.rows > CHUNK_ROWS - MOST_EVENT_ROWS) this.#send(this.#events);
      }
      if (found < DRAIN_RECORDS) break;
    }
    this.#drained += records;
    return records;
  }

  /** Reads every counter for the ledger, and publishes what is due. */
  #read(): void {
    this.#drain();
    const now = performance.now();
    // Half a reading early is on time: timers are never exact. After a stall, intervals that passed merge.
    const due = now >= this.#publishAt - this.#readMs / 2;
    if (due) this.#budget = this.#mostEvents;
    if (due)
      this.#publishAt = Math.max(this.#publishAt, now - this.#options.intervalMs) + this.#options.intervalMs;
    const timeUs = Date.now() * 1000;
    for (const { probe, stage, rows } of this.#running.values()) {
      const counters = probe.read();
      if (stage !== undefined) {
        stage.lost = Number(counters.lost);
        stage.in = Number(counters.produced);
        if (probe.name === "exec") stage.dropped = this.#dropped;
        stage.out = probe.name === "exec" ? this.#drained - this.#dropped : stage.in - stage.lost;
      }
      if (due) for (const one of rows) one.add(this.#counts, counters, timeUs);
    }
    this.#send(this.#events);
    this.#send(this.#counts);
  }

  #send(rows: FrameBuilder): void {
    if (rows.rows > 0) this.#intake?.frame(this.name, rows.build());
  }
}
