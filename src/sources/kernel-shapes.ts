/** What makes rows of each probe; and those of probes whose histograms mean something of their own: block I/O by disk, software interrupts by vector, counters. */
import { BUCKETS, type Counters, type ProbeName, SLOT_WORDS } from "../addon/index.ts";
import { untilNul } from "../core/c-string.ts";
import { Kind, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import { metricName } from "../core/labels.ts";
import { HistogramRows } from "./kernel-rows.ts";
import { SlotRows } from "./kernel-slots.ts";

const GATEWAY = "_gateway";
/** enum of include/linux/interrupt.h, the same since 2.6.37 */
const VECTORS = [
  "hi",
  "timer",
  "net_tx",
  "net_rx",
  "block",
  "irq_poll",
  "tasklet",
  "sched",
  "hrtimer",
  "rcu",
];

/** Remembers totals and gives what they grew by. */
class Growth {
  readonly #before = new Map<string, number>();

  since(key: string, total: number): number {
    const before = this.#before.get(key) ?? 0;
    this.#before.set(key, total);
    return total >= before ? total - before : total;
  }
}

/** `system.disk.request.duration` (s) and `system.disk.request.size` (By), histograms by `system.device`. */
export class BlockRows {
  readonly #growth = new Growth();

  add(into: FrameBuilder, { buckets, slots }: Counters, timeUs: number): void {
    const device = into.device(GATEWAY);
    for (let place = 0; place * 2 < buckets.length; place++) {
      const at = place * SLOT_WORDS;
      if (slots[at] === 0n) continue;
      const bytes = Buffer.from(BigUint64Array.from(slots.subarray(at + 1, at + 3)).buffer);
      const name = untilNul(bytes) || "_other";
      for (const [part, metric, unit, scale] of [
        [0, "system.disk.request.duration", "s", 1e9],
        [1, "system.disk.request.size", "By", 1],
      ] as const) {
        let count = 0;
        const label = (suffix: string, le = ""): string =>
          metricName(`${metric}${suffix}`, { "system.device": name, le });
        for (let bucket = 0; bucket < BUCKETS; bucket++) {
          const key = label("", String(2 ** bucket / scale));
          const by = this.#growth.since(key, Number(buckets[place * 2 + part]?.[bucket] ?? 0n));
          count += by;
          if (by > 0) into.add(device, into.metric(key, "1"), timeUs, Kind.integer, Status.good, by);
        }
        const sum = this.#growth.since(label(".sum"), Number(slots[at + 4 + part] ?? 0n)) / scale;
        if (count === 0) continue;
        into.add(device, into.metric(label(".count"), "1"), timeUs, Kind.integer, Status.good, count);
        into.add(device, into.metric(label(".sum"), unit), timeUs, Kind.number, Status.good, sum);
      }
    }
  }
}

/**
 * `system.softirq.time` (s) and `system.softirq.count`, by `vector`: what the interval added. A CPU that has many doesn't time
 * each of them (native/bpf/softirq.bpf.c): the time of those that were stands for all of their vector.
 */
export class SoftirqRows {
  readonly #growth = new Growth();

  add(into: FrameBuilder, { buckets }: Counters, timeUs: number): void {
    const device = into.device(GATEWAY);
    const words = buckets[0];
    for (const [i, vector] of VECTORS.entries()) {
      const count = this.#growth.since(`${vector}.count`, Number(words?.[i] ?? 0n));
      const seconds = this.#growth.since(vector, Number(words?.[16 + i] ?? 0n)) / 1e9;
      const timed = this.#growth.since(`${vector}.timed`, Number(words?.[32 + i] ?? 0n));
      if (count === 0) continue;
      const metric = (name: string, unit: string): number => into.metric(metricName(name, { vector }), unit);
      into.add(device, metric("system.softirq.count", "{run}"), timeUs, Kind.integer, Status.good, count);
      if (timed === 0) continue;
      const time = (seconds / timed) * count;
      into.add(device, metric("system.softirq.time", "s"), timeUs, Kind.number, Status.good, time);
    }
  }
}

/** What `counters` and `hardware` hold, by place (native/bpf/probes.c). */
const EVENTS = {
  counters: [["system.cpu.migrations", "{migration}"]],
  hardware: [
    ["hw.cpu.instructions", "{instruction}"],
    ["hw.cpu.cycles", "{cycle}"],
    ["hw.cpu.cache.references", "{reference}"],
    ["hw.cpu.cache.misses", "{miss}"],
  ],
} as const;

/** The kernel's own counters over all CPUs: what the interval added. */
export class EventRows {
  readonly #growth = new Growth();
  readonly #events: (typeof EVENTS)[keyof typeof EVENTS];

  constructor(probe: keyof typeof EVENTS) {
    this.#events = EVENTS[probe];
  }

  add(into: FrameBuilder, { buckets }: Counters, timeUs: number): void {
    const device = into.device(GATEWAY);
    for (const [place, [metric, unit]] of this.#events.entries()) {
      const by = this.#growth.since(metric, Number(buckets[0]?.[place] ?? 0n));
      if (by > 0) into.add(device, into.metric(metric, unit), timeUs, Kind.integer, Status.good, by);
    }
  }
}

/** The metrics of each probe's histograms, in the order of its counters. */
const METRICS: Readonly<Partial<Record<ProbeName, readonly string[]>>> = {
  sched: ["system.cpu.run_queue.latency"],
  tcp: ["tcp.connect.duration", "tcp.rtt"],
  sockcalls: ["connect", "accept", "send", "receive"].map((call) =>
    metricName("socket.call.duration", { call }),
  ),
  dns: ["dns.lookup.duration"],
};

/** Turns what a probe has counted since the last time into rows. */
export interface Rows {
  /** see {@link SlotRows.worn} */
  readonly worn?: boolean;
  add(into: FrameBuilder, counters: Counters, timeUs: number): void;
}

/** What makes rows of a probe. Each remembers what it has counted: one set for each run of it. */
export function rowsOf(name: ProbeName): readonly Rows[] {
  const histograms = (METRICS[name] ?? []).map((metric, place) => new HistogramRows(place, metric));
  if (name === "block") return [new BlockRows(), new SlotRows(name)];
  if (name === "softirq") return [new SoftirqRows()];
  if (name === "counters" || name === "hardware") return [new EventRows(name)];
  return [...histograms, new SlotRows(name)];
}
