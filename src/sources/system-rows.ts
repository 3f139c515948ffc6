/** What /proc and /sys say, as rows (docs/specs/system-metrics.md). */
import type { Listener } from "../addon/index.ts";
import { Kind, nameProblem, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import { metricName } from "../core/labels.ts";
import { CPU_MODES, parseLoadavg, parseStat, parseUptime, type Stat, utilization } from "./proc/cpu.ts";
import { type Mount, parseDiskstats } from "./proc/disk.ts";
import { parseMeminfo, parsePressure, parseVmstat } from "./proc/memory.ts";
import { parseNetDev, parseNetstat } from "./proc/network.ts";
import { decimal } from "./proc/numbers.ts";

/** The device that the gateway's own telemetry belongs to. */
const GATEWAY = "_gateway";
const MOST_DISKS = 32;
const MOST_LISTENERS = 64;

/** Space and inodes of a mounted file system, in bytes and inodes. */
export interface FilesystemUse extends Mount {
  readonly used: number;
  readonly free: number;
  readonly reserved: number;
  readonly inodesUsed: number;
  readonly inodesFree: number;
}

/** Adds rows of the gateway's device at one time. Each `add` method takes a file's text, and leaves out what is not readable. */
export class SystemRows {
  readonly #into: FrameBuilder;
  readonly #timeUs: number;

  constructor(into: FrameBuilder, timeUs: number) {
    this.#into = into;
    this.#timeUs = timeUs;
  }

  /** /proc/stat. Returns what to hand in as `before` the next time. */
  addStat(text: string, before: Stat | undefined): Stat | undefined {
    const stat = parseStat(text);
    if (stat === undefined) return before;
    const parts = before === undefined ? undefined : utilization(before, stat);
    for (const [i, mode] of CPU_MODES.entries()) {
      const labels = { "cpu.mode": mode };
      this.#number("system.cpu.time", "s", (stat.ticks[i] ?? 0) / 100, labels);
      if (parts !== undefined) this.#number("system.cpu.utilization", "1", ratio(parts[i] ?? 0), labels);
    }
    this.#integer("system.cpu.logical.count", "{cpu}", stat.processors);
    this.#integer("system.process.count", "{process}", stat.running, { "process.state": "running" });
    this.#integer("system.process.count", "{process}", stat.blocked, { "process.state": "blocked" });
    this.#integer("system.process.created", "{process}", stat.created);
    return stat;
  }

  /** /proc/loadavg */
  addLoadavg(text: string): void {
    const found = parseLoadavg(text);
    if (found === undefined) return;
    for (const [i, window] of ["1m", "5m", "15m"].entries()) {
      this.#number(`system.cpu.load_average.${window}`, "{thread}", found.load[i] ?? 0);
    }
    this.#integer("system.thread.count", "{thread}", found.threads);
  }

  /** /proc/uptime */
  addUptime(text: string): void {
    this.#number("system.uptime", "s", parseUptime(text));
  }

  /** /proc/meminfo */
  addMeminfo(text: string): void {
    const sizes = parseMeminfo(text);
    const [total, free, buffers, cached] = ["MemTotal", "MemFree", "Buffers", "Cached"].map((name) =>
      sizes.get(name),
    );
    this.#integer("system.memory.limit", "By", total);
    this.#integer("system.memory.linux.available", "By", sizes.get("MemAvailable"));
    if (total !== undefined && free !== undefined && buffers !== undefined && cached !== undefined) {
      const reclaimable = cached + (sizes.get("SReclaimable") ?? 0);
      const used = Math.max(0, total - free - buffers - reclaimable);
      const states = { used, free, buffers, cached: reclaimable };
      for (const [state, bytes] of Object.entries(states))
        this.#integer("system.memory.usage", "By", bytes, { "system.memory.state": state });
      if (total > 0)
        this.#number("system.memory.utilization", "1", ratio(used / total), {
          "system.memory.state": "used",
        });
    }
    const [swapTotal = 0, swapFree = 0] = [sizes.get("SwapTotal"), sizes.get("SwapFree")];
    if (swapTotal === 0) return;
    this.#integer("system.paging.usage", "By", Math.max(0, swapTotal - swapFree), {
      "system.paging.state": "used",
    });
    this.#integer("system.paging.usage", "By", swapFree, { "system.paging.state": "free" });
  }

  /** /proc/vmstat */
  addVmstat(text: string): void {
    const counters = parseVmstat(text);
    this.#integer("system.paging.operations", "{operation}", counters.get("pswpin"), {
      "system.paging.direction": "in",
    });
    this.#integer("system.paging.operations", "{operation}", counters.get("pswpout"), {
      "system.paging.direction": "out",
    });
    const [faults, major] = [counters.get("pgfault"), counters.get("pgmajfault")];
    const minor = faults === undefined || major === undefined ? undefined : Math.max(0, faults - major);
    for (const [type, count] of Object.entries({ minor, major }))
      this.#integer("system.paging.faults", "{fault}", count, { "system.paging.fault.type": type });
    this.#integer("system.linux.oom_kills", "{process}", counters.get("oom_kill"));
  }

  /** A file of /proc/pressure */
  addPressure(resource: string, text: string): void {
    for (const { stall, tenSeconds, totalUs } of parsePressure(text)) {
      this.#integer("system.linux.pressure.time", "us", totalUs, { resource, stall });
      this.#number("system.linux.pressure.utilization", "1", ratio(tenSeconds), {
        resource,
        stall,
        window: "10s",
      });
    }
  }

  /** /proc/diskstats; of its devices, those in `disks` (the others are partitions). */
  addDiskstats(text: string, disks: ReadonlySet<string>): void {
    for (const stat of parseDiskstats(text)
      .filter(({ device }) => disks.has(device))
      .slice(0, MOST_DISKS)) {
      const { device } = stat;
      for (const direction of ["read", "write"] as const) {
        const labels = { "system.device": device, "disk.io.direction": direction };
        this.#integer(
          "system.disk.io",
          "By",
          direction === "read" ? stat.readBytes : stat.writeBytes,
          labels,
        );
        this.#integer(
          "system.disk.operations",
          "{operation}",
          direction === "read" ? stat.reads : stat.writes,
          labels,
        );
        this.#number(
          "system.disk.operation_time",
          "s",
          (direction === "read" ? stat.readMs : stat.writeMs) / 1000,
          labels,
        );
      }
      this.#number("system.disk.io_time", "s", stat.busyMs / 1000, { "system.device": device });
    }
  }

  /** /proc/net/dev */
  addNetDev(text: string): void {
    for (const { device, ...directions } of parseNetDev(text)) {
      for (const direction of ["receive", "transmit"] as const) {
        const { bytes, packets, errors, dropped } = directions[direction];
        const labels = { "network.interface.name": device, "network.io.direction": direction };
        this.#integer("system.network.io", "By", bytes, labels);
        this.#integer("system.network.packet.count", "{packet}", packets, labels);
        this.#integer("system.network.errors", "{error}", errors, labels);
        this.#integer("system.network.packet.dropped", "{packet}", dropped, labels);
      }
    }
  }

  /** /proc/net/netstat: connections that a full queue of a listening socket turned away, and segments dropped there for any reason */
  addNetstat(text: string): void {
    const counters = parseNetstat(text, "TcpExt");
    this.#integer("tcp.listen.overflows", "{connection}", counters.get("ListenOverflows"));
    this.#integer("tcp.listen.drops", "{segment}", counters.get("ListenDrops"));
  }

  /** Ports that listen: those whose queue is not empty, or that have dropped something. */
  addListeners(listeners: readonly Listener[]): void {
    const troubled = listeners.filter(({ queued, drops }) => queued > 0 || drops > 0);
    for (const { port, queued, limit, drops } of troubled.slice(0, MOST_LISTENERS)) {
      const labels = { "network.local.port": String(port) };
      this.#integer("tcp.listen.queue.length", "{connection}", queued, labels);
      this.#integer("tcp.listen.queue.limit", "{connection}", limit, labels);
      this.#integer("tcp.listen.queue.drops", "{segment}", drops, labels);
    }
  }

  addFilesystem(use: FilesystemUse): void {
    const { device, mountpoint, used, free, reserved } = use;
    const labels = { "system.device": device, "system.filesystem.mountpoint": mountpoint };
    for (const [state, bytes] of Object.entries({ used, free, reserved })) {
      this.#integer("system.filesystem.usage", "By", bytes, { ...labels, "system.filesystem.state": state });
    }
    // As df says it: what only root may use counts neither as used nor as free.
    if (used + free > 0)
      this.#number("system.filesystem.utilization", "1", ratio(used / (used + free)), labels);
    if (use.inodesUsed + use.inodesFree === 0) return;
    for (const [state, inodes] of Object.entries({ used: use.inodesUsed, free: use.inodesFree }))
      this.#integer("system.filesystem.inodes.usage", "{inode}", inodes, {
        ...labels,
        "system.filesystem.state": state,
      });
  }

  /** The type and temperature (thousandths of a degree Celsius) of /sys/class/thermal/<zone> */
  addThermal(zone: string, type: string, temperature: string): void {
    const celsius = decimal(temperature.trim());
    if (celsius !== undefined)
      this.#number("hw.temperature", "Cel", celsius / 1000, { "hw.id": zone, "hw.name": type.trim() });
  }

  #integer(
    name: string,
    unit: string,
    value: number | undefined,
    labels: Readonly<Record<string, string>> = {},
  ): void {
    if (Number.isSafeInteger(value)) this.#add(name, unit, Kind.integer, value, labels);
  }

  #number(
    name: string,
    unit: string,
    value: number | undefined,
    labels: Readonly<Record<string, string>> = {},
  ): void {
    if (Number.isFinite(value)) this.#add(name, unit, Kind.number, value, labels);
  }

  #add(
    name: string,
    unit: string,
    kind: Kind,
    value: number | undefined,
    labels: Readonly<Record<string, string>>,
  ): void {
    const metric = metricName(name, labels);
    // A mount point may be longer than a name.
    if (value === undefined || nameProblem(metric) !== undefined) return;
    const into = this.#into;
    into.add(into.device(GATEWAY), into.metric(metric, unit), this.#timeUs, kind, Status.good, value);
  }
}

/** Four decimals: more would only be noise to store. */
const ratio = (part: number): number => Math.round(part * 1e4) / 1e4;
