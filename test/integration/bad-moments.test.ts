/** Reloads and restarts at a bad moment: a file that is half-written, a disk that is full. */
import { execFileSync, spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { Agent, AgentFolder, weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const mountable =
  spawnSync("sh", ["-c", "d=$(mktemp -d) && mount -t tmpfs tmpfs $d && umount $d && rmdir $d"]).status === 0;

/** A file system of so many KiB in a folder. */
function disk(path: string, kib: number): void {
  mkdirSync(path, { recursive: true });
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${kib}k,mode=755`, "tmpfs", path]);
  cleanups.push(() => spawnSync("umount", ["-l", path]));
}

/** Takes all the room that is left there. */
function fill(path: string): void {
  const [ballast, block] = [join(path, "ballast"), Buffer.alloc(4096)];
  try {
    for (;;) appendFileSync(ballast, block);
  } catch (thrown) {
    expect(thrown).toMatchObject({ code: "ENOSPC" });
  }
}

describe.skipIf(!mountable)(`on a full disk${mountable ? "" : " (skipped: no mount of a tmpfs)"}`, () => {
  test("a file that could be written half is refused by a reload and at a restart; the last good one is in force and said", async () => {
    const folder = new AgentFolder({ sources: { kernel: { enabled: false }, system: { enabled: false } } });
    cleanups.push(() => folder.remove());
    const [etc, data] = [join(folder.dir, "conf.d"), join(folder.dir, "data")];
    disk(etc, 64);
    disk(data, 48 * 1024);
    const file = join(etc, "50-plant.yaml");
    writeFileSync(file, 'sources: { devices: [ { topic: "plant/{device}/v" } ] }\n');
    let agent = await Agent.start(folder);
    cleanups.push(() => agent.kill());
    const works = async (): Promise<void> => {
      const client = await agent.client();
      await client.publishAsync("plant/mill/v", "4", { qos: 1 });
      await client.endAsync();
      const { lines } = await folder.api.ledger();
      expect(lines.find(({ stage, name }) => stage === "source" && name === "devices")?.out).toBeGreaterThan(
        0,
      );
    };
    await works();
    const kept = join(data, "last-good.json");
    await until("it to be kept", () => statSync(kept, { throwIfNoEntry: false }) !== undefined);

    // What is valid takes effect, though it can't be kept; the one that is kept stays whole.
    const before = readFileSync(kept, "utf8");
    fill(data);
    appendFileSync(file, "pipeline: { lingerMs: 3 }\n");
    expect(weir("reload", "--config", folder.config)).toMatchObject({ status: 0 });
    await until("it to be said", () => agent.output.includes("could not be kept for a start with broken"));
    expect(readFileSync(kept, "utf8")).toBe(before);

    fill(etc);
    const whole = `gateway: { name: "${"x".repeat(30_000)}" }\n`;
    expect(() => writeFileSync(file, whole)).toThrow("ENOSPC");
    expect(statSync(file).size).toBeLessThan(whole.length);
    await until("the refusal", () => agent.output.includes("the configuration is refused"));
    expect(weir("reload", "--config", folder.config)).toMatchObject({ status: 2 });
    await works();

    await agent.kill();
    agent = await Agent.start(folder);
    expect(agent.output).toContain("the last good configuration, of ");
    await until("data to flow, once there is room", async () => {
      execFileSync("rm", ["-f", join(data, "ballast")]);
      return await works().then(
        () => true,
        () => false,
      );
    });
  });
});

test("a file that is empty, as a write to a full disk or a power cut leaves it, is refused while running", async () => {
  const folder = new AgentFolder({ sources: { kernel: { enabled: false }, system: { enabled: false } } });
  cleanups.push(() => folder.remove());
  const agent = await Agent.start(folder);
  cleanups.push(() => agent.kill());
  writeFileSync(folder.config, "");
  await until("the refusal", () => agent.output.includes("the configuration is refused"));
  expect(agent.output).toContain("has no byte");
  expect((await folder.api.status()).gateway).toBe("gw");
});
