/** What stands in for each probe, over files as the kernel writes them, each alone. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { PROBES, type ProbeName } from "../../src/addon/index.ts";
import { validate } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { type Fallback, openFallback } from "../../src/sources/kernel-fallbacks.ts";

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "weir-fallback-"));
  for (const folder of ["proc", "sys"]) mkdirSync(join(root, folder));
});
afterEach(() => rmSync(root, { recursive: true }));

/** Writes files below the root, by path. */
function put(files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
}

const open = (name: ProbeName): Fallback | undefined =>
  openFallback(name, { proc: join(root, "proc"), sys: join(root, "sys") });

function rows(fallback: Fallback | undefined): Record<string, string> {
  const builder = new FrameBuilder();
  fallback?.add(builder, 1_000_000);
  if (builder.rows === 0) return {};
  const frame = builder.build();
  validate(frame);
  return Object.fromEntries(
    Array.from(frame.value, (value, row) => {
      const metric = frame.metric[row] ?? -1;
      return [frame.metrics[metric], `${value} ${frame.units[metric]}`];
    }),
  );
}

/** What a fallback makes of two readings: nothing of what was counted before it began. */
function between(
  name: ProbeName,
  before: Readonly<Record<string, string>>,
  after: Readonly<Record<string, string>>,
): Record<string, string> {
  put(before);
  const fallback = open(name);
  expect(rows(fallback)).toEqual({});
  put(after);
  return rows(fallback);
}

test("sched: waits and turns of /proc/schedstat, over all processors", () => {
  const text = (waited: number, turns: number): string =>
    `version 17\ntimestamp 4295\ncpu0 0 0 0 0 0 0 900 ${waited} ${turns}\ndomain0 3 0 0\ncpu1 0 0 0 0 0 0 900 1000000 5\n`;
  expect(
    between("sched", { "proc/schedstat": text(5e9, 10) }, { "proc/schedstat": text(5.5e9, 30) }),
  ).toEqual({ "system.cpu.run_queue.latency.count": "20 1", "system.cpu.run_queue.latency.sum": "0.5 s" });
});

test("softirq: runs by vector", () => {
  const text = (runs: number): string =>
    `          CPU0   CPU1\n HI:  0  0\n NET_RX:  ${runs}  7\n RCU:  4  4\n`;
  expect(between("softirq", { "proc/softirqs": text(100) }, { "proc/softirqs": text(110) })).toEqual({
    "system.softirq.count;vector=net_rx": "10 {run}",
  });
});

test("block: requests, their time and bytes, by disk and not by partition", () => {
  const text = (reads: number, writes: number): string =>
    `   8 0 sda ${reads} 0 ${reads * 8} ${reads * 2} ${writes} 0 ${writes * 8} ${writes * 3} 0 50 60 0 0 0 0 0 0\n` +
    `   8 1 sda1 ${reads} 0 80 20 5 0 40 10 0 50 60 0 0 0 0 0 0\n`;
  put({ "sys/block/sda/size": "1", "sys/block/loop0/size": "1" });
  const of = (name: string): string => `system.disk.request.${name};system.device=sda`;
  expect(between("block", { "proc/diskstats": text(100, 10) }, { "proc/diskstats": text(110, 20) })).toEqual({
    [of("duration.count")]: "20 1",
    [of("duration.sum")]: "0.05 s",
    [of("size.count")]: "20 1",
    [of("size.sum")]: "81920 By",
  });
});

test("tcploss: segments sent again, and resets sent", () => {
  const text = (again: number, resets: number): string =>
    `Tcp: RtoAlgorithm MaxConn RetransSegs OutRsts InCsumErrors\nTcp: 1 -1 ${again} ${resets} 0\n`;
  expect(between("tcploss", { "proc/net/snmp": text(5, 6) }, { "proc/net/snmp": text(9, 7) })).toEqual({
    "tcp.retransmits": "4 {segment}",
    "tcp.resets;network.io.direction=transmit": "1 {segment}",
  });
});

test("drops: the reasons that have a counter, IPv4 and IPv6 together", () => {
  const files = (n: number): Record<string, string> => ({
    "proc/net/snmp": `Ip: InHdrErrors OutNoRoutes\nIp: ${n} 0\nTcp: InCsumErrors\nTcp: 0\nUdp: NoPorts RcvbufErrors InCsumErrors\nUdp: ${n} 1 0\n`,
    "proc/net/snmp6": `Udp6NoPorts          \t${n}\nUdp6RcvbufErrors \t4\n`,
    "proc/net/netstat": `TcpExt: TCPBacklogDrop\nTcpExt: ${2 * n}\n`,
    "proc/net/softnet_stat": `00ff 0000000${n} 00000002\n00ff 00000001 00000002\n`,
  });
  expect(between("drops", files(1), files(4))).toEqual({
    "system.linux.packet.dropped;reason=no_socket": "6 {packet}",
    "system.linux.packet.dropped;reason=socket_backlog": "6 {packet}",
    "system.linux.packet.dropped;reason=ip_inhdr": "3 {packet}",
    "system.linux.packet.dropped;reason=cpu_backlog": "3 {packet}",
  });
});

test("exec: processes that a reading finds new or gone, by name", () => {
  const old = { "proc/1/comm": "init\n", "proc/20/comm": "worker\n" };
  put(old);
  const fallback = open("exec");
  put({ "proc/30/comm": "sh\n", "proc/31/comm": "sh\n", "proc/self/comm": "sh\n" });
  rmSync(join(root, "proc/20"), { recursive: true });
  expect(rows(fallback)).toEqual({
    "process.starts;process.executable.name=sh": "2 {process}",
    "process.exits;process.executable.name=worker": "1 {process}",
  });
  expect(rows(fallback)).toEqual({});
});

test("oom: kills without a name", () => {
  const text = (kills: number): string => `pgfault 4\noom_kill ${kills}\n`;
  expect(between("oom", { "proc/vmstat": text(1) }, { "proc/vmstat": text(3) })).toEqual({
    "process.oom_kills;process.executable.name=_other": "2 {process}",
  });
});

test("fserror: errors by device; one that is mounted later brings its old ones along uncounted", () => {
  put({ "sys/fs/ext4/features/lazy": "supported", "sys/fs/ext4/sda1/errors_count": "3\n" });
  const fallback = open("fserror");
  put({ "sys/fs/ext4/sda1/errors_count": "5\n", "sys/fs/ext4/sdb1/errors_count": "7\n" });
  expect(rows(fallback)).toEqual({ "system.filesystem.errors;system.device=sda1": "2 {error}" });
  put({ "sys/fs/ext4/sdb1/errors_count": "8\n" });
  expect(rows(fallback)).toEqual({ "system.filesystem.errors;system.device=sdb1": "1 {error}" });
});

test("thermal: trip points that a zone has risen to", () => {
  const zone = "sys/class/thermal/thermal_zone0";
  const files = (temperature: number): Record<string, string> => ({
    [`${zone}/type`]: "cpu-thermal\n",
    [`${zone}/temp`]: `${temperature}\n`,
    [`${zone}/trip_point_0_temp`]: "70000\n",
    [`${zone}/trip_point_1_temp`]: "80000\n",
  });
  expect(between("thermal", files(65_000), files(71_500))).toEqual({
    "hw.temperature.trips;hw.name=cpu-thermal;trip=0": "1 {trip}",
  });
  put(files(60_000));
  expect(rows(open("thermal"))).toEqual({});
});

test("counters: context switches", () => {
  const files = (n: number): Record<string, string> => ({
    "proc/stat": `cpu 1 2 3 4\nctxt ${n}\nprocesses 3\n`,
  });
  expect(between("counters", files(10), files(15))).toEqual({
    "system.cpu.context_switches": "5 {switch}",
  });
});

test("where the files are missing or hold something else there is no fallback, and one that is gone later is an error", () => {
  const withoutFiles = PROBES.filter((name) => open(name) !== undefined);
  // sock_diag is no file.
  expect(withoutFiles.filter((name) => name !== "tcp")).toEqual([]);
  put({
    "proc/schedstat": "version 15\ncpu0 nonsense\n",
    "proc/softirqs": "\u0000",
    "proc/vmstat": "oom_kill -1",
  });
  for (const name of ["sched", "softirq", "oom"] as const) expect(open(name)).toBeUndefined();
  put({ "proc/vmstat": "oom_kill 1\n" });
  const fallback = open("oom");
  rmSync(join(root, "proc/vmstat"));
  expect(() => rows(fallback)).toThrow("ENOENT");
});
