import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { defaultGatewayName, hardwareId } from "../../src/config/gateway.ts";
import { imbalance } from "../../src/core/ledger.ts";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function boot(wrap: readonly string[], folder: AgentFolder): Promise<Agent> {
  cleanups.push(() => folder.remove());
  cpSync("plugins/deadband", join(folder.dir, "plugins", "deadband"), { recursive: true });
  const agent = await Agent.start(folder, wrap);
  cleanups.push(() => agent.kill());
  return agent;
}

/** A memory cgroup with this limit; undefined where none can be made. */
function memoryGroup(bytes: number): string | undefined {
  for (const limit of [
    `memory/weir-test-${process.pid}/memory.limit_in_bytes`,
    `weir-test-${process.pid}/memory.max`,
  ]) {
    const file = join("/sys/fs/cgroup", limit);
    const group = dirname(file);
    try {
      mkdirSync(group);
      if (existsSync(file)) {
        writeFileSync(file, String(bytes));
        return group;
      }
      rmSync(group, { recursive: true });
    } catch {
      // No hierarchy, or not ours.
    }
  }
  return undefined;
}

function removed(group: string | undefined): boolean {
  try {
    rmdirSync(group ?? "");
    return true;
  } catch {
    return false;
  }
}

const quick = () => new AgentFolder({ sources: { kernel: { enabled: false }, system: { intervalMs: 200 } } });

/** Telemetry of the gateway itself goes all the way, and the plugin runs. */
async function works(folder: AgentFolder): Promise<void> {
  await until("samples to be committed", async () => {
    const { lines } = await folder.api.ledger();
    for (const line of lines) expect(imbalance(line), `${line.stage} ${line.name}`).toBe(0);
    return lines.some(({ stage, name, out }) => stage === "commit" && name === "host" && out > 0);
  });
  // Where memory is short, its vetting may have been ended for it, and is tried again.
  await until("the plugin to run", async () => {
    const plugins = await folder.api.plugins();
    return plugins.length === 1 && plugins.every(({ name, state }) => name === "deadband" && state === "on");
  });
}

const root = process.getuid?.() === 0;

describe("boots", () => {
  test.skipIf(!root)("without a network (needs root for a namespace)", async () => {
    const folder = quick();
    await boot(["unshare", "-n"], folder);
    await works(folder);
  });

  test("without a broker: its own off, those that it reads from and sends to not there", async () => {
    const url = "mqtt://127.0.0.1:9";
    const folder = new AgentFolder({
      broker: { enabled: false },
      sources: { kernel: { enabled: false }, system: { intervalMs: 200 }, mqtt: { plant: { url } } },
      uplinks: { cloud: { url } },
    });
    await boot([], folder);
    await works(folder);
    const { parts } = await folder.api.status();
    for (const name of ["source mqtt/plant", "uplink cloud"])
      expect(parts.find((part) => part.name === name)).toMatchObject({
        state: "failed",
        remedy: expect.stringMatching(/broker's address/),
      });
    const { lines } = await folder.api.ledger();
    expect(lines.find(({ name }) => name === "cloud/host")?.held).toBeGreaterThan(0);
  });

  test.skipIf(!hasProgram("faketime"))("without a clock: in 1970 (needs faketime)", async () => {
    const folder = quick();
    const agent = await boot(["faketime", "-f", "@1970-01-02 00:00:00"], folder);
    await works(folder);
    expect(agent.output).not.toContain('"level":50');
  });

  test.skipIf(!root)(
    "on a root that is read-only, with a data folder that is not (needs root for a namespace)",
    async () => {
      const folder = quick();
      const data = join(folder.dir, "data");
      mkdirSync(data);
      const script = `mount --bind ${data} ${data} && mount --bind / / && mount -o remount,ro,bind / && ! touch ${folder.dir}/x 2>/dev/null && exec "$@"`;
      await boot(["unshare", "-m", "sh", "-c", script, "sh"], folder);
      await works(folder);
    },
  );

  const group = memoryGroup(160 * 2 ** 20);
  test.skipIf(group === undefined)("with little memory: its heap is collected sooner", async () => {
    const folder = quick();
    const agent = await boot(["sh", "-c", `echo $$ >${group}/cgroup.procs; exec "$@"`, "sh"], folder);
    expect(readFileSync(`/proc/${agent.child.pid}/cmdline`, "utf8")).toContain("--optimize-for-size");
    await works(folder);
    await agent.stop();
    await until("the group to be empty", () => removed(group));
  });

  test("and makes a data folder that only its user can read, but for what the jail needs", async () => {
    const folder = quick();
    await boot([], folder);
    const mode = (path: string): string =>
      (statSync(join(folder.dir, "data", path)).mode & 0o777).toString(8);
    expect([mode("."), mode("cache")]).toEqual(["711", "755"]);
    for (const name of readdirSync(join(folder.dir, "data"))) {
      if (name !== "cache") expect(mode(name), name).toMatch(/^[67]00$/);
    }
  });
});

describe("a gateway that is cloned", () => {
  /** A machine's /sys and /etc, as far as they identify it. */
  function machine(parts: {
    serial?: string;
    interfaces?: readonly { name: string; address: string; bus: string; assigned?: string }[];
  }): string {
    const dir = mkdtempSync(join(tmpdir(), "weir-machine-"));
    cleanups.push(() => rmSync(dir, { recursive: true }));
    const write = (path: string, text: string): void => {
      mkdirSync(join(dir, path, ".."), { recursive: true });
      writeFileSync(join(dir, path), text);
    };
    write("etc/machine-id", "the image's\n");
    if (parts.serial !== undefined) write("sys/firmware/devicetree/base/serial-number", `${parts.serial}\0`);
    for (const { name, address, bus, assigned = "0" } of parts.interfaces ?? []) {
      write(`sys/class/net/${name}/address`, `${address}\n`);
      write(`sys/class/net/${name}/addr_assign_type`, `${assigned}\n`);
      write(`sys/class/net/${name}/device/x`, "");
      mkdirSync(join(dir, "sys/bus", bus), { recursive: true });
      symlinkSync(join(dir, "sys/bus", bus), join(dir, `sys/class/net/${name}/device/subsystem`));
    }
    return dir;
  }
  const eth = (address: string, name = "eth0") => ({ name, address, bus: "pci" });

  test("has another name on other hardware, though the machine id is the image's", () => {
    const one = machine({ interfaces: [eth("52:54:00:00:00:02")] });
    const two = machine({ interfaces: [eth("52:54:00:00:00:01")] });
    expect(defaultGatewayName(one)).not.toBe(defaultGatewayName(two));
    expect(defaultGatewayName(one)).toBe(defaultGatewayName(one));
    expect(hardwareId(machine({ serial: "1000", interfaces: [eth("52:54:00:00:00:01")] }))).toBe("1000");
    expect(hardwareId(machine({}))).toBe("the image's");
  });

  test("keeps its name when an adapter is plugged in, or an interface makes up its address", () => {
    const usb = { name: "usb0", address: "00:00:00:00:00:01", bus: "usb" };
    const random = { name: "wlan0", address: "00:00:00:00:00:02", bus: "pci", assigned: "1" };
    expect(hardwareId(machine({ interfaces: [usb, random, eth("52:54:00:00:00:02")] }))).toBe(
      "52:54:00:00:00:02",
    );
    expect(hardwareId(machine({ interfaces: [usb, random] }))).toBe("00:00:00:00:00:01");
  });

  test("and a data folder that is copied begins an epoch of its own: keys never meet", async () => {
    const folder = quick();
    const first = await boot([], folder);
    const { epoch } = await folder.api.status();
    await works(folder);
    await first.stop();
    const clone = quick();
    cpSync(join(folder.dir, "data"), join(clone.dir, "data"), { recursive: true });
    await boot([], clone);
    await boot([], folder);
    const epochs = [epoch, (await folder.api.status()).epoch, (await clone.api.status()).epoch];
    expect(new Set(epochs).size).toBe(3);
  });
});
