/** Devices that go away: their last will, their silence, and their return. */
import mqtt from "mqtt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { batchIn } from "../../src/batch-tools.ts";
import { Agent, AgentFolder } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const folder = new AgentFolder({
  sources: {
    kernel: { enabled: false },
    system: { enabled: false },
    devices: [{ topic: "quick/{device}/t", staleAfter: "1s" }, { preset: "plain" }, { preset: "tasmota" }],
  },
  uplinks: { local: { url: "embedded", batch: { ageMs: 20 } } },
});
const seen: { device: string; q: string | undefined; values: Readonly<Record<string, unknown>> }[] = [];
const last = new Map<string, Record<string, unknown>>();
let agent: Agent;

beforeAll(async () => {
  agent = await Agent.start(folder);
  const reader = await agent.client();
  reader.on("message", (topic, payload) => {
    if (topic.includes("/last/")) last.set(topic.split("/").at(-1) ?? "", JSON.parse(payload.toString()));
    else
      for (const { device, q, values } of batchIn(payload)?.samples ?? []) seen.push({ device, q, values });
  });
  await reader.subscribeAsync(["weir/v1/gw/data", "weir/v1/gw/last/+"], { qos: 1 });
});
afterAll(async () => {
  await agent.kill();
  folder.remove();
});

const of = (name: string) => seen.filter(({ device }) => device === name).map(({ q, values }) => [q, values]);

/** A device with a will, which goes without a goodbye. */
async function vanish(topic: string, payload: string, willTopic: string, will: string): Promise<void> {
  const device = await mqtt.connectAsync(`mqtt://${await agent.broker()}`, {
    reconnectPeriod: 0,
    will: { topic: willTopic, payload: Buffer.from(will), qos: 1, retain: false },
  });
  await device.publishAsync(topic, payload, { qos: 1 });
  device.stream.destroy();
}

test("a device whose last will comes is gone, its latest values are stale, and its next message brings it back", async () => {
  await vanish("devices/pump/t", '{"rpm":1}', "devices/pump/note", "bye");
  await until("the device to be gone", () => of("pump").some(([, values]) => "available" in Object(values)));
  expect(of("pump")).toEqual([
    [undefined, { rpm: 1 }],
    [undefined, { note: "bye" }],
    ["stale", { available: false }],
  ]);
  await until("its latest values", () => last.get("pump")?.["_q"] === "stale");
  expect(last.get("pump")).toMatchObject({ rpm: 1, available: false });
  const device = await agent.client();
  await device.publishAsync("devices/pump/t", '{"rpm":2}', { qos: 1 });
  await until("the device to be back", () => of("pump").length === 4);
  expect(of("pump")[3]).toEqual([undefined, { available: true, rpm: 2 }]);
  await until("its latest values", () => last.get("pump")?.["_q"] === "good");
});

test("a device that tells of its availability itself is not told of twice", async () => {
  await vanish("tele/plug/SENSOR", '{"power":5}', "tele/plug/LWT", "Offline");
  await vanish("devices/other/t", '{"rpm":1}', "devices/other/note", "bye");
  await until("both to be gone", () => of("other").length === 3 && of("plug").length >= 2);
  expect(of("plug")).toEqual([
    [undefined, { power: 5 }],
    ["stale", { available: false }],
  ]);
});

test("a device that is silent for longer than its rule says is gone, once", async () => {
  const device = await agent.client();
  await device.publishAsync("quick/probe/t", '{"n":1}', { qos: 1 });
  await until("the device to be gone", () => of("probe").length === 2);
  await device.publishAsync("quick/probe/t", '{"n":2}', { qos: 1 });
  await until("it to be gone again", () => of("probe").length === 4);
  expect(of("probe")).toEqual([
    [undefined, { n: 1 }],
    ["stale", { available: false }],
    [undefined, { available: true, n: 2 }],
    ["stale", { available: false }],
  ]);
});
