import { spawn, spawnSync } from "node:child_process";
import { cpSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import mqtt from "mqtt";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { batchIn } from "../../src/batch-tools.ts";
import type { Batch } from "../../src/consume/batch.ts";
import { imbalance } from "../../src/core/ledger.ts";
import { Agent, AgentFolder, hasProgram, weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

describe("a whole agent with the sample plugins", () => {
  const folder = new AgentFolder({ sources: { kernel: { intervalMs: 500 }, system: { intervalMs: 500 } } });
  let agent: Agent;
  const batches: Batch[] = [];
  const retained = new Map<string, string>();

  beforeAll(async () => {
    cpSync("plugins", join(folder.dir, "plugins"), { recursive: true });
    agent = await Agent.start(folder);
    const client = await agent.client();
    client.on("message", (topic, payload) => {
      const batch = batchIn(payload);
      if (batch === undefined) retained.set(topic, payload.toString());
      else batches.push(batch);
    });
    await client.subscribeAsync("weir/#");
    cleanupAll.push(() => client.endAsync());
  });
  const cleanupAll: (() => unknown)[] = [];
  afterAll(async () => {
    for (const cleanup of cleanupAll) await cleanup();
    await agent.kill();
    folder.remove();
  });

  const samplesOf = (device: string) =>
    batches.flatMap((batch) => batch.samples.filter((sample) => sample.device === device));

  test("a device's message appears upstream with its values, and as the device's retained last", async () => {
    const device = await agent.client();
    await device.publishAsync("devices/pump-1/telemetry", '{"temp_c":71.2,"rpm":1480}', { qos: 1 });
    await device.endAsync();
    const [sample] = await until("pump-1 upstream", () => {
      const found = samplesOf("pump-1");
      return found.length > 0 && found;
    });
    expect(sample?.values).toEqual({ temp_c: 71.2, rpm: 1480 });
    const last = await until("the retained last", () => retained.get("weir/v1/gw/last/pump-1"));
    expect(JSON.parse(last)).toMatchObject({ temp_c: 71.2, rpm: 1480, _q: "good" });
  });

  test("a demo device's message is changed by the JavaScript plugin", async () => {
    const device = await agent.client();
    await device.publishAsync("devices/demo-1/telemetry", '{"temp_c":100}', { qos: 1 });
    await device.endAsync();
    const [sample] = await until("demo-1 upstream", () => {
      const found = samplesOf("demo-1");
      return found.length > 0 && found;
    });
    expect(sample?.values).toEqual({ temp_f: 212 });
  });

  test("the C plugin reports a demo device by exception: a value inside the band does not pass", async () => {
    const device = await agent.client();
    await device.publishAsync("devices/demo-2/telemetry", '{"level":10}', { qos: 1 });
    await device.publishAsync("devices/demo-2/telemetry", '{"level":10}', { qos: 1 });
    await device.publishAsync("devices/demo-2/telemetry", '{"level":50}', { qos: 1 });
    await device.endAsync();
    await until("the second passed value", () => samplesOf("demo-2").length >= 2);
    expect(samplesOf("demo-2").map((sample) => sample.values["level"])).toEqual([10, 50]);
  });

  test.skipIf(process.getuid?.() !== 0)(
    "the kernel's own events arrive in the host stream (needs root for eBPF)",
    async () => {
      spawnSync("true");
      await new Promise<void>((done) => {
        const server = createServer((socket) => socket.end()).listen(0, "127.0.0.1", () => {
          const address = server.address();
          const client = spawn("sh", [
            "-c",
            `exec 3<>/dev/tcp/127.0.0.1/${typeof address === "object" ? address?.port : 0}`,
          ]);
          client.on("exit", () => server.close(() => done()));
        });
      });
      const metrics = await until("exec events and run-queue latency", () => {
        const names = new Set(samplesOf("_gateway").flatMap((sample) => Object.keys(sample.values)));
        const seen = [...names];
        return (
          seen.some((name) => name.includes("exec")) && seen.some((name) => name.includes(";le=")) && seen
        );
      });
      expect(metrics.some((name) => name.startsWith("system.cpu."))).toBe(true);
    },
  );

  test("a payload that is not valid is acknowledged, rejected with its reason, and shown", async () => {
    const device = await agent.client();
    await device.publishAsync("devices/pump-1/telemetry", '{"temp_c":', { qos: 1 });
    await device.endAsync();
    const shown = weir("tail", "--rejected", "--json", "-n", "1", "--config", folder.config);
    expect(shown.status).toBe(0);
    expect(JSON.parse(shown.stdout)).toMatchObject({
      topic: "devices/pump-1/telemetry",
      payload: '{"temp_c":',
    });
  });

  test("the ledger adds up in every stage", async () => {
    const { lines } = await folder.api.ledger();
    for (const stage of ["source", "decode", "plugin", "commit", "outbox"]) {
      expect(
        lines.some((line) => line.stage === stage),
        stage,
      ).toBe(true);
    }
    for (const line of lines) expect(imbalance(line), `${line.stage} ${line.name}`).toBe(0);
    const decode = lines.find((line) => line.stage === "decode");
    expect(decode).toMatchObject({ in: 6, out: 5, rejected: 1 });
  });

  test("listings and their JSON agree with the agent", () => {
    const plugins = weir("plugin", "ls", "--json", "--config", folder.config);
    expect(JSON.parse(plugins.stdout)).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ name: "deadband", state: "on" }),
        expect.objectContaining({ name: "scale", state: "on" }),
      ]),
    );
    expect(weir("probe", "ls", "--config", folder.config).stdout).toContain("sched");
    expect(weir("ledger", "--config", folder.config).status).toBe(0);
    expect(weir("check", "--config", folder.config).stdout).toContain("kernel");
  });

  test("tail shows the stream decoded", () => {
    const shown = weir("tail", "--json", "-n", "1", "--config", folder.config);
    expect(JSON.parse(shown.stdout)).toMatchObject({ stream: "host", device: "_gateway" });
  });

  test.skipIf(!hasProgram("mosquitto_sub"))(
    "mosquitto_sub reads the status and batches (needs mosquitto-clients)",
    async () => {
      const [host = "", port = ""] = (await agent.broker()).split(":");
      const read = spawnSync("mosquitto_sub", [
        "-h",
        host,
        "-p",
        port,
        "-t",
        "weir/v1/gw/status",
        "-C",
        "1",
        "-W",
        "60",
      ]);
      expect(JSON.parse(read.stdout.toString())).toMatchObject({ status: "online", gateway: "gw" });
    },
  );

  test("SIGTERM ends it within ten seconds with exit code 0", async () => {
    // Had it taken longer, it would have ended itself, with code 1.
    expect(await agent.stop()).toBe(0);
  });
});

test("a second agent on the same data folder is refused and says who holds it", async () => {
  const folder = new AgentFolder();
  const agent = await Agent.start(folder);
  cleanups.push(
    () => folder.remove(),
    () => agent.kill(),
  );
  const second = weir("run", "--config", folder.config);
  expect(second.status).toBe(1);
  expect(second.stderr).toContain(`pid ${(await folder.api.status()).pid}`);
});

test("with the broker's port taken the agent runs without broker and local uplink, and says how to mend it", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => taken.once("listening", done));
  const address = taken.address();
  const port = typeof address === "object" ? address?.port : undefined;
  const folder = new AgentFolder({ broker: { port } });
  const agent = await Agent.start(folder);
  cleanups.push(
    () => folder.remove(),
    () => taken.close(),
    () => agent.kill(),
  );
  expect((await folder.api.status()).broker).toBeUndefined();
  expect(agent.output).toContain(`127.0.0.1:${port} is taken`);
  expect(agent.output).toContain("broker.port");
  const { parts } = await folder.api.status();
  expect(parts.find(({ name }) => name === "uplink local")).toMatchObject({ state: "failed" });
});

test("an uplink to another broker gets the batches too, and a dead one does not hold local up", async () => {
  const broker = await import("aedes").then(({ Aedes }) => Aedes.createBroker());
  const server = createServer(broker.handle).listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const address = server.address();
  const port = typeof address === "object" ? address?.port : undefined;
  const batches: Batch[] = [];
  const folder = new AgentFolder({
    uplinks: {
      cloud: { url: `mqtt://127.0.0.1:${port}`, streams: ["data"], version: 4, batch: { ageMs: 50 } },
      dead: { url: "mqtt://127.0.0.1:1", batch: { ageMs: 50 } },
      local: { url: "embedded", batch: { ageMs: 50 } },
    },
  });
  const agent = await Agent.start(folder);
  cleanups.push(
    () => folder.remove(),
    () => new Promise((done) => server.close(done)),
    () => broker.close(),
    () => agent.kill(),
  );
  const reader = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`);
  cleanups.push(() => reader.endAsync(true));
  reader.on("message", (_topic, payload) => {
    const batch = batchIn(payload);
    if (batch !== undefined) batches.push(batch);
  });
  await reader.subscribeAsync("weir/#");
  const device = await agent.client();
  await device.publishAsync("devices/pump-1/t", '{"v":1}', { qos: 1 });
  await device.endAsync();
  await until("the batch upstream", () => batches.length > 0);
  expect(batches[0]).toMatchObject({ stream: "data", seq: 0, span: 1 });
  const line = await until("local to be acknowledged", async () => {
    const { lines } = await folder.api.ledger();
    return lines.find((one) => one.stage === "outbox" && one.name === "local/data" && one.out === 1);
  });
  expect(imbalance(line)).toBe(0);
  const { lines } = await folder.api.ledger();
  expect(lines.find((one) => one.name === "dead/data")).toMatchObject({ in: 1, out: 0, held: 1 });
});
