import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt from "mqtt";
import { afterEach, expect, test } from "vitest";
import { Agent, AgentFolder, hasProgram, weir } from "../helpers/agent.ts";
import { freePort } from "../helpers/free-port.ts";
import { until } from "../helpers/until.ts";

const LONG = process.env["WEIR_LONG"] === "1";
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });

test.skipIf(!hasProgram("mosquitto"))(
  "a mosquitto that has the port is read from and published on, QoS 1 and all (needs mosquitto)",
  async () => {
    const port = await freePort();
    const dir = mkdtempSync(join(tmpdir(), "weir-neighbour-"));
    const config = join(dir, "m.conf");
    writeFileSync(config, `listener ${port} 127.0.0.1\nallow_anonymous true\n`);
    const mosquitto = spawn("mosquitto", ["-c", config], { stdio: "ignore" });
    cleanups.push(
      () => rmSync(dir, { recursive: true }),
      () => mosquitto.kill(),
    );
    await until("mosquitto to listen", () => answers(port));
    const folder = new AgentFolder({
      broker: { port },
      uplinks: { local: { url: "embedded", batch: { ageMs: 50 } } },
    });
    const agent = await Agent.start(folder);
    cleanups.push(
      () => folder.remove(),
      () => agent.kill(),
    );
    expect(agent.output).toContain("is another broker's");
    expect(await agent.broker()).toBe(`127.0.0.1:${port}`);
    const heard: string[] = [];
    const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`);
    cleanups.push(() => client.endAsync(true));
    client.on("message", (topic, payload) => heard.push(`${topic} ${payload}`));
    await client.subscribeAsync("weir/v1/gw/#", { qos: 1 });
    await until("the birth", () => heard.some((text) => text.startsWith("weir/v1/gw/status")));
    await client.publishAsync("devices/pump-1/t", '{"temp_c":71.5}', { qos: 1 });
    const arrived = (): boolean => heard.some((text) => /^weir\/v1\/gw\/data .*"temp_c":71\.5/.test(text));
    await until("the device's message to be published on mosquitto", arrived);
    const { lines } = await folder.api.ledger();
    const source = lines.find(({ stage, name }) => stage === "source" && name === "mqtt/_neighbour");
    expect(source).toMatchObject({ in: 1, out: 1 });
    expect(weir("check", "--config", folder.config).stdout).toContain(
      `another program's on 127.0.0.1:${port}`,
    );
    mosquitto.kill();
    const away = async (): Promise<boolean> =>
      (await folder.api.status()).parts.some(
        ({ name, reason }) => name === "uplink local" && reason?.includes("can't be reached") === true,
      );
    await until("the uplink to say so", away, 30_000);
    if (LONG) {
      // A minute later its place is free.
      await until("Weir to listen there", () => answers(port), 120_000);
      const later = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`);
      cleanups.push(() => later.endAsync(true));
      later.on("message", (topic, payload) => heard.push(`${topic} ${payload}`));
      heard.length = 0;
      await later.subscribeAsync("weir/v1/gw/#", { qos: 1 });
      await until("the birth there", () => heard.some((text) => text.includes('"status":"online"')), 20_000);
      await later.publishAsync("devices/pump-1/t", '{"temp_c":72.5}', { qos: 1 });
      await until("what a device says there", () => heard.some((text) => text.includes("72.5")), 30_000);
    }
    const began = performance.now();
    expect(await agent.stop()).toBe(0);
    if (LONG) expect(performance.now() - began, "the stop, in milliseconds").toBeLessThan(3_000);
  },
);

test("another Weir that has the port is left alone: the agent says that the port is taken", async () => {
  const first = new AgentFolder();
  const other = await Agent.start(first);
  const port = Number((await other.broker()).split(":")[1]);
  const folder = new AgentFolder({ broker: { port } });
  const agent = await Agent.start(folder);
  cleanups.push(
    () => first.remove(),
    () => folder.remove(),
    () => other.kill(),
    () => agent.kill(),
  );
  expect(agent.output).toContain(`127.0.0.1:${port} is taken`);
  expect((await folder.api.status()).broker).toBeUndefined();
});
