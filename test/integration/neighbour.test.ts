import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt from "mqtt";
import { afterEach, expect, test } from "vitest";
import { Agent, AgentFolder, hasProgram, weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  return typeof address === "object" && address !== null ? address.port : 0;
}

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
    await until("mosquitto to listen", () => answers(port), 20_000);
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
    await until("the birth", () => heard.some((text) => text.startsWith("weir/v1/gw/status")), 20_000);
    await client.publishAsync("devices/pump-1/t", '{"temp_c":71.5}', { qos: 1 });
    const arrived = (): boolean => heard.some((text) => /^weir\/v1\/gw\/data .*"temp_c":71\.5/.test(text));
    await until("the device's message to be published on mosquitto", arrived, 30_000);
    const { lines } = await folder.api.ledger();
    const source = lines.find(({ stage, name }) => stage === "source" && name === "mqtt/_neighbour");
    expect(source).toMatchObject({ in: 1, out: 1 });
    expect(weir("check", "--config", folder.config).stdout).toContain(
      `another program's on 127.0.0.1:${port}`,
    );
    expect(await agent.stop()).toBe(0);
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
