/**
 * What the probes that are always on cost those who do the work: traced against untraced, in alternating runs.
 *
 *     node bench/overhead.bench.ts [seconds a turn, default 1] [rounds, default 7]
 *
 * Three loads in a C++ program of their own (g++ builds it): two threads that wake each other over futexes on one CPU (nothing
 * but the scheduler), a byte to and fro over TCP on the loopback, and writes of 64 bytes to a file in memory. The probes are
 * held by this process. Then what each program takes in the kernel, by the kernel's own count (bpf_stats, which itself takes most of
 * what it shows of a short program: 62 ns of one that does nothing), and what all of them, reading and publishing take of a CPU
 * while nothing is asked of the machine.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { countRuns, openProbe, PROBES, type Probe } from "../src/addon/index.ts";
import { Ledger } from "../src/core/ledger.ts";
import { KernelSource } from "../src/sources/kernel.ts";

const turnMs = Number(process.argv[2] ?? 1) * 1000;
const rounds = Number(process.argv[3] ?? 7);
const folder = join(import.meta.dirname, "..", "build", "bench");
const program = join(folder, "overhead-loads");

const LOADS = `
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <algorithm>
#include <thread>
#include <vector>
static uint64_t now() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static void pin(int cpu) { cpu_set_t set; CPU_ZERO(&set); CPU_SET(cpu, &set); sched_setaffinity(0, sizeof(set), &set); }
static void sleep_on(int* at) { while (__atomic_exchange_n(at, 0, __ATOMIC_ACQUIRE) == 0) syscall(SYS_futex, at, FUTEX_WAIT, 0, 0, 0, 0); }
static void wake(int* at) { __atomic_store_n(at, 1, __ATOMIC_RELEASE); syscall(SYS_futex, at, FUTEX_WAKE, 1, 0, 0, 0); }
int main(int, char** argv) {
  const uint64_t end = now() + strtoull(argv[2], 0, 10) * 1000000ull;
  std::vector<uint32_t> took; took.reserve(1 << 23);
  auto run = [&](auto step) { for (uint64_t before = now(); before < end;) { step(); const uint64_t after = now();
    if (took.size() < (1 << 23)) took.push_back(after - before); before = after; } };
  if (!strcmp(argv[1], "sched")) {
    pin(0); static int a, b; static bool stop;
    std::thread other([] { for (;;) { sleep_on(&a); if (stop) return; wake(&b); } });
    run([&] { wake(&a); sleep_on(&b); });
    stop = true; wake(&a); other.join();
  } else if (!strcmp(argv[1], "tcp")) {
    int server = socket(AF_INET, SOCK_STREAM, 0); sockaddr_in at = {}; at.sin_family = AF_INET; at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bind(server, (sockaddr*)&at, sizeof(at)); listen(server, 1); socklen_t length = sizeof(at); getsockname(server, (sockaddr*)&at, &length);
    int one = 1, client = socket(AF_INET, SOCK_STREAM, 0); connect(client, (sockaddr*)&at, sizeof(at)); int peer = accept(server, 0, 0);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, 4); setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, 4);
    std::thread echo([=] { pin(1); char c; while (read(peer, &c, 1) == 1) if (write(peer, &c, 1) != 1) return; });
    pin(0); char c = 1; run([&] { if (write(client, &c, 1) != 1 || read(client, &c, 1) != 1) abort(); });
    shutdown(client, SHUT_RDWR); echo.join();
  } else {
    pin(0); int file = memfd_create("load", 0); char block[64] = {}; 
    run([&] { for (int i = 0; i < 16; i++) if (pwrite(file, block, 64, 0) != 64) abort(); });
  }
  std::sort(took.begin(), took.end());
  printf("%u %u %.0f\\n", took[took.size() / 2], took[took.size() * 99 / 100], took.size() * 1e3 / strtod(argv[2], 0));
}`;

interface Turn {
  readonly p50: number;
  readonly p99: number;
  readonly perSecond: number;
}

const KINDS = { sched: "scheduler ping-pong", tcp: "TCP ping-pong", write: "16 writes of 64 B" } as const;

function turn(kind: string): Turn {
  const [p50 = 0, p99 = 0, perSecond = 0] = execFileSync(program, [kind, String(turnMs)], {
    encoding: "utf8",
  })
    .split(" ")
    .map(Number);
  return { p50, p99, perSecond };
}

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;
/** Median over the rounds of traced / untraced, each pair taken one right after the other. */
const change = (pairs: readonly (readonly [Turn, Turn])[], of: keyof Turn): string => {
  const ratio = median(pairs.map(([without, with_]) => with_[of] / without[of]));
  return `${((ratio - 1) * 100).toFixed(1)} %`;
};

function openAll(): Probe[] {
  const probes = PROBES.flatMap((name) => {
    const result = openProbe(name);
    return result.on ? [result.probe] : [];
  });
  if (probes.length === 0) throw new Error("no probe can run here: weir check says why");
  return probes;
}

function traced(kind: string): Turn {
  const probes = openAll();
  const result = turn(kind);
  for (const probe of probes) probe.close();
  return result;
}

mkdirSync(folder, { recursive: true });
writeFileSync(`${program}.cc`, LOADS);
execFileSync("g++", ["-O2", "-std=c++20", "-pthread", `${program}.cc`, "-o", program], { stdio: "inherit" });

const table: Record<string, object> = {};
for (const [kind, about] of Object.entries(KINDS)) {
  const pairs: [Turn, Turn][] = [];
  turn(kind);
  for (let round = 0; round < rounds; round++) {
    // In turns which comes first: the machine drifts.
    if (round % 2 === 0) pairs.push([turn(kind), traced(kind)]);
    else {
      const first = traced(kind);
      pairs.push([turn(kind), first]);
    }
  }
  table[about] = {
    "untraced p50 ns": median(pairs.map(([without]) => without.p50)),
    "traced p50 ns": median(pairs.map(([, with_]) => with_.p50)),
    p50: change(pairs, "p50"),
    p99: change(pairs, "p99"),
    "per second": change(pairs, "perSecond"),
  };
}
console.log(
  `overhead: all probes that are always on against none; median of ${rounds} pairs of ${turnMs} ms`,
);
console.table(table);

/** Runs `load` with every probe on and counted by the kernel; gives what each has taken. */
async function counted(load: () => unknown): Promise<Map<string, { ns: number; runs: number }>> {
  const probes = openAll();
  if (!countRuns(true)) console.log("the kernel does not count runs for this user");
  await load();
  countRuns(false);
  const costs = new Map(probes.map((probe) => [probe.name, probe.cost()]));
  for (const probe of probes) probe.close();
  return costs;
}
const costs = await counted(() => Object.keys(KINDS).map(turn));
console.table(
  Object.fromEntries(
    [...costs]
      .filter(([, { runs }]) => runs > 0)
      .map(([name, { ns, runs }]) => [name, { runs, "ns a run": Math.round(ns / runs) }]),
  ),
);

// Nobody takes the rows: this is reading, and making rows, without storing and sending them.
const source = new KernelSource({ intervalMs: 10_000, ledger: new Ledger() });
const started = performance.now();
await source.start({ message() {}, frame: () => true }, new AbortController().signal);
console.log(`attached in ${(performance.now() - started).toFixed(0)} ms`);
const cpu = process.threadCpuUsage();
const from = performance.now();
await sleep(11_000);
const used = process.threadCpuUsage(cpu);
const seconds = (performance.now() - from) / 1000;
await source.stop();
const idleSeconds = 5;
const idle = [...(await counted(() => sleep(idleSeconds * 1000))).values()];
const runs = idle.reduce((sum, one) => sum + one.runs, 0) / idleSeconds;
const inKernel = idle.reduce((sum, one) => sum + one.ns, 0) / idleSeconds / 1e7;
const reading = ((used.user + used.system) / 1e4 / seconds).toFixed(2);
console.log(
  `idle, of a CPU: reading and publishing ${reading} %, programs ${inKernel.toFixed(2)} % (${runs.toFixed(0)} runs/s; the machine may have other work)`,
);
