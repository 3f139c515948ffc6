/**
 * A program that opens a file again and again, untraced, under the probe `opens`, and under bpftrace (where it is installed) which
 * prints a line for each or counts them: how much slower the program gets, and how many of its opens were seen.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { openProbe, RECORD_BYTES } from "../../src/addon/index.ts";

const SOURCE = `
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6; }
int main(int count, char** values) {
  printf("%d\\n", getpid()); fflush(stdout); getchar();
  long opens = 0; const double start = now(), end = start + atof(values[1]);
  while (now() < end) for (int i = 0; i < 64; i++, opens++) close(open("/dev/null", O_RDONLY));
  printf("%ld %f\\n", opens, now() - start);
}`;
/** enum weir_event_kind of native/bpf/layout.h */
const OPEN = 3;
/** bpftrace was seen to hang: it is given this long to attach, and to print what is left. */
const PATIENCE_MS = 10_000;

/** One row: opens a second, and of all of them those that were seen. */
export interface OpensRow {
  readonly perSecond: number;
  readonly seen: number | undefined;
}

interface Load {
  readonly pid: number;
  /** opens for `ms`, then gives how many, and how many in a second */
  run(): Promise<{ readonly opens: number; readonly perSecond: number }>;
}

async function startLoad(folder: string, ms: number): Promise<Load> {
  const program = join(folder, "opens-load");
  writeFileSync(`${program}.c`, SOURCE);
  execFileSync("gcc", ["-O2", `${program}.c`, "-o", program], { stdio: "inherit" });
  const child = spawn(program, [String(ms)], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const next = async (): Promise<string> => String((await lines.next()).value ?? "");
  const pid = Number(await next());
  return {
    pid,
    async run() {
      child.stdin.write("\n");
      const [opens = 0, took = 1] = (await next()).split(" ").map(Number);
      return { opens, perSecond: (opens / took) * 1000 };
    },
  };
}

async function underProbe(load: Load, ringBytes: number): Promise<OpensRow> {
  const opened = openProbe("opens", ringBytes);
  if (!opened.on) throw new Error(`opens: ${opened.reason}`);
  const { probe } = opened;
  const into = new Uint8Array(ringBytes);
  const words = new Uint32Array(into.buffer);
  let seen = 0;
  const drain = (): void => {
    const end = (probe.drain(into) * RECORD_BYTES) / 4;
    for (let at = 0; at < end; at += RECORD_BYTES / 4)
      if (words[at + 6] === OPEN && words[at + 7] === load.pid) seen++;
  };
  const timer = setInterval(drain, 5);
  const { opens, perSecond } = await load.run();
  clearInterval(timer);
  drain();
  probe.close();
  return { perSecond, seen: seen / opens };
}

/** `what`: statements of bpftrace for each open; `seen` reads their number from what it printed. */
async function underBpftrace(
  load: Load,
  folder: string,
  what: string,
  seen: (output: string) => number,
): Promise<OpensRow> {
  const output = join(folder, "bpftrace.out");
  const file = openSync(output, "w");
  const program = `tracepoint:syscalls:sys_enter_openat /pid == ${load.pid}/ { ${what} }`;
  // It needs tracefs, which not every machine has mounted: in a mount namespace of its own.
  const script = 'mount -t tracefs tracefs /sys/kernel/tracing; exec bpftrace -B full -e "$1"';
  const child = spawn("unshare", ["-m", "sh", "-c", script, "sh", program], {
    detached: true,
    stdio: ["ignore", file, "ignore"],
  });
  closeSync(file);
  try {
    await until(child, () => readFileSync(output, "utf8").includes("Attaching"));
    await sleep(1000);
    const { opens, perSecond } = await load.run();
    signal(child, "SIGINT");
    await until(child, () => false);
    return { perSecond, seen: seen(readFileSync(output, "utf8")) / opens };
  } finally {
    signal(child, "SIGKILL");
    rmSync(output);
  }
}

/** Waits until `done`, the end of `child`, or {@link PATIENCE_MS}. */
async function until(child: ChildProcess, done: () => boolean): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (child.exitCode === null && child.signalCode === null && !done() && performance.now() < end)
    await sleep(50);
}

/** To the whole group: what it started goes, too. */
function signal(child: ChildProcess, name: NodeJS.Signals): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  process.kill(-child.pid, name);
}

/** Every way in turn, `ms` each. `folder` takes the programs that are built. */
export async function compareOpens(
  folder: string,
  ms: number,
  ringBytes: number,
): Promise<ReadonlyMap<string, OpensRow>> {
  const rows = new Map<string, OpensRow>();
  const untraced = await (await startLoad(folder, ms)).run();
  rows.set("untraced", { perSecond: untraced.perSecond, seen: undefined });
  rows.set("probe opens, each open with its path", await underProbe(await startLoad(folder, ms), ringBytes));
  if (spawnSync("bpftrace", ["--version"]).status !== 0) return rows;
  const lines = (output: string): number =>
    output.split("\n").filter((line) => /^\d+ \S+ /.test(line)).length;
  const ways = [
    ["bpftrace, a line for each", 'printf("%d %s %s\\n", pid, comm, str(args->filename));', lines],
    ["bpftrace, count()", "@ = count();", (output: string) => Number(/^@: (\d+)$/m.exec(output)?.[1] ?? 0)],
  ] as const;
  for (const [name, what, seen] of ways)
    rows.set(name, await underBpftrace(await startLoad(folder, ms), folder, what, seen));
  return rows;
}
