/**
 * The Debian package under a real systemd, booted in namespaces in a clean Debian: installed, killed, stuck, reloaded, upgraded. Long, so
 * only with WEIR_LONG=1.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ApiClient } from "../../src/api/client.ts";
import { cleanDebian, debianObstacle, makePackages, packageFile } from "../helpers/debian.ts";
import { until } from "../helpers/until.ts";

/** A cgroup v2 hierarchy, alone or beside those of v1. */
const HIERARCHY = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].find((path) =>
  existsSync(join(path, "cgroup.controllers")),
);
const why =
  debianObstacle(["nsenter", "strace", "mosquitto_pub"]) ??
  (HIERARCHY === undefined ? "no cgroup v2" : undefined);

describe.skipIf(why !== undefined)(`as a service${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  // Short, because a socket's path may have 107 bytes.
  const root = why === undefined ? mkdtempSync(join(tmpdir(), "sys-")) : "";
  const group = join(HIERARCHY ?? "", `weir-test-${process.pid}`);
  const api = new ApiClient(join(root, "var/lib/weir/weir.sock"));
  let machine: ChildProcess | undefined;
  let console = "";
  let init = 0;
  let absent: string | undefined;

  const inside = (...command: readonly string[]) =>
    spawnSync(
      "nsenter",
      ["--target", String(init), "--all", "--root", "sh", "-c", 'cd / && exec "$@"', "sh", ...command],
      {
        encoding: "utf8",
        env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
      },
    );
  const succeeds = (...command: readonly string[]): string => {
    const { status, stdout, stderr } = inside(...command);
    expect(`${status} ${status === 0 ? "" : stdout + stderr + journal()}`).toBe("0 ");
    return stdout;
  };
  const journal = (): string => inside("journalctl", "--unit", "weir", "--no-pager").stdout;
  const show = (property: string): string =>
    inside("systemctl", "show", "-P", property, "weir").stdout.trim();
  /** The agent's id on this machine. */
  const hostPid = (): number => {
    const within = show("MainPID");
    const found = readdirSync("/proc").find((pid) => {
      try {
        const status = readFileSync(`/proc/${pid}/status`, "utf8");
        return (
          new RegExp(`^NSpid:\\s+${pid}\\s+${within}$`, "m").test(status) &&
          readFileSync(`/proc/${pid}/cgroup`, "utf8").includes(group.split("/").at(-1) ?? "")
        );
      } catch {
        return false; // no process, or one that has ended
      }
    });
    return Number(found);
  };
  const publish = (value: number): void => {
    const args = ["-q", "1", "-t", "devices/pump-1/telemetry", "-m", `{"temp_c":${value}}`];
    const sent = spawnSync("nsenter", ["--target", String(init), "--net", "mosquitto_pub", ...args], {
      encoding: "utf8",
    });
    expect(`${sent.status} ${sent.stderr}`).toBe("0 ");
  };
  /** What is in the outbox for an uplink that is never there. */
  const kept = () =>
    succeeds("weir", "outbox", "export", "--stream", "data", "--config", "/etc/weir/weir.yaml");
  const restarted = (times: number) =>
    until(`restart ${times}`, () => show("NRestarts") === String(times) && show("ActiveState") === "active");

  beforeEach((context) => {
    if (absent !== undefined) context.skip(absent);
  });
  beforeAll(async () => {
    absent = cleanDebian(root);
    if (absent !== undefined) return;
    makePackages(root, ["0.0.1", "0.0.2"]);
    mkdirSync(join(root, "etc/systemd/system/weir.service.d"), { recursive: true });
    writeFileSync(join(root, "etc/systemd/system/weir.service.d/quick.conf"), "[Service]\nWatchdogSec=10\n");
    machine = spawn("test/helpers/boot-debian.sh", [root, group], { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [machine.stdout, machine.stderr])
      stream?.setEncoding("utf8").on("data", (text: string) => {
        console += text;
      });
    await until("systemd to have started", () => {
      init = Number(readFileSync(`/proc/${machine?.pid}/task/${machine?.pid}/children`, "utf8").trim());
      return ["running", "degraded"].includes(inside("systemctl", "is-system-running").stdout.trim());
    }).catch((thrown: unknown) => {
      absent = `systemd does not boot here: ${String(thrown)} ${console}`;
    });
  }, 600_000);
  afterAll(async () => {
    const ended = new Promise((resolve) => machine?.once("exit", resolve) ?? resolve(undefined));
    machine?.kill("SIGKILL");
    await ended;
    await until("its groups to be empty", () => removeGroup(group));
    rmSync(root, { recursive: true, force: true });
  });

  test("it is installed, runs at once with its probes, and dumps no core, nor does its plugin host", async () => {
    succeeds("dpkg", "-i", packageFile("0.0.1"));
    expect(show("ActiveState")).toBe("active");
    cpSync("plugins/deadband", join(root, "etc/weir/plugins/deadband"), { recursive: true });
    appendFileSync(join(root, "etc/weir/weir.yaml"), '\nuplinks: { cloud: { url: "mqtt://127.0.0.1:9" } }\n');
    await until(
      "the plugin and the uplink",
      async () =>
        (await api.plugins()).some(({ state }) => state === "on") &&
        (await api.outbox()).counts.some(({ uplink }) => uplink === "cloud"),
    );
    expect((await api.probes()).filter(({ state }) => state === "on").length).toBeGreaterThan(5);
    const agent = hostPid();
    const children = readFileSync(`/proc/${agent}/task/${agent}/children`, "utf8").trim().split(" ");
    for (const pid of [agent, ...children])
      expect(readFileSync(`/proc/${pid}/limits`, "utf8")).toMatch(/^Max core file size +0 +0 /m);
    expect(readFileSync(`/proc/${agent}/status`, "utf8")).toMatch(/^CapEff:\s+000000c000000000$/m);
  });

  test("killed, it is started again, and what a device was acknowledged is there", async () => {
    publish(71.25);
    succeeds("systemctl", "kill", "--signal=KILL", "weir");
    await restarted(1);
    expect(kept()).toContain('"temp_c":71.25');
  });

  test("with a main loop that stands still while other threads run, it is ended by the watchdog and started again", async () => {
    const pid = hostPid();
    // Attached to the main thread alone, which then takes a minute for each wait of its loop.
    const stuck = spawn("strace", [
      "-qq",
      "-o",
      "/dev/null",
      "-e",
      "trace=epoll_wait,epoll_pwait",
      "-e",
      "inject=epoll_wait,epoll_pwait:delay_enter=60s",
      "-p",
      String(pid),
    ]);
    try {
      await until("the watchdog to bark", () => journal().includes("Watchdog timeout"));
    } finally {
      stuck.kill("SIGKILL");
    }
    await restarted(2);
    publish(72.5);
    expect(kept()).toContain('"temp_c":72.5');
  });

  test("reload takes what is valid; what is not fails with the reason in the journal, and the old one goes on", async () => {
    const file = join(root, "etc/weir/weir.yaml");
    const good = readFileSync(file, "utf8");
    writeFileSync(file, `${good}broker:\n  prot: 1\n`);
    expect(inside("systemctl", "reload", "weir").status).not.toBe(0);
    expect(journal()).toContain("did you mean");
    writeFileSync(file, `${good}pipeline: { lingerMs: 3 }\n`);
    succeeds("systemctl", "reload", "weir");
    expect([show("ActiveState"), show("NRestarts")]).toEqual(["active", "2"]);
    expect(succeeds("weir", "config", "print", "--config", "/etc/weir/weir.yaml")).toContain("lingerMs: 3");
  });

  test("upgraded while it runs, the new version runs on the old one's data", async () => {
    succeeds("dpkg", "-i", packageFile("0.0.2"));
    expect(show("ActiveState")).toBe("active");
    expect((await api.status()).version).toBe("0.0.2");
    expect(kept()).toContain('"temp_c":71.25');
    expect((await api.plugins()).map(({ state }) => state)).toEqual(["on"]);
  });

  test("with a configuration that is not valid and none from before, it is not started again and again", async () => {
    succeeds("systemctl", "stop", "weir");
    rmSync(join(root, "var/lib/weir/last-good.json"));
    appendFileSync(join(root, "etc/weir/weir.yaml"), "nonsense: 1\n");
    expect(inside("systemctl", "start", "weir").status).not.toBe(0);
    expect([show("ActiveState"), show("ExecMainStatus")]).toEqual(["failed", "2"]);
    expect(journal()).toContain("nonsense: unknown key");
    // Nor does the package manager stand still for it.
    succeeds("dpkg", "-i", packageFile("0.0.2"));
  });

  test("removed, nothing of it runs", () => {
    succeeds("dpkg", "-r", "weir");
    expect(show("LoadState")).not.toBe("loaded");
  });
});

/** Whether a control group and those below are gone; a process that has just ended may still be in one. */
function removeGroup(path: string): boolean {
  if (!existsSync(path)) return true;
  for (const entry of readdirSync(path, { withFileTypes: true }))
    if (entry.isDirectory()) removeGroup(join(path, entry.name));
  try {
    rmdirSync(path);
    return true;
  } catch {
    return false;
  }
}
