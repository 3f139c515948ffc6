/**
 * What /proc and /sys (and sock_diag) say in place of a probe that can't run: less of it, under the same names where it is
 * the same thing. Beside `counters` it is read in any case: what the kernel counts anyway is not counted once more. Counters there count from boot; what they grew by in an interval is published, as a probe's counts are.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openConnections } from "../addon/connections.ts";
import type { ProbeName } from "../addon/index.ts";
import { Kind, nameProblem, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import { metricName } from "../core/labels.ts";
import { addRoundTrips } from "./kernel-connections.ts";
import { parseDiskstats } from "./proc/disk.ts";
import { parseVmstat } from "./proc/memory.ts";
import { parseNetstat, parseSnmp6, parseSoftnetDrops } from "./proc/network.ts";
import { count, decimal } from "./proc/numbers.ts";
import { parseSchedstat, parseSoftirqs } from "./proc/sched.ts";

const GATEWAY = "_gateway";
const MOST_DISKS = 32;
const MOST_ZONES = 64;
/** Trip points of a zone that are looked at. */
const MOST_TRIPS = 16;
/** Names of processes that started or ended in an interval. */
const MOST_NAMES = 64;
const MOST_PROCESSES = 32_768;

/** Where the files are: another root is for tests, or a container that has the host's mounted elsewhere. */
export interface Roots {
  readonly proc: string;
  readonly sys: string;
}

/** Stands in for one probe. */
export interface Fallback {
  /** what is read, as `weir probe ls` shows it */
  readonly from: string;
  /**
   * Adds the rows of what happened since the last call.
   * @throws Error when what it reads is gone
   */
  add(into: FrameBuilder, timeUs: number): void;
}

/** A counter since boot; `scale` divides, and makes it a kind `number`: nanoseconds become seconds. */
interface Total {
  readonly metric: string;
  readonly unit: string;
  readonly value: number | undefined;
  readonly scale: number | undefined;
}

type Read = (path: string) => string;

/** The counters of one probe's fallback; `read` takes a path below a root, and throws when there is no such file. */
interface Counting {
  readonly from: string;
  totals(proc: Read, roots: Roots): readonly Total[];
}

const total = (
  name: string,
  unit: string,
  value: number | undefined,
  labels: Readonly<Record<string, string>> = {},
  scale?: number,
): Total => ({ metric: metricName(name, labels), unit, value, scale });

const COUNTING: Readonly<Partial<Record<ProbeName, Counting>>> = {
  sched: {
    from: "/proc/schedstat",
    totals(proc) {
      const found = parseSchedstat(proc("schedstat"));
      return [
        total("system.cpu.run_queue.latency.count", "1", found?.turns),
        total("system.cpu.run_queue.latency.sum", "s", found?.waitNs, {}, 1e9),
      ];
    },
  },
  softirq: {
    from: "/proc/softirqs",
    totals: (proc) =>
      [...parseSoftirqs(proc("softirqs"))].map(([vector, runs]) =>
        total("system.softirq.count", "{run}", runs, { vector }),
      ),
  },
  block: {
    from: "/proc/diskstats",
    totals(proc, { sys }) {
      const disks = new Set(readdirSync(join(sys, "block")).filter((name) => !/^(?:loop|ram)\d/.test(name)));
      return parseDiskstats(proc("diskstats"))
        .filter(({ device }) => disks.has(device))
        .slice(0, MOST_DISKS)
        .flatMap(({ device, reads, writes, readMs, writeMs, readBytes, writeBytes }) => {
          const labels = { "system.device": device };
          return [
            total("system.disk.request.duration.count", "1", reads + writes, labels),
            total("system.disk.request.duration.sum", "s", readMs + writeMs, labels, 1000),
            total("system.disk.request.size.count", "1", reads + writes, labels),
            total("system.disk.request.size.sum", "By", readBytes + writeBytes, labels, 1),
          ];
        });
    },
  },
  tcploss: {
    from: "/proc/net/snmp",
    totals(proc) {
      const tcp = parseNetstat(proc("net/snmp"), "Tcp");
      return [
        total("tcp.retransmits", "{segment}", tcp.get("RetransSegs")),
        total("tcp.resets", "{segment}", tcp.get("OutRsts"), { "network.io.direction": "transmit" }),
      ];
    },
  },
  drops: {
    from: "/proc/net",
    // The reasons of `enum skb_drop_reason` that have a counter of their own.
    totals(proc) {
      const [snmp, snmp6] = [proc("net/snmp"), parseSnmp6(readOr(() => proc("net/snmp6")))];
      const [ip, tcp, udp] = ["Ip", "Tcp", "Udp"].map((group) => parseNetstat(snmp, group));
      const both = (name: string): number => (udp?.get(name) ?? 0) + (snmp6.get(`Udp6${name}`) ?? 0);
      return Object.entries({
        no_socket: both("NoPorts"),
        socket_rcvbuff: both("RcvbufErrors"),
        udp_csum: both("InCsumErrors"),
        tcp_csum: tcp?.get("InCsumErrors"),
        socket_backlog: parseNetstat(proc("net/netstat"), "TcpExt").get("TCPBacklogDrop"),
        ip_inhdr: ip?.get("InHdrErrors"),
        ip_outnoroutes: ip?.get("OutNoRoutes"),
        cpu_backlog: parseSoftnetDrops(proc("net/softnet_stat")),
      }).map(([reason, value]) => total("system.linux.packet.dropped", "{packet}", value, { reason }));
    },
  },
  oom: {
    from: "/proc/vmstat",
    totals: (proc) => [
      total("process.oom_kills", "{process}", parseVmstat(proc("vmstat")).get("oom_kill"), {
        "process.executable.name": "_other",
      }),
    ],
  },
  fserror: {
    from: "/sys/fs/ext4",
    totals(_, { sys }) {
      const folder = join(sys, "fs/ext4");
      return readdirSync(folder)
        .slice(0, MOST_DISKS)
        .map((device) => {
          const errors = readOr(() => readFileSync(join(folder, device, "errors_count"), "utf8"));
          return total("system.filesystem.errors", "{error}", count(errors.trim()), {
            "system.device": device,
          });
        });
    },
  },
  counters: {
    from: "/proc/stat",
    totals: (proc) => [
      total("system.cpu.context_switches", "{switch}", count(/^ctxt (\d+)$/m.exec(proc("stat"))?.[1])),
    ],
  },
};

/** Those that are in use. */
export class Fallbacks {
  readonly #roots: Roots;
  readonly #open = new Map<ProbeName, Fallback>();

  constructor(roots: Roots) {
    this.#roots = roots;
  }

  /** What is read from now on in place of a probe; undefined when nothing can be. */
  open(name: ProbeName): string | undefined {
    const fallback = openFallback(name, this.#roots);
    if (fallback !== undefined) this.#open.set(name, fallback);
    return fallback?.from;
  }

  /** Adds the rows of all of them. */
  add(into: FrameBuilder, timeUs: number): void {
    for (const fallback of this.#open.values()) {
      try {
        fallback.add(into, timeUs);
      } catch {
        // What it reads is gone for the moment, as a disk that is pulled out.
      }
    }
  }

  clear(): void {
    this.#open.clear();
  }
}

/** What stands in for a probe here; undefined when nothing can. */
export function openFallback(name: ProbeName, roots: Roots): Fallback | undefined {
  try {
    const counting = COUNTING[name];
    if (counting !== undefined) return new CounterFallback(counting, roots);
    if (name === "tcp") return roundTrips();
    if (name === "exec") return new ProcessFallback(roots);
    return name === "thermal" ? new TripFallback(roots) : undefined;
  } catch {
    // The file isn't there.
    return undefined;
  }
}

function readOr(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}

function add(
  into: FrameBuilder,
  timeUs: number,
  metric: string,
  unit: string,
  kind: Kind,
  value: number,
): void {
  if (nameProblem(metric) === undefined)
    into.add(into.device(GATEWAY), into.metric(metric, unit), timeUs, kind, Status.good, value);
}

class CounterFallback implements Fallback {
  readonly from: string;
  readonly #counting: Counting;
  readonly #roots: Roots;
  #before = new Map<string, number>();

  constructor(counting: Counting, roots: Roots) {
    this.from = counting.from;
    this.#counting = counting;
    this.#roots = roots;
    const totals = this.#read();
    if (totals.every(({ value }) => value === undefined)) throw new Error(`${this.from} says nothing`);
    for (const { metric, value } of totals) if (value !== undefined) this.#before.set(metric, value);
  }

  add(into: FrameBuilder, timeUs: number): void {
    const now = new Map<string, number>();
    for (const { metric, unit, value, scale } of this.#read()) {
      if (value === undefined) continue;
      now.set(metric, value);
      const before = this.#before.get(metric);
      // What is new here (a disk that was plugged in) may have counted before: the next interval has it.
      if (before === undefined) continue;
      const by = value >= before ? value - before : value;
      if (by > 0)
        add(into, timeUs, metric, unit, scale === undefined ? Kind.integer : Kind.number, by / (scale ?? 1));
    }
    this.#before = now;
  }

  #read(): readonly Total[] {
    const { proc } = this.#roots;
    return this.#counting.totals((path) => readFileSync(join(proc, path), "utf8"), this.#roots);
  }
}

/** Round-trip times as the sockets have smoothed them, of connections that are there when it is read. */
function roundTrips(): Fallback | undefined {
  const opened = openConnections({ iterator: false });
  if (!opened.on) return undefined;
  const { table } = opened;
  table.read();
  return {
    from: "sock_diag",
    add(into, timeUs) {
      addRoundTrips(into, table.read().connections, timeUs);
    },
  };
}

/** Processes that a reading found new or gone, by name; those that lived between two readings are not seen. */
class ProcessFallback implements Fallback {
  readonly from = "/proc/<pid>";
  readonly #proc: string;
  #names: ReadonlyMap<string, string>;

  constructor({ proc }: Roots) {
    this.#proc = proc;
    this.#names = this.#read(new Map());
    if (this.#names.size === 0) throw new Error("no processes");
  }

  add(into: FrameBuilder, timeUs: number): void {
    const before = this.#names;
    const now = this.#read(before);
    this.#names = now;
    const started = [...now].flatMap(([pid, name]) => (before.has(pid) ? [] : [name]));
    const ended = [...before].flatMap(([pid, name]) => (now.has(pid) ? [] : [name]));
    for (const [metric, names] of [
      ["process.starts", started],
      ["process.exits", ended],
    ] as const) {
      const counts = new Map<string, number>();
      for (const name of names) {
        const label = counts.size < MOST_NAMES || counts.has(name) ? name : "_other";
        counts.set(label, (counts.get(label) ?? 0) + 1);
      }
      for (const [name, processes] of counts) {
        const labelled = metricName(metric, { "process.executable.name": name });
        add(into, timeUs, labelled, "{process}", Kind.integer, processes);
      }
    }
  }

  #read(known: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
    const pids = readdirSync(this.#proc).filter((name) => /^\d+$/.test(name));
    return new Map(
      pids.slice(0, MOST_PROCESSES).map((pid) => {
        const name = known.get(pid) ?? readOr(() => readFileSync(join(this.#proc, pid, "comm"), "utf8"));
        return [pid, name.trim() || "_other"];
      }),
    );
  }
}

/** Trip points that a zone's temperature has risen to between two readings. */
class TripFallback implements Fallback {
  readonly from = "/sys/class/thermal";
  readonly #folder: string;
  #before: ReadonlyMap<string, number>;

  constructor({ sys }: Roots) {
    this.#folder = join(sys, "class/thermal");
    this.#before = this.#read();
    if (this.#before.size === 0) throw new Error("no thermal zones");
  }

  add(into: FrameBuilder, timeUs: number): void {
    const now = this.#read();
    for (const [zone, temperature] of now) {
      const before = this.#before.get(zone);
      if (before === undefined || before >= temperature) continue;
      const file = (name: string): string =>
        readOr(() => readFileSync(join(this.#folder, zone, name), "utf8"));
      for (let trip = 0; trip < MOST_TRIPS; trip++) {
        const at = decimal(file(`trip_point_${trip}_temp`).trim());
        if (at === undefined) break;
        if (before >= at || temperature < at) continue;
        const metric = metricName("hw.temperature.trips", {
          "hw.name": file("type").trim(),
          trip: String(trip),
        });
        add(into, timeUs, metric, "{trip}", Kind.integer, 1);
      }
    }
    this.#before = now;
  }

  /** thousandths of a degree Celsius by zone */
  #read(): ReadonlyMap<string, number> {
    const found = new Map<string, number>();
    const zones = readdirSync(this.#folder).filter((name) => name.startsWith("thermal_zone"));
    for (const zone of zones.slice(0, MOST_ZONES)) {
      const text = readOr(() => readFileSync(join(this.#folder, zone, "temp"), "utf8"));
      const temperature = decimal(text.trim());
      if (temperature !== undefined) found.set(zone, temperature);
    }
    return found;
  }
}
