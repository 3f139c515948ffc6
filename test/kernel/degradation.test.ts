/** What the probes say on a machine that lacks something: each lack is made for a child process, on the real kernel. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PROBES, type ProbeName } from "../../src/addon/index.ts";
import { explain } from "../../src/addon/support.ts";
import { SlotRows } from "../../src/sources/kernel-slots.ts";
import { eventually } from "../helpers/eventually.ts";
import { bpfHoldings, changedAddon, missing, ownPort, PRESENT, slotRows } from "./helpers.ts";

const root = join(import.meta.dirname, "..", "..");
const lacking = missing !== "" ? missing : process.getuid?.() !== 0 ? "not root" : "";
const has = (program: string): boolean => spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;
/** The probes that are BPF programs. */
const PROGRAMS = PROBES.filter((name) => name !== "counters" && name !== "hardware");

/** What stands in for each probe where no program can be loaded; those that aren't here have nothing. */
const FALLBACKS: Readonly<Record<string, string>> = {
  ...(existsSync("/proc/schedstat") ? { sched: "/proc/schedstat" } : {}),
  softirq: "/proc/softirqs",
  block: "/proc/diskstats",
  tcp: "sock_diag",
  tcploss: "/proc/net/snmp",
  drops: "/proc/net",
  exec: "/proc/<pid>",
  oom: "/proc/vmstat",
  ...(existsSync("/sys/fs/ext4") ? { fserror: "/sys/fs/ext4" } : {}),
  ...(existsSync("/sys/class/thermal/thermal_zone0/temp") ? { thermal: "/sys/class/thermal" } : {}),
  counters: "/proc/stat",
};
/** Rows that come of them in any case, while a process starts and a connection is there. */
const STANDING_IN = [
  "system.softirq.count;vector=timer",
  "process.starts;process.executable.name=sleep",
  "tcp.peer.connection.rtt;network.connection.state=established;network.peer.address=127.0.0.1",
];

interface InChild {
  readonly on: boolean;
  readonly reason?: string;
  readonly remedy?: string;
  readonly fallback?: string;
}

/** What each probe answers in a child behind `wrap`, and what the sources make there: rows that begin as `wanted` say. */
function childBehind(
  wrap: readonly string[],
  wanted: readonly string[],
): {
  readonly probes: Readonly<Record<string, InChild>>;
  readonly missing: string[];
  readonly system: boolean;
} {
  const script = `
    import { spawn } from "node:child_process";
    import { connect, createServer } from "node:net";
    import { setTimeout as sleep } from "node:timers/promises";
    import { Ledger } from ${JSON.stringify(join(root, "src/core/ledger.ts"))};
    import { KernelSource } from ${JSON.stringify(join(root, "src/sources/kernel.ts"))};
    import { SystemSource } from ${JSON.stringify(join(root, "src/sources/system.ts"))};
    let missing = ${JSON.stringify(wanted)}, system = false;
    const signal = new AbortController().signal;
    const intake = {
      message() {},
      frame(source, { metrics }) {
        if (source === "system") system = true;
        else missing = missing.filter((start) => !metrics.some((metric) => metric.startsWith(start)));
        return true;
      },
    };
    const kernel = new KernelSource({ intervalMs: 100, ledger: new Ledger() });
    await kernel.start(intake, signal);
    await new SystemSource({ intervalMs: 100 }, () => {}).start(intake, signal);
    const server = createServer((socket) => socket.pipe(socket));
    server.listen(0, "127.0.0.1", () => connect(server.address().port, "127.0.0.1").write("x"));
    const sleeper = spawn("sleep", ["60"]);
    for (let i = 0; i < 200 && (!system || missing.length > 0); i++) await sleep(50);
    sleeper.kill();
    const probes = Object.fromEntries(
      kernel.probes().map(({ name, state, reason, remedy, fallback }) => [
        name,
        { on: state === "on", reason, remedy, fallback },
      ]),
    );
    console.log(JSON.stringify({ probes, missing, system }));
    process.exit();`;
  const [program = "", ...args] = [...wrap, process.execPath, "--input-type=module", "-e", script];
  const ran = spawnSync(program, args, { encoding: "utf8" });
  expect(ran.stderr).toBe("");
  return JSON.parse(ran.stdout);
}

const hidden = (folders: readonly string[]): string[] => [
  "unshare",
  "-m",
  "sh",
  "-c",
  `${folders.map((folder) => `[ ! -d ${folder} ] || mount -t tmpfs none ${folder}`).join(" && ")} && exec "$0" "$@"`,
];

describe.skipIf(lacking !== "")(
  `a machine that lacks something${lacking === "" ? "" : ` (skipped: ${lacking})`}`,
  () => {
    let folder = "";
    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), "weir-lacking-"));
    });
    afterAll(() => rmSync(folder, { recursive: true }));

    /** Of each program, why it is off and what stands in for it. */
    function expectOff(
      { probes, missing: absent, system }: ReturnType<typeof childBehind>,
      names: readonly string[],
      reason: RegExp,
      remedy: RegExp,
    ): void {
      for (const name of names) {
        expect(probes[name]).toMatchObject({
          on: false,
          reason: expect.stringMatching(reason),
          remedy: expect.stringMatching(remedy),
        });
        expect(`${name}: ${probes[name]?.fallback}`).toBe(`${name}: ${FALLBACKS[name]}`);
      }
      expect(absent).toEqual([]);
      expect(system).toBe(true);
    }

    test.skipIf(!has("unshare"))(
      "a container without tracefs, debugfs and BTF's file has every probe",
      () => {
        const folders = ["/sys/kernel/tracing", "/sys/kernel/debug", "/sys/kernel/btf"];
        const { probes } = childBehind(hidden(folders), []);
        for (const name of PRESENT) expect(probes[name]).toEqual({ on: true });
      },
    );

    test("what a kernel without BTF answers is told from a program that it refuses", () => {
      const failure = { errno: 22, step: "create the maps and load the programs", log: "", raw: false };
      expect(explain(failure, false)).toEqual({
        reason: expect.stringMatching(/^the kernel does not describe its types/),
        remedy: expect.stringMatching(/CONFIG_DEBUG_INFO_BTF/),
      });
      expect(explain(failure, true).reason).toMatch(/^EINVAL: could not create/);
    });

    test.skipIf(!has("setarch"))("a kernel before 5.17 is named, and /proc stands in", () => {
      // The kernel calls itself 2.6 to whoever asks for it.
      const found = childBehind(["setarch", "--uname-2.6"], STANDING_IN);
      expectOff(found, PROGRAMS, /^kernel 2\.6\.\S+ is older than 5\.17$/, /^upgrade the kernel$/);
      expect(found.probes["counters"]?.on).toBe(true);
    });

    test.skipIf(!has("setpriv"))("without capabilities they are named, and /proc stands in", () => {
      const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
      const found = childBehind(nobody, STANDING_IN);
      expectOff(found, PROGRAMS, /^CAP_BPF and CAP_PERFMON missing$/, /AmbientCapabilities=/);
      const counting = found.probes["counters"];
      // Whether anybody may count is kernel.perf_event_paranoid's to say.
      if (counting?.on === false) expect(counting.fallback).toBe(FALLBACKS["counters"]);
    });

    test("a tracepoint whose type the kernel doesn't know is taken as a raw one, which counts the same", async () => {
      const native = changedAddon(folder, "btf_trace_", "btf_nosuc_");
      const before = bpfHoldings();
      // Storage that goes with a socket is for typed programs alone.
      expect(native.loadProbe("tcp", 4096)).toMatchObject({ raw: false, errno: 2 });
      const raw = PROGRAMS.filter((name) => name !== "tcp");
      for (const name of raw) {
        const failure = native.loadProbe(name, 4096);
        expect(failure).toMatchObject({ raw: true, errno: 2 });
        expect(failure === null ? "" : explain(failure).reason).toBe(
          "ENOENT: could not create the maps and load the programs",
        );
      }
      const rows = new Map<ProbeName, SlotRows>(raw.map((name) => [name, new SlotRows(name)]));
      const sum = (name: ProbeName, pattern: RegExp): number => {
        const found = slotRows(native, name, rows.get(name) ?? new SlotRows(name));
        return found.reduce(
          (total, { metric, value }) => total + (pattern.test(metric) ? Number(value) : 0),
          0,
        );
      };
      const refused = "for i in 1 2 3; do echo > /dev/tcp/127.0.0.1/1; done; echo x > /dev/udp/127.0.0.1/9";
      expect(spawnSync("bash", ["-c", refused], { encoding: "utf8" }).status).not.toBe(null);
      const port = ownPort(0);
      const served = `require("node:net").createServer().listen(${port}, "127.0.0.1", () => process.exit())`;
      expect(spawnSync(process.execPath, ["-e", served]).status).toBe(0);
      expect(
        sum("tcploss", /^tcp\.resets;network\.io\.direction=receive.*address=127\.0\.0\.1/),
      ).toBeGreaterThanOrEqual(3);
      expect(sum("drops", /interface\.name=lo;reason=no_socket$/)).toBeGreaterThanOrEqual(1);
      const listening = new RegExp(`startup\\.count;network\\.local\\.port=${port};phase=listen`);
      expect(sum("coldstart", listening)).toBe(1);
      // Of many processes the largest rows come first, the others with the next.
      await eventually(() =>
        expect(sum("exec", /^process\.exits;.*process\.executable\.name=bash/)).toBeGreaterThanOrEqual(1),
      );
      expect(native.drain("exec", new Uint8Array(4096))).toBeGreaterThanOrEqual(4);
      // Produced of each.
      const words = new BigUint64Array(4096);
      await eventually(() => {
        for (const name of ["softirq", "sched"]) {
          native.readCounters(name, words);
          expect(words[0]).toBeGreaterThan(0n);
        }
      });
      for (const name of raw) native.closeProbe(name);
      expect(bpfHoldings()).toEqual(before);
    });

    // As under emulation (ENOSYS), and as a container's default profile answers (EPERM).
    for (const [answer, remedy] of [
      ["ENOSYS", /no bpf\(\) system call \(emulation/],
      ["EPERM", /allow the bpf\(\) system call/],
    ] as const) {
      test.skipIf(!has("g++"))(
        `where bpf() and perf_event_open() answer ${answer}, each probe says so, and /proc stands in`,
        () => {
          const source = join(folder, `${answer}.cc`);
          const wrap = join(folder, answer);
          writeFileSync(
            source,
            `#include <errno.h>
         #include <linux/filter.h>
         #include <linux/seccomp.h>
         #include <stddef.h>
         #include <sys/prctl.h>
         #include <sys/syscall.h>
         #include <unistd.h>
         int main(int, char** argv) {
           sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_bpf, 1, 0),
                                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_perf_event_open, 0, 1),
                                 BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ${answer}),
                                 BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
           sock_fprog program = {5, code};
           if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &program)) return 1;
           execv(argv[1], argv + 1);
           return 1;
         }`,
          );
          expect(spawnSync("g++", [source, "-o", wrap], { encoding: "utf8" }).stderr).toBe("");
          const found = childBehind([wrap], [...STANDING_IN, "system.cpu.context_switches"]);
          expectOff(found, PROGRAMS, new RegExp(`^${answer}: could not create the loader's map$`), remedy);
          const counters = new RegExp(`^${answer}: could not open the counters`);
          expectOff(found, ["counters", "hardware"], counters, /perf_event_open\(\)/);
        },
      );
    }

    test("a tracepoint that this kernel lacks takes one probe away and no other", () => {
      const native = changedAddon(folder, "ext4_error", "ext4_nosuc");
      const failure = native.loadProbe("fserror", 4096);
      if (failure === null) expect.fail("it was loaded");
      expect(explain(failure)).toEqual({
        reason: expect.stringMatching(/^E(?:SRCH|NOENT): could not /),
        remedy: "this kernel lacks a tracepoint that the probe needs: use a distribution's standard kernel",
      });
      expect(native.loadProbe("sched", 4096)).toBeNull();
      native.closeProbe("sched");
    });
  },
);
