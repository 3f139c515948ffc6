/**
 * The Debian package in a clean Debian: installed, upgraded, removed, purged. Long (a minute or two), so only with WEIR_LONG=1. The
 * root that debootstrap makes is kept in build/.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { appendFileSync, existsSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt from "mqtt";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ApiClient } from "../../src/api/client.ts";
import { hasProgram } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const CLEAN = "build/debian-bookworm";
const MIRROR = "http://deb.debian.org/debian";

/** Why this can't run here. */
function obstacle(): string | undefined {
  if (process.env["WEIR_LONG"] !== "1") return "only with WEIR_LONG=1";
  if (process.getuid?.() !== 0) return "needs root";
  const lacks = ["debootstrap", "dpkg-deb", "unshare", "chroot", "npm", "gcc", "g++"].find(
    (program) => !hasProgram(program),
  );
  return lacks === undefined ? undefined : `no ${lacks}`;
}
const why = obstacle();

describe.skipIf(why !== undefined)(
  `the Debian package${why === undefined ? "" : ` (skipped: ${why})`}`,
  () => {
    // Short, because a socket's path may have 107 bytes.
    const root = mkdtempSync(join(tmpdir(), "deb-"));
    const api = new ApiClient(join(root, "var/lib/weir/weir.sock"));
    let agent: ChildProcess | undefined;
    let output = "";

    const inside = (...command: readonly string[]) =>
      spawnSync("chroot", [root, ...command], { encoding: "utf8" });
    const succeeds = (...command: readonly string[]): string => {
      const { status, stdout, stderr } = inside(...command);
      expect(`${status} ${status === 0 ? "" : stdout + stderr}`).toBe("0 ");
      return stdout;
    };
    const modeOf = (path: string): string => {
      const { mode, uid, gid } = statSync(join(root, path));
      return `${(mode & 0o777).toString(8)} ${uid === 0 ? "root" : "weir"}:${gid === 0 ? "root" : "weir"}`;
    };

    /** As the unit does it, without systemd. */
    async function start(): Promise<void> {
      output = "";
      const user = "setpriv --reuid=weir --regid=weir --clear-groups --no-new-privs";
      const run = `mount -t proc proc /proc && cd /var/lib/weir && exec ${user} weir run --config /etc/weir/weir.yaml`;
      agent = spawn("unshare", ["--mount", "chroot", root, "sh", "-c", run]);
      for (const stream of [agent.stdout, agent.stderr]) {
        stream?.setEncoding("utf8").on("data", (text: string) => {
          output += text;
        });
      }
      const ready = until("the agent to be ready", () => output.includes("weir is ready"), 60_000);
      await ready.catch((thrown: unknown) => {
        throw new Error(`${String(thrown)}\n${output}`);
      });
    }
    async function stop(): Promise<void> {
      const ended = new Promise((resolve) => agent?.once("exit", resolve));
      agent?.kill("SIGKILL"); // what is acknowledged is kept
      await ended;
      agent = undefined;
    }

    let absent: string | undefined;
    beforeEach((context) => {
      if (absent !== undefined) context.skip(absent);
    });

    beforeAll(() => {
      if (!existsSync(CLEAN)) {
        rmSync(`${CLEAN}.new`, { recursive: true, force: true });
        const include = "--include=libatomic1,libstdc++6,systemd";
        const made = spawnSync(
          "debootstrap",
          ["--variant=minbase", include, "bookworm", `${CLEAN}.new`, MIRROR],
          {
            encoding: "utf8",
          },
        );
        if (made.status !== 0) {
          absent = `debootstrap made no root: ${made.stdout.trim().split("\n").at(-1)}`;
          return;
        }
        renameSync(`${CLEAN}.new`, CLEAN);
      }
      expect(spawnSync("cp", ["-a", `${CLEAN}/.`, root]).status).toBe(0);
      expect(spawnSync("chmod", ["755", root]).status).toBe(0);
      for (const version of ["0.0.1", "0.0.2"]) {
        const made = spawnSync("node", ["scripts/deb.mjs", "--version", version, join(root, "root")], {
          encoding: "utf8",
        });
        if (made.status !== 0) throw new Error(made.stderr);
      }
    }, 600_000);
    afterAll(async () => {
      if (agent !== undefined) await stop();
      rmSync(root, { recursive: true, force: true });
    });
    const packageFile = (version: string): string => {
      const arch = process.arch === "x64" ? "amd64" : "arm64";
      return `/root/weir_${version}_${arch}.deb`;
    };

    test("installs: a user, a unit that starts at boot, a configuration that only the service reads", () => {
      succeeds("dpkg", "-i", packageFile("0.0.1"));
      expect(readFileSync(join(root, "etc/passwd"), "utf8")).toMatch(
        /^weir:.*:\/var\/lib\/weir:\/usr\/sbin\/nologin$/m,
      );
      expect(succeeds("weir", "--version")).toBe("0.0.1\n");
      expect(succeeds("systemctl", "is-enabled", "weir.service")).toBe("enabled\n");
      expect(modeOf("etc/weir")).toBe("750 root:weir");
      expect(modeOf("etc/weir/weir.yaml")).toBe("640 root:weir");
      expect(modeOf("var/lib/weir")).toBe("711 weir:weir");
    });

    test("runs as its user, and holds on to what a device was acknowledged", async () => {
      // An uplink that is never there: what comes in stays in the outbox.
      appendFileSync(
        join(root, "etc/weir/weir.yaml"),
        '\nbroker: { port: 0 }\nuplinks: { cloud: { url: "mqtt://127.0.0.1:9" } }\n',
      );
      await start();
      const client = await mqtt.connectAsync(`mqtt://${(await api.status()).broker}`, { reconnectPeriod: 0 });
      await client.publishAsync("devices/pump-1/telemetry", '{"temp_c":71.25}', { qos: 1 });
      await client.endAsync();
      await stop();
    }, 120_000);

    const kept = () =>
      succeeds("weir", "outbox", "export", "--stream", "data", "--config", "/etc/weir/weir.yaml");

    test("is upgraded: data and the changed configuration stay", async () => {
      succeeds("dpkg", "-i", packageFile("0.0.2"));
      expect(succeeds("weir", "--version")).toBe("0.0.2\n");
      expect(kept()).toContain('"temp_c":71.25');
      expect(readFileSync(join(root, "etc/weir/weir.yaml"), "utf8")).toContain("mqtt://127.0.0.1:9");
      expect(modeOf("etc/weir/weir.yaml")).toBe("640 root:weir");
      await start();
      expect((await api.status()).version).toBe("0.0.2");
      await stop();
    }, 120_000);

    test("is removed: the program goes, data and configuration stay, and are there again after the next installation", () => {
      succeeds("dpkg", "-r", "weir");
      for (const path of ["usr/lib/weir", "usr/bin/weir", "usr/lib/systemd/system/weir.service"]) {
        expect(existsSync(join(root, path))).toBe(false);
      }
      expect(existsSync(join(root, "etc/weir/weir.yaml"))).toBe(true);
      succeeds("dpkg", "-i", packageFile("0.0.2"));
      expect(kept()).toContain('"temp_c":71.25');
    });

    test("is purged: nothing of it is left", () => {
      succeeds("dpkg", "-P", "weir");
      for (const path of ["etc/weir", "var/lib/weir", "usr/lib/weir", "usr/share/doc/weir"]) {
        expect(existsSync(join(root, path))).toBe(false);
      }
      expect(readFileSync(join(root, "etc/passwd"), "utf8")).not.toContain("weir:");
    });
  },
);
