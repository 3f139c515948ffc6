/** The source `system`: this machine's processors, memory, disks, networks and temperatures, from /proc and /sys. */
import { readdirSync, readFileSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { join } from "node:path";
import { tcpListeners } from "../addon/index.ts";
import { messageOf } from "../core/errors.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import type { Intake, Source } from "../core/ports.ts";
import { parseStat, type Stat } from "./proc/cpu.ts";
import { parseMounts } from "./proc/disk.ts";
import { type FilesystemUse, SystemRows } from "./system-rows.ts";

/** The first frame comes this soon, so that a newcomer sees something: utilisation needs two readings. */
const FIRST_MS = 1000;
const MOST_ZONES = 64;
const RESOURCES = ["cpu", "memory", "io"];

/** How often to read, and where: another root is for tests, or a container that has the host's mounted elsewhere. */
export interface SystemSourceOptions {
  readonly intervalMs: number;
  readonly proc?: string;
  readonly sys?: string;
}

/** Reads everything once an interval, on a schedule that does not drift. */
export class SystemSource implements Source {
  readonly name = "system";
  readonly #intervalMs: number;
  readonly #proc: string;
  readonly #sys: string;
  readonly #problem: (message: string) => void;
  readonly #told = new Set<string>();
  readonly #builder = new FrameBuilder(256);
  #stat: Stat | undefined;
  #timer: NodeJS.Timeout | undefined;
  #dueMs = 0;
  /** the latest round of file systems, until it has been sent */
  #filesystems: readonly FilesystemUse[] = [];
  #asking = false;
  #stopped = false;

  /** `problem` is told once of each file that can't be read; everything else goes on. */
  constructor(options: SystemSourceOptions, problem: (message: string) => void) {
    this.#intervalMs = options.intervalMs;
    this.#proc = options.proc ?? "/proc";
    this.#sys = options.sys ?? "/sys";
    this.#problem = problem;
  }

  async start(intake: Intake, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.#stat = this.#readProc("stat", parseStat);
    void this.#askFilesystems();
    this.#dueMs = performance.now() + Math.min(FIRST_MS, this.#intervalMs);
    this.#schedule(intake);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #schedule(intake: Intake): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#read(intake);
      const now = performance.now();
      // Rounds that were missed (a suspended machine) are not made up for.
      this.#dueMs += this.#intervalMs * Math.max(1, Math.ceil((now - this.#dueMs) / this.#intervalMs));
      this.#schedule(intake);
    }, this.#dueMs - performance.now());
  }

  #read(intake: Intake): void {
    const rows = new SystemRows(this.#builder, Date.now() * 1000);
    this.#stat = this.#readProc("stat", (text) => rows.addStat(text, this.#stat)) ?? this.#stat;
    this.#readProc("loadavg", (text) => rows.addLoadavg(text));
    this.#readProc("uptime", (text) => rows.addUptime(text));
    this.#readProc("meminfo", (text) => rows.addMeminfo(text));
    this.#readProc("vmstat", (text) => rows.addVmstat(text));
    for (const resource of RESOURCES)
      this.#readProc(`pressure/${resource}`, (text) => rows.addPressure(resource, text));
    const disks = new Set(this.#list("block").filter((name) => !/^(?:loop|ram)\d/.test(name)));
    this.#readProc("diskstats", (text) => rows.addDiskstats(text, disks));
    this.#readProc("net/dev", (text) => rows.addNetDev(text));
    this.#readProc("net/netstat", (text) => rows.addNetstat(text));
    if (this.#proc === "/proc") rows.addListeners(tcpListeners());
    const zones = this.#list("class/thermal").filter((name) => name.startsWith("thermal_zone"));
    for (const zone of zones.slice(0, MOST_ZONES)) {
      const path = join(this.#sys, "class/thermal", zone);
      const type = this.#readFile(join(path, "type"), (text) => text) ?? "";
      this.#readFile(join(path, "temp"), (text) =>
        rows.addThermal(zone.replace("thermal_zone", ""), type, text),
      );
    }
    // Once only: figures of a disk that no longer answers must not look fresh.
    for (const use of this.#filesystems) rows.addFilesystem(use);
    this.#filesystems = [];
    void this.#askFilesystems();
    if (this.#builder.rows > 0) intake.frame(this.name, this.#builder.build());
  }

  /** Asks about space in the thread pool, one round at a time: a disk that hangs holds up nothing else. */
  async #askFilesystems(): Promise<void> {
    if (this.#asking) return;
    this.#asking = true;
    const found: FilesystemUse[] = [];
    for (const mount of this.#readProc("self/mounts", parseMounts) ?? []) {
      try {
        const { bsize, blocks, bfree, bavail, files, ffree } = await statfs(mount.mountpoint);
        const [used, free, reserved] = [(blocks - bfree) * bsize, bavail * bsize, (bfree - bavail) * bsize];
        found.push({ ...mount, used, free, reserved, inodesUsed: files - ffree, inodesFree: ffree });
      } catch (thrown) {
        this.#tell(mount.mountpoint, thrown);
      }
    }
    this.#filesystems = found;
    this.#asking = false;
  }

  #list(folder: string): string[] {
    const path = join(this.#sys, folder);
    try {
      return readdirSync(path);
    } catch (thrown) {
      this.#tell(path, thrown);
      return [];
    }
  }

  #readProc<T>(name: string, use: (text: string) => T): T | undefined {
    return this.#readFile(join(this.#proc, name), use);
  }

  #readFile<T>(path: string, use: (text: string) => T): T | undefined {
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch (thrown) {
      this.#tell(path, thrown);
      return undefined;
    }
    return use(text);
  }

  #tell(path: string, thrown: unknown): void {
    // Paths come from the kernel's lists, which are bounded; mount points may come and go for ever.
    if (this.#told.has(path) || this.#told.size >= 256) return;
    this.#told.add(path);
    this.#problem(`${path} can't be read: ${messageOf(thrown)}`);
  }
}
