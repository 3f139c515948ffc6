/** What is known of devices outlasts the agent: kill -9, a stop, other rules; and what brokers had kept is taken in. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import mqtt from "mqtt";
import { afterEach, expect, test } from "vitest";
import { parse, stringify } from "yaml";
import { crc32c } from "../../src/addon/index.ts";
import { batchIn } from "../../src/batch-tools.ts";
import { loadFrame } from "../../src/outbox/blocks.ts";
import { Mosquitto } from "../faults/harness/mosquitto.ts";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const uplinks = { local: { url: "embedded", batch: { ageMs: 20 } } };
const quiet = { kernel: { enabled: false }, system: { enabled: false } };

/** What a fresh subscriber sees: retained messages by topic without the gateway's part, and samples. */
async function reader(agent: Agent) {
  const retained = new Map<string, Record<string, unknown>>();
  const samples: { device: string; values: Readonly<Record<string, unknown>> }[] = [];
  const client = await agent.client();
  client.on("message", (topic, payload) => {
    if (topic.endsWith("/data")) samples.push(...(batchIn(payload)?.samples ?? []));
    else retained.set(topic.split("/").slice(3).join("/"), JSON.parse(payload.toString()));
  });
  await client.subscribeAsync(["weir/v1/gw/data", "weir/v1/gw/last/+", "weir/v1/gw/meta/+"], { qos: 1 });
  return { client, retained, samples };
}

async function started(folder: AgentFolder): Promise<Agent> {
  const agent = await Agent.start(folder);
  cleanups.push(() => agent.kill());
  return agent;
}

/** Waits until the database has these metrics, and these words about devices. */
async function stored(
  folder: AgentFolder,
  metrics: readonly string[],
  words: readonly string[],
): Promise<void> {
  const db = new Database(join(folder.dir, "data", "weir.db"), { readonly: true });
  cleanups.push(() => db.close());
  const blocks = db.prepare<[], Buffer>("SELECT block FROM last").pluck();
  const about = db.prepare<[], string>("SELECT about FROM device").pluck();
  await until("what is known to be stored", () => {
    const known = blocks.all().flatMap((block) => loadFrame(block, crc32c).metrics);
    const said = about.all().join();
    return metrics.every((name) => known.includes(name)) && words.every((word) => said.includes(word));
  });
}

test("last and meta are there after kill -9, a stop and other rules; a device that was gone comes back", async () => {
  const rule = { topic: "plant/{device}/t", metrics: { rpm: { unit: "/min", description: "of the shaft" } } };
  const folder = new AgentFolder({
    gateway: { name: "gw", labels: { site: "turin" } },
    sources: { ...quiet, devices: [rule, { preset: "plain" }] },
    uplinks,
  });
  cleanups.push(() => folder.remove());
  const first = await started(folder);
  const device = await mqtt.connectAsync(`mqtt://${await first.broker()}`, {
    reconnectPeriod: 0,
    will: { topic: "plant/pump/t", payload: Buffer.from('{"rpm":0}'), qos: 1, retain: false },
  });
  await device.publishAsync("plant/pump/t", '{"rpm":1480,"note":"warm"}', { qos: 1 });
  const other = await first.client();
  await other.publishAsync(
    "devices/valve/$about",
    '{"model":"V2","metrics":{"open":{"description":"fully"}}}',
    { qos: 1 },
  );
  await other.publishAsync("devices/valve/t", '{"open":true}', { qos: 1 });
  const { retained } = await reader(first);
  device.stream.destroy();
  await until("the device to be gone", () => retained.get("last/pump")?.["_q"] === "stale");
  await until("its rule to be known", () => retained.get("meta/pump")?.["rule"] !== undefined);
  await until("the other's model", () => retained.get("meta/valve")?.["model"] !== undefined);
  expect(retained.get("meta/pump")).toMatchObject({
    v: 1,
    gateway: "gw",
    labels: { site: "turin" },
    device: "pump",
    source: "devices",
    rule: "plant/{device}/t",
    decoder: "json",
    metrics: { rpm: { kind: "number", unit: "/min", description: "of the shaft" }, note: { kind: "text" } },
  });
  await until(
    "the other's rule and value",
    () => retained.get("meta/valve")?.["rule"] !== undefined && retained.has("last/valve"),
  );
  await stored(folder, ["available", "open"], ["plant/{device}/t", "devices/{device}/{channel}", "V2"]);
  await first.kill();

  const second = await started(folder);
  const after = await reader(second);
  await until("all to be there", () => after.retained.size === 4);
  for (const [topic, body] of after.retained) expect(body).toEqual(retained.get(topic));
  expect(after.retained.get("last/pump")).toMatchObject({
    rpm: 0,
    note: "warm",
    available: false,
    _q: "stale",
  });

  // Another rule for the same device.
  const config = parse(readFileSync(folder.config, "utf8"));
  config.sources.devices = [{ topic: "plant/{device}/+" }, { preset: "plain" }];
  writeFileSync(folder.config, stringify(config));
  await folder.api.reload();
  const back = await reader(second);
  const again = await second.client();
  await again.publishAsync("plant/pump/t", '{"rpm":7}', { qos: 1 });
  await until("the device to be back", () => back.retained.get("last/pump")?.["_q"] === "good");
  expect(back.samples.find(({ values }) => "available" in values)).toMatchObject({
    values: { available: true },
  });
  expect(back.retained.get("last/pump")).toMatchObject({ rpm: 7, note: "warm", available: true });
  await until("the new rule", () => back.retained.get("meta/pump")?.["rule"] === "plant/{device}/+");
  expect(await second.stop()).toBe(0);

  // An orderly stop keeps all of it.
  const third = await reader(await started(folder));
  await until("all to be there", () => third.retained.size === 4);
  expect(third.retained.get("last/pump")).toEqual(back.retained.get("last/pump"));
  expect(third.retained.get("last/valve")).toMatchObject({ open: true });
  expect(third.retained.get("meta/valve")).toMatchObject({
    rule: "devices/{device}/{channel}",
    model: "V2",
    metrics: { open: { kind: "boolean", description: "fully" } },
  });
});

test("a device that falls silent while Weir is away is gone, too", async () => {
  const folder = new AgentFolder({
    sources: { ...quiet, devices: [{ topic: "quick/{device}/t", staleAfter: "2s" }] },
    uplinks,
  });
  cleanups.push(() => folder.remove());
  const first = await started(folder);
  const device = await first.client();
  const before = await reader(first);
  await device.publishAsync("quick/probe/t", '{"n":1}', { qos: 1 });
  await until("its rule to be known", () => before.retained.get("meta/probe")?.["rule"] !== undefined);
  await first.stop();
  const { samples } = await reader(await started(folder));
  await until("the device to be gone", () => samples.some(({ values }) => values["available"] === false));
});

test("a retained message at the embedded broker is a sample like any other", async () => {
  const folder = new AgentFolder({ sources: quiet, uplinks });
  cleanups.push(() => folder.remove());
  const { client, retained, samples } = await reader(await started(folder));
  await client.publishAsync("devices/pump/t", '{"n":1}', { qos: 1, retain: true });
  await until("its sample", () => samples.length > 0);
  expect(samples).toMatchObject([{ device: "pump", values: { n: 1 } }]);
  await until("its latest values", () => retained.get("last/pump")?.["_q"] === "good");
});

test.skipIf(!hasProgram("mosquitto"))(
  "what mosquitto had kept refreshes last, and becomes samples only with a device's time (needs mosquitto)",
  async () => {
    const broker = await Mosquitto.start();
    cleanups.push(() => broker.remove());
    const url = `mqtt://127.0.0.1:${broker.port}`;
    const plant = await mqtt.connectAsync(url);
    cleanups.push(() => plant.endAsync(true));
    await plant.publishAsync("plant/a/t", '{"n":1}', { qos: 1, retain: true });
    await plant.publishAsync("plant/b/t", '{"n":2,"t":1763640000}', { qos: 1, retain: true });
    await plant.publishAsync("plant/c/state", "offline", { qos: 1, retain: true });
    const rules = [
      { topic: "plant/{device}/state", decoder: "availability" },
      { topic: "plant/{device}/t", time: "$.t" },
    ];
    const folder = new AgentFolder({
      sources: { ...quiet, mqtt: { plant: { url, rules } } },
      uplinks,
    });
    cleanups.push(() => folder.remove());
    const { retained, samples } = await reader(await started(folder));
    await until("all latest values", () => ["a", "b", "c"].every((name) => retained.has(`last/${name}`)));
    expect(retained.get("last/a")).toMatchObject({ n: 1, _q: "uncertain" });
    expect(retained.get("last/b")).toEqual({ n: 2, _ts: 1_763_640_000_000, _q: "good" });
    expect(retained.get("last/c")).toMatchObject({ available: false, _q: "stale" });
    await plant.publishAsync("plant/a/t", '{"n":3}', { qos: 1 });
    await until("the live sample", () => samples.some(({ values }) => values["n"] === 3));
    expect(samples.map(({ device, values }) => [device, values])).toEqual([
      ["b", { n: 2 }],
      ["a", { n: 3 }],
    ]);
    await until("it to be good", () => retained.get("last/a")?.["_q"] === "good");
    await until("its source", () => retained.get("meta/a")?.["source"] === "mqtt/plant");
  },
);

test.skipIf(!hasProgram("mosquitto"))(
  "a broker that has lost what it had kept gets it again (needs mosquitto)",
  async () => {
    const broker = await Mosquitto.start();
    const { port } = broker;
    const folder = new AgentFolder({
      sources: quiet,
      uplinks: { cloud: { url: `mqtt://127.0.0.1:${port}`, last: true, batch: { ageMs: 20 } } },
    });
    cleanups.push(() => folder.remove());
    const agent = await started(folder);
    const device = await agent.client();
    await device.publishAsync("devices/pump/t", '{"n":1}', { qos: 1 });
    /** What the broker keeps for who comes now. */
    const kept = async (): Promise<Map<string, string>> => {
      const found = new Map<string, string>();
      const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { reconnectPeriod: 0 });
      client.on("message", (topic, payload, { retain }) => retain && found.set(topic, payload.toString()));
      await client.subscribeAsync("weir/v1/gw/+/pump", { qos: 1 });
      // What is retained has come when an answer to something later has.
      await client.subscribeAsync("elsewhere", { qos: 1 });
      await client.endAsync();
      return found;
    };
    const both = async () => {
      const found = await kept();
      return found.size === 2 && found.get("weir/v1/gw/meta/pump")?.includes('"rule"');
    };
    await until("both to be kept", both);
    const before = await kept();
    await broker.remove();
    // Another one in its place, which has nothing.
    const next = await Mosquitto.start({ port });
    cleanups.push(() => next.remove());
    await until("both to be kept again", both);
    expect(await kept()).toEqual(before);
  },
);
