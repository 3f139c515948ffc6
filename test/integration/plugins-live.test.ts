/** The plugins folder while data flows: adding, replacing, removing, rolling back, with a whole agent around it. */
import {
  copyFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { MqttClient } from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parse, stringify } from "yaml";
import type { SampleObject } from "../../src/consume/batch.ts";
import { imbalance } from "../../src/core/ledger.ts";
import { Agent, AgentFolder, weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const config = {
  sources: {
    kernel: { enabled: false },
    system: { enabled: false },
    devices: [{ topic: "raw/{device}", decoder: "no-such" }, { preset: "plain" }],
  },
  uplinks: { local: { url: "embedded", batch: { ageMs: 20 } } },
  plugins: { dir: "plugins" },
};
const fixture = (name: string): string => `test/fixtures/plugins/${name}.wasm`;

describe("a plugins folder that changes under load", () => {
  const folder = new AgentFolder(config);
  const plugins = join(folder.dir, "plugins");
  let samples: readonly SampleObject[];
  let agent: Agent;
  let device: MqttClient;
  let n = 0;

  /** Puts a plugin's folder there as careful people do: written beside, then renamed in. */
  function drop(name: string, component: string, manifest: Readonly<Record<string, unknown>> = {}): void {
    const beside = join(folder.dir, `${name}.new`);
    rmSync(beside, { recursive: true, force: true });
    mkdirSync(beside);
    copyFileSync(component, join(beside, "it.wasm"));
    writeFileSync(
      join(beside, "plugin.yaml"),
      // A deadline that none misses because the machine is slow.
      stringify({ name, version: "1.0.0", component: "it.wasm", limits: { timeMs: 10_000 }, ...manifest }),
    );
    rmSync(join(plugins, name), { recursive: true, force: true });
    renameSync(beside, join(plugins, name));
  }
  const info = async (name: string) => (await folder.api.plugins()).find((plugin) => plugin.name === name);
  const isOn = (name: string, version: string) =>
    until(`${name} ${version}`, async () => {
      const plugin = await info(name);
      return plugin?.state === "on" && plugin.version === version && plugin.reason === undefined;
    });
  /** Publishes a value, and says whether the counting plugin has counted it. */
  async function isCounted(id: string): Promise<boolean> {
    const value = ++n;
    const from = samples.length;
    await device.publishAsync(`devices/${id}/t`, `{"n":${value}}`, { qos: 1 });
    await device.publishAsync("devices/mark/t", `{"n":${value}}`, { qos: 1 });
    await until("the mark", () =>
      samples.slice(from).some((one) => one.device === "mark" && one.values["n"] === value),
    );
    return samples.slice(from).some((one) => "count" in one.values);
  }

  beforeAll(async () => {
    mkdirSync(plugins);
    agent = await Agent.start(folder);
    samples = await agent.samples();
    device = await agent.client();
  });
  afterAll(async () => {
    await agent.kill();
    folder.remove();
  });

  test("a dropped plugin runs a moment later", async () => {
    expect(await isCounted("d")).toBe(false);
    drop("counting", fixture("counter"), { needs: { state: true } });
    await isOn("counting", "1.0.0");
    expect((await info("counting"))?.exports).toEqual(["transform"]);
    expect(await isCounted("d")).toBe(true);
  });

  test("a new version takes over with the state, and nothing is lost or doubled while data flows", async () => {
    let stop = false;
    const sent: number[] = [];
    const load = (async () => {
      while (!stop) {
        const value = ++n;
        await device.publishAsync("devices/load/t", `{"n":${value}}`, { qos: 1 });
        sent.push(value);
      }
    })();
    for (const version of ["1.0.1", "1.0.2", "1.0.3"]) {
      drop("counting", fixture("counter"), { version, needs: { state: true, publish: ["up/+"] } });
      await isOn("counting", version);
    }
    stop = true;
    await load;
    const arrived = () => samples.filter((one) => one.device === "load" && one.values["n"] !== undefined);
    await until("everything sent", () => arrived().length >= sent.length);
    expect(arrived().map((one) => one.values["n"])).toEqual(sent);
    // It counts every row that it was ever given, over all versions: the marks, too.
    const { lines } = await folder.api.ledger();
    const given = lines.find((line) => line.stage === "plugin" && line.name === "counting")?.out ?? 0;
    const counts = samples.flatMap((one) =>
      typeof one.values["count"] === "number" ? [one.values["count"]] : [],
    );
    expect(Math.max(...counts)).toBe(given);
    for (const line of lines) expect(imbalance(line), `${line.stage} ${line.name}`).toBe(0);
  });

  test("a refused file leaves the old version running and says why", async () => {
    drop("counting", "test/fixtures/hostile/truncated.wasm", { version: "2.0.0", needs: { state: true } });
    const plugin = await until("the refusal", async () => {
      const found = await info("counting");
      return found?.reason !== undefined && found;
    });
    expect(plugin).toMatchObject({ state: "on", version: "1.0.3" });
    expect(plugin.reason).toContain("the version before stays");
    expect(await isCounted("d")).toBe(true);
    // Who looks for what is wrong finds it, though the plugin is on.
    const { notes, ready } = await folder.api.readiness();
    expect(ready).toBe(true);
    expect(notes).toContainEqual(expect.stringMatching(/^plugin counting: what was dropped is refused/));
    expect(notes).toContainEqual(expect.stringMatching(/^plugin no-such: a rule names it as decoder/));
    const { stdout } = weir("check", "--config", folder.config);
    expect(stdout).toContain("counting: what was dropped is refused");
    expect(stdout).toContain("drop it into plugins.dir, or mend the rule");

    // Settings that the plugin's schema refuses are refused with the whole configuration, and looked for in the same place.
    drop("limited", fixture("passthrough"), {
      configSchema: { type: "object", properties: { n: { type: "number" } } },
    });
    await isOn("limited", "1.0.0");
    const good = readFileSync(folder.config, "utf8");
    writeFileSync(
      folder.config,
      stringify({ ...parse(good), plugins: { dir: plugins, limited: { config: { n: "x" } } } }),
    );
    const refused = weir("reload", "--config", folder.config);
    expect(refused).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("plugins.limited: config: n: "),
    });
    expect(weir("config", "validate", folder.config)).toMatchObject({ status: 2 });
    expect(weir("check", "--config", folder.config).stdout).toContain("the latest was refused");
    writeFileSync(folder.config, good);
    expect(weir("reload", "--config", folder.config).status).toBe(0);
  });

  test("a version that doesn't start leaves the old one running", async () => {
    drop("counting", "test/fixtures/hostile/trap-configure.wasm", { version: "2.0.1" });
    const plugin = await until("the failure", async () => {
      const found = await info("counting");
      return found?.reason?.includes("2.0.1") && found;
    });
    expect(plugin).toMatchObject({ state: "on", version: "1.0.3" });
  });

  test("a version that fails its first chunks gives way to the one before by itself", async () => {
    drop("counting", "test/fixtures/hostile/trap.wasm", { version: "2.0.2" });
    await isOn("counting", "2.0.2");
    expect(await isCounted("d")).toBe(true);
    await until("the way back", async () =>
      (await info("counting"))?.reason?.includes("the one before runs again"),
    );
    expect(await info("counting")).toMatchObject({ state: "on", version: "1.0.3" });
    expect(weir("plugin", "logs", "counting", "--config", folder.config).stdout).toContain(
      "the one before runs again",
    );
    await agent.kill();
    agent = await Agent.start(folder);
    expect(await info("counting")).toMatchObject({ state: "on", version: "1.0.3" });
  });

  test("a rollback holds until the dropped file changes, over a restart of the agent", async () => {
    drop("pass", fixture("passthrough"), { version: "1.0.0" });
    await isOn("pass", "1.0.0");
    drop("pass", fixture("passthrough"), { version: "1.1.0" });
    await isOn("pass", "1.1.0");
    expect(weir("plugin", "rollback", "pass", "--config", folder.config).status).toBe(0);
    expect(await info("pass")).toMatchObject({ version: "1.0.0", pinned: true, state: "on" });
    await agent.kill();
    agent = await Agent.start(folder);
    expect(await info("pass")).toMatchObject({ version: "1.0.0", pinned: true, state: "on" });
    drop("pass", fixture("passthrough"), { version: "1.2.0" });
    await isOn("pass", "1.2.0");
    expect(await info("pass")).toMatchObject({ pinned: false });
  });

  test("disable takes a plugin out over a restart, enable lets it in again", async () => {
    expect(weir("plugin", "disable", "pass", "--config", folder.config).status).toBe(0);
    expect(await info("pass")).toMatchObject({
      state: "disabled",
      reason: "disabled by `weir plugin disable`",
    });
    await agent.kill();
    agent = await Agent.start(folder);
    expect(await info("pass")).toMatchObject({ state: "disabled" });
    expect(weir("plugin", "enable", "pass", "--config", folder.config).status).toBe(0);
    expect(await info("pass")).toMatchObject({ state: "on" });
    expect(weir("plugin", "disable", "nobody", "--config", folder.config).stderr).toContain("no such plugin");
  });

  test("the plugin's part of weir.yaml takes effect without a restart and touches nothing else", async () => {
    const others = (await info("counting"))?.restarts;
    const text = readFileSync(folder.config, "utf8");
    writeFileSync(
      folder.config,
      text.replace("plugins:\n", "plugins:\n  pass: { bind: { devices: [only-*] } }\n"),
    );
    await until("the new binding", async () => (await info("pass"))?.bind === "devices:only-*");
    expect((await info("counting"))?.restarts).toBe(others);
    writeFileSync(folder.config, `${text}\nnonsense: 1\n`);
    await until("the refusal", () => agent.output.includes("nonsense"));
    expect((await info("pass"))?.bind).toBe("devices:only-*");
    writeFileSync(folder.config, text);
    await until("the old binding", async () => (await info("pass"))?.bind === "devices:*");
  });

  test("settings with which it fails its first chunks give way to those before, and the version stays", async () => {
    const text = readFileSync(folder.config, "utf8");
    writeFileSync(
      folder.config,
      text.replace("plugins:\n", "plugins:\n  pass: { limits: { outputBytes: 72 } }\n"),
    );
    device = await agent.client();
    await until("the way back", async () => {
      await device.publishAsync("devices/d/t", '{"n":1}', { qos: 1 });
      return (await info("pass"))?.reason?.includes("with its new settings it failed");
    });
    expect(await info("pass")).toMatchObject({ state: "on", version: "1.2.0", pinned: false });
    writeFileSync(folder.config, text);
    await isOn("pass", "1.2.0");
  });

  test("what runs goes on beside a file of its name and a broken manifest, over a restart, until it is disabled", async () => {
    const before = (await info("pass"))?.restarts;
    copyFileSync(fixture("decoder"), join(plugins, "pass.wasm"));
    await until("the file's refusal", async () => (await info("pass.wasm"))?.state === "refused");
    writeFileSync(join(plugins, "pass", "plugin.yaml"), "name: [");
    const refused = async () => (await info("pass"))?.reason?.includes("what was dropped is refused");
    await until("the manifest's refusal", refused);
    expect(await info("pass")).toMatchObject({ state: "on", version: "1.2.0", restarts: before });
    await agent.kill();
    agent = await Agent.start(folder);
    expect(await refused()).toBe(true);
    expect(await info("pass")).toMatchObject({ state: "on", version: "1.2.0" });
    const act = (action: string) => weir("plugin", action, "pass", "--config", folder.config);
    expect(act("rollback").stderr).toContain("can't be read");
    expect(act("disable").stdout).toContain("disabled");
    expect(act("enable").stdout).toContain("version 1.2.0");
    rmSync(join(plugins, "pass.wasm"));
    drop("pass", fixture("passthrough"), { version: "1.3.0" });
    await isOn("pass", "1.3.0");
    await until(
      "1.3.0 to be kept, beside the three before",
      async () => (await info("pass"))?.versions.length === 4,
    );
  });

  test("a version that does not start gives way to the one that ran last over a restart, too", async () => {
    drop("pass", "test/fixtures/hostile/trap-start.wasm", { version: "1.4.0" });
    const before = async () => (await info("pass"))?.reason?.includes("version 1.4.0 did not start");
    await until("the failed start", before);
    await agent.kill();
    agent = await Agent.start(folder);
    expect(await before()).toBe(true);
    expect(await info("pass")).toMatchObject({ state: "on", version: "1.3.0" });
  });

  test("links and odd names are refused with the reason; a removed plugin is gone", async () => {
    symlinkSync("/etc/passwd", join(plugins, "link.wasm"));
    copyFileSync(fixture("passthrough"), join(plugins, "Odd Name.wasm"));
    await until("the link's refusal", async () => (await info("link"))?.reason === "is a link");
    expect((await info("Odd Name"))?.state).toBe("refused");
    rmSync(join(plugins, "link.wasm"));
    rmSync(join(plugins, "pass"), { recursive: true });
    await until(
      "both to be gone",
      async () => (await info("link")) === undefined && (await info("pass")) === undefined,
    );
  });

  test("inspect and logs show what there is to know", async () => {
    const shown = weir("plugin", "inspect", "counting", "--config", folder.config);
    expect(shown.stdout).toContain("memoryMiB");
    expect(shown.stdout).toContain("seccomp");
    expect(shown.stdout).toContain("state, publish up/+");
    expect(shown.stdout).toContain("is granted  state\n");
    const folderOf = weir("plugin", "inspect", "./plugins/deadband");
    expect([folderOf.status, folderOf.stdout]).toEqual([0, expect.stringContaining("transform@0.1.0")]);
    const none = weir("plugin", "inspect", "./plugins", "--json");
    expect([none.status, JSON.parse(none.stdout).reason]).toEqual([1, "has no plugin.yaml"]);
    const vetted = weir("plugin", "inspect", "test/fixtures/hostile/forbidden-sockets.wasm");
    expect(vetted.status).toBe(1);
    expect(vetted.stdout).toContain("wasi:sockets");
    expect(weir("plugin", "inspect", fixture("decoder")).stdout).toContain("decoder");
  });
});

test("golden cases of both sample plugins pass; a case that doesn't is shown with its difference", () => {
  for (const name of ["deadband", "scale"]) {
    const run = weir("plugin", "test", `plugins/${name}`);
    expect(run.stdout, run.stderr).toMatch(/\d+ passed, 0 failed/);
    expect(run.status).toBe(0);
  }
  const folder = new AgentFolder();
  const copy = join(folder.dir, "scale");
  try {
    mkdirSync(copy);
    for (const file of ["plugin.yaml", "scale.wasm"]) copyFileSync(`plugins/scale/${file}`, join(copy, file));
    const broken = join(copy, "testcases", "broken");
    mkdirSync(broken, { recursive: true });
    writeFileSync(join(broken, "input.ndjson"), '{"device":"demo-1","ts":1,"values":{"temp_c":100}}\n');
    writeFileSync(join(broken, "expected.ndjson"), '{"device":"demo-1","ts":1,"values":{"temp_f":100}}\n');
    const run = weir("plugin", "test", copy);
    expect(run.status).toBe(1);
    expect(run.stdout).toContain('+ {"device":"demo-1","ts":1,"values":{"temp_f":212}}');
    // What passes by in the same sample keeps its kind.
    writeFileSync(
      join(broken, "input.ndjson"),
      '{"device":"demo-1","ts":1,"values":{"raw":{"b64":"AQI="}}}\n',
    );
    expect(weir("plugin", "test", copy).stdout).toContain(
      '+ {"device":"demo-1","ts":1,"values":{"raw":{"b64":"AQI="}}}',
    );
    writeFileSync(join(broken, "input.ndjson"), "\n{");
    expect(weir("plugin", "test", copy).stdout).toContain("input.ndjson, line 2: ");
  } finally {
    folder.remove();
  }
});
