/** Options through the whole agent. */
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { imbalance } from "../../src/core/ledger.ts";
import { Agent, AgentFolder, weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function start(config: Readonly<Record<string, unknown>>, plugin?: string): Promise<Agent> {
  const folder = new AgentFolder({
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    ...config,
  });
  cleanups.push(() => folder.remove());
  if (plugin !== undefined) {
    mkdirSync(join(folder.dir, "plugins", "slow"), { recursive: true });
    cpSync(plugin, join(folder.dir, "plugins", "slow", "slow.wasm"));
    writeFileSync(
      join(folder.dir, "plugins", "slow", "plugin.yaml"),
      "{ name: slow, version: 1.0.0, component: slow.wasm }",
    );
  }
  const agent = await Agent.start(folder);
  cleanups.push(() => agent.kill());
  return agent;
}

test("chunkSamples is what one commit stores, twice as many while an earlier one is under way", async () => {
  const agent = await start({ pipeline: { chunkSamples: 16, lingerMs: 1000 } });
  const device = await agent.client();
  const values = JSON.stringify(Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`v${i}`, i])));
  await Promise.all(Array.from({ length: 64 }, () => device.publishAsync("devices/a/t", values, { qos: 1 })));
  await device.endAsync();
  const { http } = await agent.folder.api.status();
  const page = await (await fetch(`http://${http}/metrics`)).text();
  const chunks = Number(/^weir_chain_seconds_count (\d+)$/m.exec(page)?.[1]);
  expect(chunks).toBeGreaterThanOrEqual((64 * 16) / 32);
});

test("queueMiB is what is held for inputs: above it QoS 0 is dropped and counted", async () => {
  const agent = await start(
    {
      pipeline: { queueMiB: 1 },
      plugins: { dir: "plugins", slow: { bind: { devices: ["stuck"] }, limits: { timeMs: 6_000 } } },
    },
    "test/fixtures/hostile/spin.wasm",
  );
  const { api } = agent.folder;
  await until("the plugin", async () => (await api.plugins()).some(({ state }) => state === "on"));
  const device = await agent.client();
  const stuck = device.publishAsync("devices/stuck/t", "1", { qos: 1 });
  const text = JSON.stringify("x".repeat(1_000));
  const source = async () =>
    (await api.ledger()).lines.find(({ stage, name }) => stage === "source" && name === "devices");
  await until("some to be dropped", async () => {
    for (let i = 0; i < 1_000; i++) device.publish("devices/a/t", text);
    return ((await source())?.dropped ?? 0) > 0;
  });
  await stuck;
  await device.endAsync();
  const lines = await until("the rest to be committed", async () => {
    const now = (await api.ledger()).lines;
    return now.every(({ held, stage }) => held === 0 || stage === "outbox") && now;
  });
  for (const line of lines) expect(imbalance(line), `${line.stage} ${line.name}`).toBe(0);
});

test("ttl is how long a batch may wait for an uplink; then it is dropped, for that uplink alone", async () => {
  const agent = await start({ uplinks: { cloud: { url: "mqtt://127.0.0.1:9", ttl: { data: "1s" } } } });
  const { api } = agent.folder;
  const device = await agent.client();
  await device.publishAsync("devices/a/t", "1", { qos: 1 });
  await device.endAsync();
  const line = async (name: string) => (await api.ledger()).lines.find((one) => one.name === name);
  await until("it to be dropped", async () => (await line("cloud/data"))?.dropped === 1);
  await until("the other uplink", async () => (await line("local/data"))?.out === 1);
});

test("without source kernel, probe ls and probe on say what turns it on", async () => {
  const agent = await start({});
  const said = /kernel probes are off: set sources\.kernel\.enabled to true/;
  const listed = weir("probe", "ls", "--config", agent.folder.config);
  expect(listed.stdout).toMatch(said);
  expect(weir("probe", "on", "dns", "--for", "5s", "--config", agent.folder.config).stderr).toMatch(said);
});
