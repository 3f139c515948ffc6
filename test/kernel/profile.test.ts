/** Samples of the real kernel: their account, and names for what ran. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openSampler, SampleEvent } from "../../src/addon/sampler.ts";
import { recordProfile } from "../../src/profile-tools.ts";
import { missing } from "./helpers.ts";

const root = join(import.meta.dirname, "..", "..");
const hasCompiler = spawnSync("g++", ["--version"]).status === 0;

describe.skipIf(missing !== "")(`profile${missing === "" ? "" : ` (skipped: ${missing})`}`, () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "weir-profile-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test("a flood of samples is accounted for: produced = drained + lost", () => {
    // A sample at each page that this thread touches first; the ring of one page holds a few.
    const opened = openSampler({
      event: SampleEvent.pageFaults,
      period: 1,
      thisThread: true,
      ringBytes: 1,
    });
    if (!opened.on) expect.fail(opened.reason);
    const { sampler } = opened;
    let drained = 0;
    for (let round = 0; round < 5; round++) {
      Buffer.alloc(8 << 20, 1);
      sampler.drain(
        () => {
          drained += 1;
        },
        () => {},
      );
    }
    const counts = sampler.counts();
    expect(counts.produced).toBeGreaterThan(1000);
    expect(counts.lost).toBeGreaterThan(0);
    // Handing a sample to JavaScript touches new pages, too; the last drain's own are still in the ring.
    expect(counts.produced - counts.lost - drained).toBeLessThan(200);
    let left = 0;
    for (let calls = 0; calls < 100; calls++) {
      sampler.drain(
        () => {
          drained += 1;
        },
        () => {},
      );
      const { produced, lost } = sampler.counts();
      left = produced - lost - drained;
      if (left === 0) break;
    }
    expect(left).toBe(0);
    sampler.close();
    expect(sampler.counts().drained).toBe(0);
  });

  test.skipIf(!hasCompiler)("functions of a program, of the kernel, and of C++ are named", async () => {
    const source = join(folder, "busy.cc");
    const program = join(folder, "busy");
    writeFileSync(
      source,
      `#include <fcntl.h>
       #include <unistd.h>
       namespace mill { volatile unsigned long sink;
       __attribute__((noinline)) void grind(int turns) { for (int i = 0; i < turns; i++) sink += i; } }
       int main() { char b[4096]; int f = open("/dev/zero", O_RDONLY);
         for (;;) { mill::grind(100000); for (int i = 0; i < 200; i++) if (read(f, b, 4096) < 0) return 1; } }`,
    );
    const flags = ["-O1", "-fno-omit-frame-pointer", source, "-o", program];
    expect(spawnSync("g++", flags, { encoding: "utf8" }).stderr).toBe("");
    const child = spawn(program);
    try {
      const options = { forMs: 3000, pid: child.pid, perSecond: 499 };
      const profile = await recordProfile(options, new AbortController().signal);
      expect(profile.samples).toBeGreaterThan(20);
      const stacks = [...profile.stacks.keys()];
      expect(stacks.every((stack) => stack.startsWith("busy;"))).toBe(true);
      expect(stacks.some((stack) => /;mill::grind\(int\)$/.test(stack))).toBe(true);
      if (profile.kernelKnown) expect(stacks.some((stack) => /;\w*read\w*_\[k\]/.test(stack))).toBe(true);
    } finally {
      child.kill("SIGKILL");
    }
  });

  test("weir profile names code that was compiled just in time, and writes a flame graph that is whole", async () => {
    const code = "function whirl(){let s=0;for(let i=0;i<1e6;i++)s+=Math.sqrt(i);return s};for(;;)whirl()";
    const child = spawn(process.execPath, ["--perf-basic-prof", "-e", `console.log(1);${code}`]);
    try {
      await once(child.stdout, "data");
      const [svg, folded] = [join(folder, "out.svg"), join(folder, "out.txt")];
      const args = ["profile", "--for", "3s", "--frequency", "499", "--pid", String(child.pid)];
      const ran = spawnSync(
        process.execPath,
        [join(root, "src/cli/main.ts"), ...args, "--svg", svg, "--folded", folded],
        { encoding: "utf8" },
      );
      // What is lost while other programs hold this one up is said.
      expect(ran.stderr).toMatch(new RegExp(`^\\d+ samples of process ${child.pid}, \\d+ lost`));
      expect(ran.status).toBe(0);
      const lines = readFileSync(folded, "utf8").trimEnd().split("\n");
      expect(lines.every((line) => /^\S.*(;.+)* \d+$/.test(line))).toBe(true);
      expect(lines.some((line) => /;JS:\S{0,2}whirl /.test(line))).toBe(true);
      const drawn = readFileSync(svg, "utf8");
      expect(drawn.match(/<g class="f"/g)?.length).toBe(drawn.match(/<\/text><\/g>/g)?.length ?? Number.NaN);
      expect(drawn).toContain("whirl");
      expect(drawn).not.toMatch(/<script[^>]+src|https?:\/\/(?!www\.w3\.org)/);
    } finally {
      child.kill("SIGKILL");
      rmSync(`/tmp/perf-${child.pid}.map`, { force: true });
    }
  });
});
