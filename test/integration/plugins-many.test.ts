/** A gateway with a hundred plugins and ten thousand devices. */
import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { batchIn } from "../../src/batch-tools.ts";
import { imbalance } from "../../src/core/ledger.ts";
import { Agent, AgentFolder } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const PLUGINS = 100;
const DEVICES = 10_000;
const names = Array.from({ length: PLUGINS }, (_, i) => `p${i}`);
const folder = new AgentFolder({
  sources: { kernel: { enabled: false }, system: { enabled: false } },
  plugins: {
    dir: "plugins",
    ...Object.fromEntries(
      names.map((name) => [name, { bind: { devices: [`${name}-*`] }, limits: { timeMs: 10_000 } }]),
    ),
  },
});
let agent: Agent;

beforeAll(async () => {
  const plugins = join(folder.dir, "plugins");
  mkdirSync(plugins);
  for (const name of names)
    copyFileSync("test/fixtures/plugins/passthrough.wasm", join(plugins, `${name}.wasm`));
  agent = await Agent.start(folder);
});
afterAll(async () => {
  await agent.kill();
  folder.remove();
});

test("all run, each gets its own devices' rows, and every device's row arrives once", async () => {
  const plugins = await until("every plugin to be on", async () => {
    const all = await folder.api.plugins();
    return all.length === PLUGINS && all.every(({ state }) => state === "on") ? all : undefined;
  });
  expect(plugins.every(({ failures }) => failures === 0)).toBe(true);

  const came = new Map<string, number>();
  const reader = await agent.client();
  reader.on("message", (_topic, payload) => {
    for (const { device, values } of batchIn(payload)?.samples ?? []) {
      expect(came.has(device)).toBe(false);
      came.set(device, Number(values["n"]));
    }
  });
  await reader.subscribeAsync("weir/v1/gw/data", { qos: 1 });
  const sender = await agent.client();
  const published: Promise<unknown>[] = [];
  for (let i = 0; i < DEVICES; i++) {
    const topic = `devices/p${i % PLUGINS}-${i}/t`;
    published.push(sender.publishAsync(topic, `{"n":${i}}`, { qos: 1 }));
  }
  await Promise.all(published);
  await until("every device's row", () => came.size === DEVICES);
  for (let i = 0; i < DEVICES; i++) expect(came.get(`p${i % PLUGINS}-${i}`)).toBe(i);

  const { lines } = await folder.api.ledger();
  for (const name of names) {
    const line = lines.find((one) => one.stage === "plugin" && one.name === name);
    expect(line, name).toMatchObject({ in: DEVICES / PLUGINS, out: DEVICES / PLUGINS });
  }
  for (const line of lines) expect(imbalance(line), `${line.stage} ${line.name}`).toBe(0);
});
