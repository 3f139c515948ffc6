import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type Frame, validate } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { parseLoadavg, parseStat, parseUptime, utilization } from "../../src/sources/proc/cpu.ts";
import { parseDiskstats, parseMounts } from "../../src/sources/proc/disk.ts";
import { parseMeminfo, parsePressure, parseVmstat } from "../../src/sources/proc/memory.ts";
import { parseNetDev } from "../../src/sources/proc/network.ts";
import { SystemRows } from "../../src/sources/system-rows.ts";

const captured = (name: string): string =>
  readFileSync(new URL(`../fixtures/payloads/proc/${name}`, import.meta.url), "utf8");

function rows(add: (rows: SystemRows) => void): Map<string, number> {
  const builder = new FrameBuilder();
  add(new SystemRows(builder, 1_000_000));
  const frame: Frame = builder.build();
  validate(frame);
  const entries = Array.from(frame.value, (value, row): [string, number] => {
    const metric = frame.metric[row] ?? -1;
    return [`${frame.metrics[metric]} [${frame.units[metric]}]`, value];
  });
  return new Map(entries);
}

it("listening ports are told once they have a queue or have dropped something, and netstat by its names", () => {
  const netstat =
    "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 4 9\nIpExt: ListenDrops\nIpExt: 1\n";
  const found = rows((into) => {
    into.addNetstat(netstat);
    into.addListeners([
      { port: 22, queued: 0, limit: 128, drops: 0 },
      { port: 1883, queued: 3, limit: 128, drops: 7 },
    ]);
  });
  expect([...found]).toEqual([
    ["tcp.listen.overflows [{connection}]", 4],
    ["tcp.listen.drops [{segment}]", 9],
    ["tcp.listen.queue.length;network.local.port=1883 [{connection}]", 3],
    ["tcp.listen.queue.limit;network.local.port=1883 [{connection}]", 128],
    ["tcp.listen.queue.drops;network.local.port=1883 [{segment}]", 7],
  ]);
});

describe("captured files", () => {
  it("/proc/stat: ticks by mode, processors and processes", () => {
    expect(parseStat(captured("stat"))).toMatchObject({
      ticks: [176645, 0, 49250, 959276, 2272, 0, 1101, 79],
      processors: 4,
    });
  });

  it("utilisation is each mode's part of the time between two readings", () => {
    const [before, after] = [parseStat("cpu 100 0 0 900 0 0 0 0"), parseStat("cpu 130 0 20 950 0 0 0 0")];
    if (before === undefined || after === undefined) throw new Error("not read");
    expect(utilization(before, after)).toEqual([0.3, 0, 0.2, 0.5, 0, 0, 0, 0]);
    expect(utilization(after, after)).toBeUndefined();
  });

  it("/proc/meminfo: states add up to the limit", () => {
    const found = rows((into) => into.addMeminfo(captured("meminfo")));
    const states = ["used", "free", "buffers", "cached"].map(
      (state) => found.get(`system.memory.usage;system.memory.state=${state} [By]`) ?? 0,
    );
    expect(states.reduce((sum, bytes) => sum + bytes)).toBe(found.get("system.memory.limit [By]"));
    expect(found.get("system.memory.limit [By]")).toBe(24683668 * 1024);
  });

  it("/proc/diskstats: disks that are used, in bytes and seconds", () => {
    const found = rows((into) => into.addDiskstats(captured("diskstats"), new Set(["vda", "zram0"])));
    expect(found.get("system.disk.io;disk.io.direction=read;system.device=vda [By]")).toBe(9648986 * 512);
    expect(found.get("system.disk.io_time;system.device=vda [s]")).toBe(34.632);
    expect([...found.keys()].filter((name) => name.includes("zram0"))).toEqual([]);
  });

  it("/proc/net/dev: interfaces that are used, without the loopback", () => {
    const found = rows((into) => into.addNetDev(captured("net-dev")));
    expect(found.get("system.network.io;network.interface.name=eth0;network.io.direction=receive [By]")).toBe(
      814132355,
    );
    expect(
      found.get(
        "system.network.packet.count;network.interface.name=eth0;network.io.direction=transmit [{packet}]",
      ),
    ).toBe(12326);
    expect(found.size).toBe(8);
  });

  it("/proc/pressure: parts of the time", () => {
    expect(parsePressure(captured("pressure-cpu")).map(({ stall }) => stall)).toEqual(["some", "full"]);
  });

  it("/proc/vmstat: counters", () => {
    const found = rows((into) => into.addVmstat(captured("vmstat")));
    for (const type of ["minor", "major"])
      expect(found.has(`system.paging.faults;system.paging.fault.type=${type} [{fault}]`)).toBe(true);
  });

  it("mounts: local disks once each, never a network's", () => {
    expect(parseMounts(captured("mounts"))).toEqual([
      { device: "/dev/mmcblk0p2", mountpoint: "/" },
      { device: "/dev/mmcblk0p1", mountpoint: "/boot/firmware" },
      { device: "/dev/sda1", mountpoint: "/mnt/usb stick" },
    ]);
  });

  it("temperatures are in degrees", () => {
    expect(rows((into) => into.addThermal("0", "cpu-thermal\n", "48312\n"))).toEqual(
      new Map([["hw.temperature;hw.id=0;hw.name=cpu-thermal [Cel]", 48.312]]),
    );
  });
});

describe("content that no kernel wrote", () => {
  const files = ["stat", "meminfo", "vmstat", "diskstats", "net-dev", "pressure-cpu", "mounts"].map(captured);
  const hostile = [
    "",
    "\n\n\n",
    "cpu",
    "cpu 1 2 3 -4",
    "cpu 99999999999999999999 0 0 0",
    "\0".repeat(1000),
    "MemTotal: 9007199254740991 kB\nMemFree: NaN kB\nSwapTotal: 5 kB\nSwapFree: 9 kB",
    "some avg10=Infinity avg60 total==\nfull avg10=1.00 total=99999999999999999999",
    "8 0 sd;a=b 1 1 1 1 1 1 1 1 1 1\n8 0 sda -1 1 1 1 1 1 1 1 1 1",
    `${"x".repeat(5000)}: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16`,
    "1e999 0.5 . 1/2/3",
    "a\n".repeat(200_000),
    ...files.map((text) => text.slice(0, Math.floor(text.length / 2))),
    ...files.map((text) => text.replaceAll(/\d/g, "9")),
  ];

  it("gives fewer rows, never a bad one or an exception", () => {
    for (const text of [...files, ...hostile]) {
      for (const parse of [
        parseStat,
        parseLoadavg,
        parseUptime,
        parseMeminfo,
        parseVmstat,
        parsePressure,
        parseDiskstats,
        parseMounts,
        parseNetDev,
      ])
        parse(text);
      rows((into) => {
        into.addStat(text, parseStat("cpu 1 1 1 1"));
        into.addLoadavg(text);
        into.addUptime(text);
        into.addMeminfo(text);
        into.addVmstat(text);
        into.addPressure("cpu", text);
        into.addDiskstats(text, new Set(["sda", "sd;a=b", "vda"]));
        into.addNetDev(text);
        into.addNetstat(text);
        into.addThermal("0", text, text);
        into.addFilesystem({
          device: text,
          mountpoint: text,
          used: 1,
          free: 1,
          reserved: 0,
          inodesUsed: 0,
          inodesFree: 0,
        });
      });
    }
  });

  it("a label can't add another", () => {
    const found = rows((into) => into.addDiskstats("8 0 sd;a=b 1 1 1 1 1 1 1 1 1 1", new Set(["sd;a=b"])));
    expect([...found.keys()]).toContain("system.disk.io_time;system.device=sd%3Ba%3Db [s]");
  });
});
