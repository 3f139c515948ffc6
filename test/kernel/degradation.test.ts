/** What the probes say on a machine that lacks something: each lack is made for a child process, on the real kernel. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { addonState, PROBES } from "../../src/addon/index.ts";
import { loadNative } from "../../src/addon/native.ts";
import { explain } from "../../src/addon/support.ts";
import { missing, PRESENT } from "./helpers.ts";

const root = join(import.meta.dirname, "..", "..");
const lacking = missing !== "" ? missing : process.getuid?.() !== 0 ? "not root" : "";
const has = (program: string): boolean => spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;
/** The probes that are BPF programs. */
const PROGRAMS = PROBES.filter((name) => name !== "counters" && name !== "hardware");

/** What each probe answers in a child behind `wrap`, and whether the sources still make rows there. */
function childBehind(wrap: readonly string[]): {
  readonly probes: Readonly<Record<string, { on: boolean; reason?: string; remedy?: string }>>;
  readonly system: boolean;
} {
  const script = `
    import { openProbe, PROBES } from ${JSON.stringify(join(root, "src/addon/index.ts"))};
    import { Ledger } from ${JSON.stringify(join(root, "src/core/ledger.ts"))};
    import { KernelSource } from ${JSON.stringify(join(root, "src/sources/kernel.ts"))};
    import { SystemSource } from ${JSON.stringify(join(root, "src/sources/system.ts"))};
    const probes = {};
    for (const name of PROBES) {
      const { on, reason, remedy, probe } = openProbe(name, 4096);
      probes[name] = { on, reason, remedy };
      probe?.close();
    }
    const signal = new AbortController().signal;
    const system = await new Promise((done) => {
      const intake = { message() {}, frame: (source) => (source === "system" && done(true), true) };
      new KernelSource({ intervalMs: 100, ledger: new Ledger() }).start(intake, signal);
      new SystemSource({ intervalMs: 100 }, () => {}).start(intake, signal);
    });
    console.log(JSON.stringify({ probes, system }));
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

    test.skipIf(!has("unshare"))("without BTF the programs say so, counters and /proc go on", () => {
      const { probes, system } = childBehind(hidden(["/sys/kernel/btf"]));
      for (const name of PROGRAMS) {
        expect(probes[name]?.reason).toBe(
          "the kernel does not describe its types (no /sys/kernel/btf/vmlinux)",
        );
        expect(probes[name]?.remedy).toContain("CONFIG_DEBUG_INFO_BTF");
      }
      expect(probes["counters"]?.on).toBe(true);
      expect(system).toBe(true);
    });

    test.skipIf(!has("unshare"))("a container without tracefs and debugfs has every probe", () => {
      const { probes } = childBehind(hidden(["/sys/kernel/tracing", "/sys/kernel/debug"]));
      for (const name of PRESENT) expect(probes[name]).toEqual({ on: true });
    });

    test.skipIf(!has("setarch"))("a kernel before 5.17 is named, counters and /proc go on", () => {
      // The kernel calls itself 2.6 to whoever asks for it.
      const { probes, system } = childBehind(["setarch", "--uname-2.6"]);
      for (const name of PROGRAMS) {
        expect(probes[name]?.reason).toMatch(/^kernel 2\.6\.\S+ is older than 5\.17$/);
        expect(probes[name]?.remedy).toBe("upgrade the kernel");
      }
      expect(probes["counters"]?.on).toBe(true);
      expect(system).toBe(true);
    });

    // As under emulation (ENOSYS), and as a container's default profile answers (EPERM).
    for (const [answer, remedy] of [
      ["ENOSYS", /no bpf\(\) system call \(emulation/],
      ["EPERM", /allow the bpf\(\) system call/],
    ] as const) {
      test.skipIf(!has("g++"))(
        `where bpf() and perf_event_open() answer ${answer}, each probe says so, /proc goes on`,
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
          const { probes, system } = childBehind([wrap]);
          for (const name of PROGRAMS) {
            expect(probes[name]?.reason).toBe(`${answer}: could not create the loader's map`);
            expect(probes[name]?.remedy).toMatch(remedy);
          }
          for (const name of ["counters", "hardware"]) {
            expect(probes[name]?.reason).toMatch(new RegExp(`^${answer}: could not open the counters`));
            expect(probes[name]?.remedy).toContain("perf_event_open()");
          }
          expect(system).toBe(true);
        },
      );
    }

    test("a tracepoint that this kernel lacks takes one probe away and no other", () => {
      const addon = addonState();
      if (!addon.ok) expect.fail(addon.reason);
      // The addon with the name of one tracepoint changed: the kernel refuses it as it refuses a real one that is missing.
      const bytes = readFileSync(addon.path);
      for (let at = bytes.indexOf("ext4_error"); at >= 0; at = bytes.indexOf("ext4_error", at + 1))
        bytes.write("ext4_nosuc", at);
      const changed = join(folder, "weir.node");
      writeFileSync(changed, bytes);
      const loaded = loadNative(changed);
      if (!loaded.ok) expect.fail(loaded.reason);
      const { native } = loaded;
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
