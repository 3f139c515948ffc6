/**
 * The kernel as a source: each probe is loaded on its own, and one that can't be never takes another along.
 *
 * Counts are read once a second, for the ledger, and published every `intervalMs`. The ring of process events is drained
 * every 2 to 200 ms, depending on how much was in it; its rows go out with the next second, or earlier when they
 * fill a frame.
 *
 * A label keeps its place in the kernel's table for as long as the probe is loaded. Where new ones find none while many of
 * those that have one are gone, the probe is loaded anew, with a table that is empty.
 */
import { setImmediate } from "node:timers/promises";
import {
  dropProbeCapabilities,
  ON_DEMAND_PROBES,
  openProbe,
  PROBES,
  type Probe,
  type ProbeName,
} from "../addon/index.ts";
import { WeirError } from "../core/errors.ts";
import type { Frame } from "../core/frame.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import type { Ledger, StageCount } from "../core/ledger.ts";
import type { Intake, Source } from "../core/ports.ts";
import { ConnectionRows } from "./kernel-connections.ts";
import { CostMeter, type ProbeCost } from "./kernel-cost.ts";
import {
  EventRing,
  LARGEST_RING_BYTES,
  processesPerSecond,
  ringBytesFor,
  SMALLEST_RING_RECORDS,
} from "./kernel-events.ts";
import { Fallbacks } from "./kernel-fallbacks.ts";
import { ProcessEvents } from "./kernel-process.ts";
import { OpenEvents } from "./kernel-rows.ts";
import { type Rows, rowsOf } from "./kernel-shapes.ts";

/** What `weir probe ls` shows. */
export interface ProbeStatus {
  readonly name: ProbeName;
  readonly state: "on" | "unavailable" | "stopped";
  /** it runs when asked for (`weir probe on`); until when, in milliseconds of the Unix epoch, while it does */
  readonly onDemand?: boolean;
  readonly untilMs?: number;
  /** what is read in place of its programs */
  readonly fallback?: string;
  /** why it is unavailable or has a fallback, and what a person can do about it */
  readonly reason?: string;
  readonly remedy?: string;
  /** what the kernel charges for its maps and programs, while it is on */
  readonly memoryBytes?: number;
  /** what its programs take, where the kernel counts that */
  readonly cost?: ProbeCost | undefined;
}

/** How a {@link KernelSource} runs. */
export interface KernelSourceOptions {
  /** between two publications of the counts */
  readonly intervalMs: number;
  readonly ledger: Ledger;
  /** room in a ring of events at first; by default what this machine's rate of processes asks for, 64 KiB (1,023 events) or more */
  readonly ringBytes?: number;
  /** process events sent on in an interval, 200 by default; the others are `dropped`, and still in the counts by name */
  readonly eventBudget?: number;
  /** give up the capabilities to load probes once those that are always on are loaded; see {@link KernelSource.lockedDown} */
  readonly lockDown?: boolean;
  /** at least so long a probe keeps its table of labels, ten minutes by default; see {@link KernelSource} */
  readonly labelsMs?: number;
  /** where fallbacks look: /proc and /sys by default */
  readonly proc?: string;
  readonly sys?: string;
}

const SHORTEST_DRAIN_MS = 2;
/** A machine where nothing happens is not to be woken for it; 1,023 events in this time are 2,500 processes a second. */
const LONGEST_DRAIN_MS = 200;
const READ_MS = 1000;
const LABELS_MS = 600_000;
/** The longest time for which a probe can be asked for. */
const LONGEST_ON_DEMAND_MS = 3_600_000;
/** Records of a file that is opened: the event and two parts of its path. */
const RECORDS_OF_OPEN = 3;

interface Running {
  readonly probe: Probe;
  /** undefined where nothing is ever lost: counters of the kernel's own */
  readonly stage: StageCount | undefined;
  readonly rows: readonly Rows[];
  /** when it was loaded, by the monotonic clock */
  readonly sinceMs: number;
  readonly events: EventRing | undefined;
  /** the account before this run of the probe: a probe on demand has several */
  readonly since: {
    readonly in: number;
    readonly out: number;
    readonly lost: number;
    readonly dropped: number;
  };
  /** on demand: what ends it */
  readonly end: NodeJS.Timeout | undefined;
}

const TABLE = "connections";
const ON_DEMAND_TEXT = `no probe to turn on; there are ${ON_DEMAND_PROBES.join(", ")}`;

/** Source `kernel`. */
export class KernelSource implements Source {
  readonly name = "kernel";
  readonly #options: KernelSourceOptions;
  readonly #running = new Map<ProbeName, Running>();
  readonly #status = new Map<ProbeName, ProbeStatus>();
  readonly #counts = new FrameBuilder(256);
  readonly #readMs: number;
  readonly #mostEvents: number;
  readonly #costs = new CostMeter(() => this.#programs());
  readonly #table = new ConnectionRows();
  readonly #fallbacks: Fallbacks;
  #intake: Intake | undefined;
  #drainMs = LONGEST_DRAIN_MS;
  #drainTimer: NodeJS.Timeout | undefined;
  #readTimer: NodeJS.Timeout | undefined;
  #publishAt = 0;
  #ringBytes: number;
  #lock: { readonly problem: string | undefined } | undefined;

  constructor(options: KernelSourceOptions) {
    this.#options = options;
    this.#readMs = Math.min(READ_MS, options.intervalMs);
    this.#mostEvents = options.eventBudget ?? 200;
    this.#ringBytes = options.ringBytes ?? 0;
    this.#fallbacks = new Fallbacks({ proc: options.proc ?? "/proc", sys: options.sys ?? "/sys" });
  }

  /** Every probe's state, in a fixed order: those that are always on, then those on demand. */
  probes(): readonly ProbeStatus[] {
    return [
      ...PROBES.map(
        (name): ProbeStatus => ({
          ...(this.#status.get(name) ?? { name, state: "stopped" }),
          cost: this.#costs.of(name),
        }),
      ),
      ...ON_DEMAND_PROBES.map(
        (name): ProbeStatus => ({
          ...(this.#status.get(name) ?? { name, state: "stopped" }),
          cost: this.#costs.of(name),
          onDemand: true,
        }),
      ),
    ];
  }

  /** Undefined unless `lockDown` is wanted and was done; then why something of the capabilities is left, if it is. */
  get lockedDown(): { readonly problem: string | undefined } | undefined {
    return this.#lock;
  }

  /** Loads what can be loaded. Never throws: {@link probes} says what is off, and why. */
  async start(intake: Intake, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    signal.addEventListener("abort", () => void this.stop(), { once: true });
    this.#intake = intake;
    const { intervalMs, ringBytes, lockDown = false } = this.#options;
    // A process that starts and ends is two events.
    this.#ringBytes = ringBytes ?? ringBytesFor(2 * processesPerSecond());
    for (const name of PROBES) {
      this.#open(name, undefined);
      // A few milliseconds each: others of this thread have their turn.
      await setImmediate();
      if (signal.aborted) return;
    }
    if (lockDown) this.#lock = { problem: dropProbeCapabilities() };
    this.#publishAt = performance.now() + intervalMs;
    this.#readTimer = setInterval(() => this.#read(), this.#readMs);
    this.#drainLater();
    this.#costs.start();
  }

  /** Publishes what is left, and unloads the probes. */
  stop(): Promise<void> {
    clearTimeout(this.#drainTimer);
    clearInterval(this.#readTimer);
    this.#costs.stop();
    if (this.#intake !== undefined) {
      this.#publishAt = 0;
      this.#read();
    }
    this.#fallbacks.clear();
    for (const name of [...this.#running.keys(), TABLE] as const) this.#close(name);
    this.#intake = undefined;
    return Promise.resolve();
  }

  /**
   * Runs a probe of those on demand for `forMs`; one that runs already, from now.
   * @throws WeirError `probe.unavailable` when it can't run here, `cli.usage` for a name or time that can't be
   */
  turnOn(name: string, forMs: number): void {
    const probe = ON_DEMAND_PROBES.find((one) => one === name);
    if (probe === undefined) throw new WeirError("cli.usage", `${name}: ${ON_DEMAND_TEXT}`);
    if (!(forMs >= 1000 && forMs <= LONGEST_ON_DEMAND_MS))
      throw new WeirError("cli.usage", "--for takes a time from 1s to 1h");
    // The table of connections can be had without any capability.
    if (this.#lock !== undefined && probe !== TABLE)
      throw new WeirError(
        "probe.unavailable",
        `${name}: sources.kernel.lockDown gave up CAP_BPF and CAP_PERFMON; set it to false and restart the agent`,
      );
    this.#finish(probe);
    if (probe === TABLE) this.#openTable(forMs);
    else this.#open(probe, forMs);
    this.#costs.soon();
    const status = this.#status.get(probe);
    if (status?.state === "unavailable")
      throw new WeirError("probe.unavailable", `${name}: ${status.reason}; ${status.remedy}`);
  }

  /** Ends a probe of those on demand; nothing when it doesn't run. */
  turnOff(name: string): void {
    const probe = ON_DEMAND_PROBES.find((one) => one === name);
    if (probe === undefined) throw new WeirError("cli.usage", `${name}: ${ON_DEMAND_TEXT}`);
    this.#finish(probe);
  }

  #open(name: ProbeName, forMs: number | undefined): void {
    const result = openProbe(name, this.#ringBytes);
    if (!result.on) {
      const { reason, remedy } = result;
      const fallback = forMs === undefined ? this.#fallbacks.open(name) : undefined;
      this.#status.set(name, {
        name,
        state: "unavailable",
        ...(fallback === undefined ? {} : { fallback }),
        reason,
        remedy,
      });
      return;
    }
    const { probe, raw } = result;
    // What perf_event_open(2) would have to count once more, at a cost.
    if (name === "counters") this.#fallbacks.open(name);
    const timing = forMs === undefined ? {} : { untilMs: Date.now() + forMs };
    this.#status.set(name, {
      name,
      state: "on",
      memoryBytes: probe.memoryBytes,
      ...timing,
      ...(raw === undefined ? {} : { fallback: "raw_tp", ...raw }),
    });
    const stage = this.#stage(name);
    this.#running.set(name, {
      probe,
      stage,
      since: {
        in: stage?.in ?? 0,
        out: stage?.out ?? 0,
        lost: stage?.lost ?? 0,
        dropped: stage?.dropped ?? 0,
      },
      rows: rowsOf(name),
      sinceMs: performance.now(),
      events: this.#eventsOf(probe),
      end: forMs === undefined ? undefined : setTimeout(() => this.#finish(name), forMs),
    });
  }

  #openTable(forMs: number): void {
    const status = this.#table.open(forMs, () => this.#finish(TABLE));
    this.#status.set(TABLE, { name: TABLE, ...status });
    this.#readTable();
    this.#sendCounts();
  }

  #readTable(): void {
    const problem = this.#table.add(this.#counts, Date.now() * 1000);
    if (problem === undefined) return;
    this.#close(TABLE);
    this.#status.set(TABLE, { name: TABLE, state: "unavailable", ...problem });
  }

  /** What runs in the kernel now. */
  *#programs(): Generator<Probe> {
    for (const { probe } of this.#running.values()) yield probe;
    if (this.#table.probe !== undefined) yield this.#table.probe;
  }

  #eventsOf(probe: Probe): EventRing | undefined {
    const budget = this.#mostEvents;
    if (probe.name !== "exec" && probe.name !== "opens") return undefined;
    return probe.name === "exec"
      ? new EventRing(probe, new ProcessEvents(), budget)
      : new EventRing(probe, new OpenEvents(), budget * RECORDS_OF_OPEN);
  }

  /** Publishes what a probe on demand has counted, and ends it. */
  #finish(name: ProbeName): void {
    const running = this.#running.get(name);
    if (running !== undefined) {
      this.#count(running, true);
      this.#sendCounts();
    }
    this.#close(name);
  }

  #close(name: ProbeName): void {
    if (name === TABLE) {
      this.#table.close();
      this.#status.set(name, { name, state: "stopped" });
      this.#costs.forget(name);
    }
    const running = this.#running.get(name);
    if (running === undefined) return;
    clearTimeout(running.end);
    if (running.end !== undefined) this.#costs.forget(name);
    running.events?.flush(this.#send);
    running.probe.close();
    this.#running.delete(name);
    this.#status.set(name, { name, state: "stopped" });
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
      let records = 0;
      for (const running of this.#running.values()) records += this.#drain(running);
      // Twice as soon while a quarter of the smallest ring fills up, later again while next to nothing comes.
      if (records > SMALLEST_RING_RECORDS / 4) this.#drainMs = Math.max(SHORTEST_DRAIN_MS, this.#drainMs / 2);
      else if (records < SMALLEST_RING_RECORDS / 16)
        this.#drainMs = Math.min(LONGEST_DRAIN_MS, this.#drainMs * 2);
      this.#drainLater();
    }, this.#drainMs);
  }

  #drain({ events }: Running): number {
    return events?.drain(this.#send) ?? 0;
  }

  /** Reads every counter for the ledger, and publishes what is due. */
  #read(): void {
    const now = performance.now();
    // Half a reading early is on time: timers are never exact. After a stall, intervals that passed merge.
    const due = now >= this.#publishAt - this.#readMs / 2;
    if (due)
      this.#publishAt = Math.max(this.#publishAt, now - this.#options.intervalMs) + this.#options.intervalMs;
    for (const running of this.#running.values()) this.#count(running, due);
    if (due) {
      this.#fallbacks.add(this.#counts, Date.now() * 1000);
      this.#readTable();
      this.#renew(now);
    }
    for (const { events } of this.#running.values()) events?.flush(this.#send);
    this.#sendCounts();
  }

  /**
   * Loads anew those whose table of labels is worn, and `exec`, with a ring twice as large, when it lost events. What happens in
   * these few milliseconds isn't seen.
   */
  #renew(now: number): void {
    if (this.#lock !== undefined) return;
    const { labelsMs = LABELS_MS } = this.#options;
    for (const [name, running] of [...this.#running]) {
      if (running.end !== undefined) continue;
      const grows = name === "exec" && this.#ringBytes < LARGEST_RING_BYTES && running.probe.read().lost > 0n;
      const worn = now - running.sinceMs >= labelsMs && running.rows.some((rows) => rows.worn);
      if (!grows && !worn) continue;
      if (grows) this.#ringBytes = Math.max(4096, this.#ringBytes) * 2;
      this.#count(running, true);
      this.#close(name);
      this.#open(name, undefined);
    }
  }

  #count(running: Running, due: boolean): void {
    const { probe, stage, rows, events, since } = running;
    this.#drain(running);
    const counters = probe.read();
    if (stage !== undefined) {
      stage.lost = since.lost + Number(counters.lost);
      stage.in = since.in + Number(counters.produced);
      if (events !== undefined) stage.dropped = since.dropped + events.dropped;
      stage.out = events === undefined ? stage.in - stage.lost : since.out + events.drained - events.dropped;
    }
    if (!due) return;
    for (const one of rows) one.add(this.#counts, counters, Date.now() * 1000);
    events?.refill();
  }

  #sendCounts(): void {
    if (this.#counts.rows > 0) this.#send(this.#counts.build());
  }

  readonly #send = (frame: Frame): void => {
    this.#intake?.frame(this.name, frame);
  };
}
