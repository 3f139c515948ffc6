import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { Aedes } from "aedes";
import mqtt from "mqtt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { batchIn } from "../../src/batch-tools.ts";
import { imbalance } from "../../src/core/ledger.ts";
import { Agent, AgentFolder } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const KILLS = process.env["WEIR_LONG"] === "1" ? 20 : 5;
const DEVICES = 4;

let broker: Aedes;
let server: Server;
let port = 0;
/** key (epoch/stream/seq) → payload: what the judge saw */
const seen = new Map<string, string>();
const changed: string[] = [];
let duplicates = 0;
/** the highest count that the counting plugin has reported: it keeps it in its state */
let total = 0;
/** device → the numbers it reported, in order of arrival, duplicates left out */
const arrived = new Map<string, number[]>();

beforeAll(async () => {
  broker = await Aedes.createBroker();
  server = createServer(broker.handle).listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const address = server.address();
  port = typeof address === "object" ? (address?.port ?? 0) : 0;
});
afterAll(async () => {
  await new Promise((done) => broker.close(() => done(undefined)));
  server.close();
});

/** The judge: keeps the key, and counts a batch whose key it has seen as a duplicate. */
function judge(payload: Buffer): void {
  const batch = batchIn(payload);
  if (batch === undefined) return;
  const key = `${batch.epoch}/${batch.stream}/${batch.seq}`;
  const text = payload.toString();
  const before = seen.get(key);
  if (before !== undefined) {
    duplicates += 1;
    if (before !== text) changed.push(key);
    return;
  }
  seen.set(key, text);
  for (const sample of batch.samples) {
    const counted = sample.values["count"];
    if (typeof counted === "number") total = Math.max(total, counted);
    const n = sample.values["n"];
    if (typeof n !== "number") continue;
    const numbers = arrived.get(sample.device) ?? [];
    numbers.push(n);
    arrived.set(sample.device, numbers);
  }
}

/** Publishes numbered messages until the connection breaks; adds what was acknowledged. */
async function load(
  address: string,
  device: string,
  next: { n: number },
  acknowledged: Set<number>,
): Promise<void> {
  const client = mqtt.connect(`mqtt://${address}`, { reconnectPeriod: 0, queueQoSZero: false });
  const closed = new Promise<void>((done) => {
    client.on("close", () => done());
    client.on("error", () => {});
  });
  client.on("connect", () => {
    const more = (): void => {
      const n = next.n++;
      client.publish(`devices/${device}/t`, JSON.stringify({ n }), { qos: 1 }, (error) => {
        if (error) return;
        acknowledged.add(n);
        more();
      });
    };
    for (let i = 0; i < 20; i++) more();
  });
  await closed;
  client.end(true);
}

test(`kill -9 under load ${KILLS} times, SIGTERM once: every acknowledged message arrives, a duplicate has the same key and content, a plugin has counted each once`, {
  timeout: 600_000,
}, async () => {
  const folder = new AgentFolder({
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    plugins: { dir: "plugins" },
    uplinks: { cloud: { url: `mqtt://127.0.0.1:${port}`, version: 4, batch: { ageMs: 20 } } },
  });
  const plugin = join(folder.dir, "plugins", "counter");
  mkdirSync(plugin, { recursive: true });
  copyFileSync("test/fixtures/plugins/counter.wasm", join(plugin, "counter.wasm"));
  const manifest = { name: "counter", version: "1", component: "counter.wasm", needs: { state: true } };
  writeFileSync(join(plugin, "plugin.yaml"), JSON.stringify(manifest));
  const reader = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`);
  reader.on("message", (_topic, payload) => judge(payload));
  await reader.subscribeAsync("weir/v1/gw/data", { qos: 1 });

  const devices = Array.from({ length: DEVICES }, (_, i) => ({
    name: `d${i}`,
    next: { n: 0 },
    acknowledged: new Set<number>(),
  }));
  for (let kill = 0; kill <= KILLS; kill++) {
    const agent = await Agent.start(folder);
    const address = await agent.broker();
    const loads = devices.map(({ name, next, acknowledged }) => load(address, name, next, acknowledged));
    const before = devices.reduce((sum, { acknowledged }) => sum + acknowledged.size, 0);
    await until(
      "some acknowledgements",
      () => devices.reduce((sum, { acknowledged }) => sum + acknowledged.size, 0) > before + 2000,
    );
    // The last one ends as a service manager ends it.
    if (kill < KILLS) await agent.kill();
    else expect(await agent.stop()).toBe(0);
    await Promise.all(loads);
  }

  const agent = await Agent.start(folder);
  await until("everything acknowledged to arrive", () =>
    devices.every(({ name, acknowledged }) => {
      const numbers = new Set(arrived.get(name));
      return [...acknowledged].every((n) => numbers.has(n));
    }),
  );
  expect(changed).toEqual([]);
  for (const { name } of devices) {
    const numbers = arrived.get(name) ?? [];
    expect(new Set(numbers).size, `${name}: a number under two keys`).toBe(numbers.length);
    expect(numbers, `${name}: order`).toEqual([...numbers].sort((a, b) => a - b));
  }
  // State commits with the output of the call that changed it: the count is that of all rows that ever came out.
  const came = [...arrived.values()].reduce((sum, numbers) => sum + numbers.length, 0);
  expect(total).toBe(came);
  const { lines } = await folder.api.ledger();
  for (const line of lines) expect(imbalance(line), `${line.stage} ${line.name}`).toBe(0);
  expect(seen.size).toBeGreaterThan(KILLS);
  process.stdout.write(`${[...seen.keys()].length} batches, ${duplicates} sent twice\n`);
  await agent.kill();
  await reader.endAsync(true);
  folder.remove();
});
