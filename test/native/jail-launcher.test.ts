// The launcher itself, around small programs that show what a process inherits.
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const launcher = fileURLToPath(new URL("../../build/Release/weir-jail", import.meta.url));

/** Runs the launcher with `extra` descriptors and its report behind them. */
function run(
  list: readonly string[],
  extra: readonly number[] = [],
): { stdout: string; report: string; code: number | null } {
  const report = 3 + extra.length;
  const { stdout, output, status } = spawnSync(launcher, ["--report", String(report), ...list], {
    stdio: ["ignore", "pipe", "pipe", ...extra, "pipe"],
    encoding: "utf8",
  });
  return { stdout, report: output[report] ?? "", code: status };
}

describe.runIf(existsSync(launcher))("weir-jail", () => {
  test("closes every descriptor but those to keep, the report's included", () => {
    const files = [openSync("/dev/null", "r"), openSync("/dev/null", "r")];
    const descriptors = (layer: string): readonly string[] => {
      const list = ["--only", layer, "--keep", "4", "--", "/bin/ls", "/proc/self/fd"];
      return run(list, files).stdout.trim().split("\n");
    };
    // ls has one more open: the folder that it lists, at the lowest free number.
    expect(descriptors("descriptors")).toEqual(["0", "1", "2", "3", "4"]);
    expect(descriptors("environment")).toEqual(expect.arrayContaining(["0", "1", "2", "3", "4", "5"]));
    for (const file of files) closeSync(file);
  });

  test("passes on no variable but those given", () => {
    expect(run(["--only", "environment", "--env", "A=1", "--env", "B=2", "--", "/usr/bin/env"]).stdout).toBe(
      "A=1\nB=2\n",
    );
  });

  test("leaves no capability, no way to new ones, and the process first in line when memory runs out", () => {
    const layers = ["no-new-privs", "capabilities", "oom"].flatMap((layer) => ["--only", layer]);
    const { stdout } = run([
      ...layers,
      "--oom",
      "500",
      "--",
      "/bin/cat",
      "/proc/self/status",
      "/proc/self/oom_score_adj",
    ]);
    expect(stdout).toMatch(/^NoNewPrivs:\t1$/m);
    expect(stdout).toMatch(/^CapPrm:\t0+$/m);
    expect(stdout).toMatch(/^CapEff:\t0+$/m);
    if (process.getuid?.() === 0) expect(stdout).toMatch(/^CapBnd:\t0+$/m);
    expect(stdout).toMatch(/^500$/m);
  });

  test("sets limits that cannot be raised again", () => {
    const { stdout } = run([
      "--only",
      "rlimits",
      "--data",
      "1000000000",
      "--files",
      "77",
      "--",
      "/bin/cat",
      "/proc/self/limits",
    ]);
    expect(stdout).toMatch(/^Max data size +1000000000 +1000000000 /m);
    expect(stdout).toMatch(/^Max file size +0 +0 /m);
    expect(stdout).toMatch(/^Max core file size +0 +0 /m);
    expect(stdout).toMatch(/^Max open files +77 +77 /m);
  });

  test("says which layers stand, as JSON, and which were not asked for", () => {
    const { layers } = JSON.parse(
      run(["--without", "seccomp", "--without", "landlock", "--", "/bin/true"]).report,
    );
    expect(layers.seccomp).toBe("off");
    expect(layers.landlock).toBe("off");
    expect(layers["no-new-privs"]).toBe("on");
    expect(Object.keys(layers)).toHaveLength(13);
  });

  test("says why a program could not be started, and exits with 126", () => {
    const { report, code } = run(["--only", "seccomp", "--only", "no-new-privs", "--", "/no/such program"]);
    expect(code).toBe(126);
    expect(JSON.parse(report.split("\n")[1] ?? "")).toEqual({
      error: "execve /no/such program: No such file or directory",
    });
  });

  test("starts nothing when its parent is not the one it was told", () => {
    const { report, code, stdout } = run(["--parent", "1", "--", "/bin/echo", "started"]);
    expect({ report: JSON.parse(report), code, stdout }).toEqual({
      report: { error: "the parent is gone" },
      code: 126,
      stdout: "",
    });
  });

  test.each([
    ["an unknown option", ["--nonsense", "1", "--", "/bin/true"]],
    ["an unknown layer", ["--without", "walls", "--", "/bin/true"]],
    ["what is not a number", ["--memory", "many", "--", "/bin/true"]],
    ["a relative program", ["--", "true"]],
    ["no program", ["--memory", "1"]],
    ["a report among the kept descriptors", ["--keep", "9", "--", "/bin/true"]],
  ])("refuses %s", (_, list) => {
    expect(run(list).code).toBe(126);
  });
});
