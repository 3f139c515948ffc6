/**
 * The Debian package in a clean Debian: installed, upgraded, removed, purged. Long (a minute or two), so only with WEIR_LONG=1. The
 * root that debootstrap makes is kept in build/.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt from "mqtt";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ApiClient } from "../../src/api/client.ts";
import { cleanDebian, debianObstacle, makePackages, packageFile } from "../helpers/debian.ts";
import { until } from "../helpers/until.ts";

const why = debianObstacle();

describe.skipIf(why !== undefined)(
  `the Debian package${why === undefined ? "" : ` (skipped: ${why})`}`,
  () => {
    // Short, because a socket's path may have 107 bytes.
    const root = why === undefined ? mkdtempSync(join(tmpdir(), "deb-")) : "";
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
      const ready = until("the agent to be ready", () => output.includes("weir is ready"));
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
      absent = cleanDebian(root);
      if (absent === undefined) makePackages(root, ["0.0.1", "0.0.2"]);
    }, 600_000);
    afterAll(async () => {
      if (agent !== undefined) await stop();
      rmSync(root, { recursive: true, force: true });
    });

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
    });

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
    });

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
