/** Weir as a service of systemd: what it tells the manager, and what the unit's walls leave it. */
import { spawn, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const UNIT = "deploy/systemd/weir.service";
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Listens as a manager does; resolves once it does. */
async function manager(address: string): Promise<{ readonly heard: readonly string[] }> {
  const child = spawn("python3", ["test/helpers/notify-listener.py", address]);
  cleanups.push(() => child.kill());
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (part: string) => {
    text += part;
  });
  await until("the manager to listen", () => text.startsWith("bound\n"));
  return {
    get heard() {
      return text.split("\n").slice(1, -1);
    },
  };
}

describe.skipIf(!hasProgram("python3"))(
  `the service manager${hasProgram("python3") ? "" : " (skipped: no python3)"}`,
  () => {
    for (const kind of ["a path", "an abstract name"]) {
      test(`hears at ${kind} that Weir is ready, that its loop turns, and that it stops`, async () => {
        const folder = new AgentFolder();
        cleanups.push(() => folder.remove());
        const address = kind === "a path" ? join(folder.dir, "notify") : `@weir-test-${process.pid}`;
        const systemd = await manager(address);
        const agent = await Agent.start(folder, ["env", `NOTIFY_SOCKET=${address}`, "WATCHDOG_USEC=200000"]);
        cleanups.push(() => agent.kill());
        const count = (what: string) => systemd.heard.filter((message) => message === what).length;
        await until("two signs of life", () => count("WATCHDOG=1") >= 2);
        expect(systemd.heard[0]).toBe("READY=1");
        expect(await agent.stop()).toBe(0);
        await until("the goodbye", () => count("STOPPING=1") === 1);
      });
    }

    const tracer = hasProgram("strace") ? undefined : "strace";
    test.skipIf(tracer !== undefined)(
      `hears nothing of a main loop that stands still, though other threads go on, until it turns again${tracer === undefined ? "" : " (skipped: no strace)"}`,
      async () => {
        const folder = new AgentFolder();
        cleanups.push(() => folder.remove());
        const address = `@weir-test-stuck-${process.pid}`;
        const systemd = await manager(address);
        const agent = await Agent.start(folder, ["env", `NOTIFY_SOCKET=${address}`, "WATCHDOG_USEC=100000"]);
        cleanups.push(() => agent.kill());
        const { pid } = await folder.api.status();
        // On the main thread alone, whose loop then waits a minute wherever it waits.
        const waits = "epoll_wait,epoll_pwait";
        const inject = ["-e", `trace=${waits}`, "-e", `inject=${waits}:delay_enter=60s`];
        const stuck = spawn("strace", ["-o", join(folder.dir, "trace"), ...inject, "-p", String(pid)]);
        cleanups.push(() => stuck.kill("SIGKILL"));
        await until("the loop to stand still", async () => {
          const before = systemd.heard.length;
          await new Promise((done) => setTimeout(done, 1_000));
          return systemd.heard.length === before;
        });
        const heard = systemd.heard.length;
        stuck.kill("SIGKILL");
        await until("signs of life", () => systemd.heard.length > heard);
      },
    );

    test("whose watchdog is meant for another process hears nothing of it", async () => {
      const folder = new AgentFolder();
      cleanups.push(() => folder.remove());
      const systemd = await manager(`@weir-test-other-${process.pid}`);
      const agent = await Agent.start(folder, [
        "env",
        `NOTIFY_SOCKET=@weir-test-other-${process.pid}`,
        "WATCHDOG_USEC=1000",
        "WATCHDOG_PID=1",
      ]);
      expect(await agent.stop()).toBe(0);
      await until("the goodbye", () => systemd.heard.includes("STOPPING=1"));
      expect(systemd.heard).not.toContain("WATCHDOG=1");
    });
  },
);

const hasAnalyze = hasProgram("systemd-analyze");

/** Values of a key of the unit, in order. */
const settings = (key: string): string[] =>
  [...readFileSync(UNIT, "utf8").matchAll(new RegExp(`^${key}=(.*)$`, "gm"))].map((match) => match[1] ?? "");

/** System calls of a group of systemd's. */
function callsOf(group: string): string[] {
  if (!group.startsWith("@")) return [group];
  const { stdout } = spawnSync("systemd-analyze", ["syscall-filter", "--no-pager", group], {
    encoding: "utf8",
  });
  return stdout
    .split("\n")
    .slice(1)
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"))
    .flatMap(callsOf);
}

describe.skipIf(!hasAnalyze)(`the unit${hasAnalyze ? "" : " (skipped: no systemd-analyze)"}`, () => {
  test("exposes at most 2.0 by systemd's own measure", () => {
    const { stdout } = spawnSync("systemd-analyze", ["security", "--offline=true", "--no-pager", UNIT], {
      encoding: "utf8",
    });
    expect(Number(/level for weir\.service: ([\d.]+)/.exec(stdout)?.[1])).toBeLessThanOrEqual(2);
  });

  const lacks =
    ["strace", "setpriv"].find((program) => !hasProgram(program)) ??
    (process.getuid?.() === 0 ? undefined : "root");
  test.skipIf(lacks !== undefined)(
    `refuses no system call that the agent, its probes, its jail or a plugin makes${lacks === undefined ? "" : ` (skipped: no ${lacks})`}`,
    async () => {
      const allowed = new Set<string>();
      for (const words of settings("SystemCallFilter")) {
        const [all, minus] = words.startsWith("~") ? [words.slice(1), true] : [words, false];
        for (const call of all.split(" ").flatMap(callsOf)) {
          if (minus) allowed.delete(call);
          else allowed.add(call);
        }
      }
      expect(allowed.size).toBeGreaterThan(200);

      // A deadline that no plugin misses because it is traced.
      const patient = { limits: { timeMs: 30_000 } };
      const folder = new AgentFolder({ plugins: { dir: "plugins", deadband: patient, scale: patient } });
      cleanups.push(() => folder.remove());
      cpSync("plugins", join(folder.dir, "plugins"), { recursive: true });
      // Beside the configuration it would wake the agent, which looks for changes there, with every line.
      mkdirSync(join(folder.dir, "trace"));
      spawnSync("chown", ["-R", "65534:65534", folder.dir]);
      const log = join(folder.dir, "trace", "calls");
      const capabilities = (settings("CapabilityBoundingSet")[0] ?? "")
        .split(" ")
        .map((name) => `+${name.toLowerCase().replace("cap_", "")}`)
        .join(",");
      const user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
      const kept = ["ambient-caps", "inh-caps"].map((set) => `--${set}=${capabilities}`);
      // What setpriv itself does comes before the agent: systemd does it before the filter stands.
      const agent = await Agent.start(folder, [
        ...user,
        ...kept,
        "strace",
        "-f",
        "-qq",
        "-o",
        log,
        "-e",
        "signal=none",
      ]);
      const client = await agent.client();
      await client.publishAsync("devices/demo-1/telemetry", '{"temp_c":100}', { qos: 1 });
      await client.endAsync();
      const plugins = await folder.api.plugins();
      expect(plugins.map(({ state }) => state)).toEqual(["on", "on"]);
      const probes = await folder.api.probes();
      // The child is strace, which would not hand the signal on.
      process.kill((await folder.api.status()).pid);
      expect(await agent.exited).toBe(0);

      const made = new Map<string, string>();
      for (const line of readFileSync(log, "utf8").split("\n")) {
        const [, call = ""] = /^\d+ +(?:<\.\.\. )?([a-z_0-9]+)/.exec(line) ?? [];
        if (call !== "" && !made.has(call)) made.set(call, line);
      }
      expect(made.size).toBeGreaterThan(50);
      expect([...made].filter(([call]) => !allowed.has(call)).map(([, line]) => line.slice(0, 200))).toEqual(
        [],
      );
      expect(probes.filter(({ state }) => state === "on").length).toBeGreaterThan(5);
    },
    120_000,
  );
});
