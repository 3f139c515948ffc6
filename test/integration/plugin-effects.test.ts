/** What plugins ask to have done reaches devices and subscribers, after the commit, as far as it is granted. */
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { batchIn } from "../../src/batch-tools.ts";
import type { SampleObject } from "../../src/consume/batch.ts";
import { Agent, AgentFolder } from "../helpers/agent.ts";
import { eventually } from "../helpers/eventually.ts";
import { until } from "../helpers/until.ts";

const folder = new AgentFolder({
  sources: { kernel: { enabled: false }, system: { enabled: false } },
  uplinks: { local: { url: "embedded", batch: { ageMs: 20 } } },
  plugins: {
    dir: "plugins",
    publisher: { bind: { devices: ["valve-*"] }, grant: { publish: ["devices/+/set"] } },
    denied: { bind: { devices: ["other-*"] } },
    alarmer: { bind: { devices: ["boiler-*"] } },
    ticker: { bind: { devices: ["demo-*"] } },
  },
});
const got: { topic: string; text: string }[] = [];
const samples: (SampleObject & { stream: string })[] = [];
let agent: Agent;

beforeAll(async () => {
  const plugins = join(folder.dir, "plugins");
  mkdirSync(plugins);
  copyFileSync("test/fixtures/plugins/publisher.wasm", join(plugins, "publisher.wasm"));
  copyFileSync("test/fixtures/plugins/publisher.wasm", join(plugins, "denied.wasm"));
  for (const [name, manifest] of [
    ["alarmer", "needs: { alarm: true }"],
    ["ticker", "scheduleMs: 100"],
  ] as const) {
    mkdirSync(join(plugins, name));
    copyFileSync(`test/fixtures/plugins/${name}.wasm`, join(plugins, name, `${name}.wasm`));
    writeFileSync(
      join(plugins, name, "plugin.yaml"),
      `name: ${name}\nversion: "1"\ncomponent: ${name}.wasm\n${manifest}\n`,
    );
  }
  agent = await Agent.start(folder);
  const reader = await agent.client();
  reader.on("message", (topic, payload) => {
    const batch = batchIn(payload);
    if (batch === undefined) got.push({ topic, text: payload.toString() });
    else samples.push(...batch.samples.map((sample) => ({ ...sample, stream: batch.stream })));
  });
  await reader.subscribeAsync(["weir/#", "devices/+/set"], { qos: 1 });
});
afterAll(async () => {
  await agent.kill();
  folder.remove();
});

async function send(device: string, value: number): Promise<void> {
  const client = await agent.client();
  await client.publishAsync(`devices/${device}/t`, `{"v":${value}}`, { qos: 1 });
  await client.endAsync();
}

test("a granted publish reaches the device, and is not taken for a message of the device", async () => {
  await send("valve-1", 5);
  await until("the command", () =>
    got.find(({ topic, text }) => topic === "devices/valve-1/set" && text === "1"),
  );
  await until("the sample", () => samples.some((sample) => sample.device === "valve-1"));
  await eventually(async () => {
    const { lines } = await folder.api.ledger();
    expect(lines.find((line) => line.stage === "source" && line.name === "devices")?.in).toBe(1);
    expect(lines.find((line) => line.stage === "effects")).toMatchObject({ in: 1, out: 1 });
  });
});

test("a publish without a grant is refused and logged once, with the line to add", async () => {
  await send("other-1", 5);
  await send("other-1", 6);
  await until("both samples", () => samples.filter((sample) => sample.device === "other-1").length === 2);
  expect(got.some(({ topic }) => topic === "devices/other-1/set")).toBe(false);
  const { logs } = await folder.api.plugin("denied");
  const lines = logs.filter(({ message }) => message.includes("grant"));
  expect(lines.filter(({ message }) => message.includes("grant: { publish"))).toHaveLength(1);
});

test("an alarm is three rows of the alarm stream and a retained topic, which its end clears", async () => {
  const topic = "weir/v1/gw/alarm/boiler-1/high";
  await send("boiler-1", 150);
  const raised = await until("the retained alarm", () => got.find((one) => one.topic === topic));
  expect(JSON.parse(raised.text)).toMatchObject({ severity: "critical", message: "above 100" });
  const sample = await until("the alarm stream", () =>
    samples.find((one) => one.stream === "alarm" && one.device === "boiler-1"),
  );
  expect(sample.values).toMatchObject({ "alarm.active;code=high": true });
  await send("boiler-1", 20);
  await until("its end", () => got.some((one) => one.topic === topic && one.text === ""));
});

test("a timer's rows arrive by themselves", async () => {
  await until("ticks", () => samples.filter((sample) => sample.device === "demo-ticker").length >= 2);
});
