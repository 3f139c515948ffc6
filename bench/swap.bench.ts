/**
 * Plugins replaced while data flows: SWAPS times (100; 1,000 takes a quarter of an hour) a new version of a plugin with state, under
 * 1,000 messages a second. Prints the longest waits for a PUBACK beside those of the same load without replacements, what was
 * lost or doubled (the plugin counts), and memory, threads and descriptors at the first quarter and at the end.
 */
import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import mqtt from "mqtt";
import { batchIn } from "../src/batch-tools.ts";
import { Agent, AgentFolder } from "../test/helpers/agent.ts";
import { until } from "../test/helpers/until.ts";
import { family, memoryMiB } from "./tools/processes.ts";

const SWAPS = Number(process.env["SWAPS"] ?? 100);
const folder = new AgentFolder({
  sources: { kernel: { enabled: false }, system: { enabled: false } },
  plugins: { dir: "plugins" },
});
const plugin = join(folder.dir, "plugins", "counter");
mkdirSync(join(folder.dir, "plugins"));

function drop(version: number): void {
  const beside = join(folder.dir, "beside");
  mkdirSync(beside);
  copyFileSync("test/fixtures/plugins/counter.wasm", join(beside, "counter.wasm"));
  const manifest = {
    name: "counter",
    version: `1.${version}`,
    component: "counter.wasm",
    needs: { state: true },
  };
  writeFileSync(join(beside, "plugin.yaml"), JSON.stringify(manifest));
  rmSync(plugin, { recursive: true, force: true });
  renameSync(beside, plugin);
}

drop(0);
const agent = await Agent.start(folder);
const address = `mqtt://${await agent.broker()}`;
const reader = await mqtt.connectAsync(address);
let came = 0;
let counted = 0;
reader.on("message", (_topic, payload) => {
  for (const { values } of batchIn(payload)?.samples ?? []) {
    if (typeof values["n"] === "number") came += 1;
    if (typeof values["count"] === "number") counted = Math.max(counted, values["count"]);
  }
});
await reader.subscribeAsync("weir/v1/gw/data", { qos: 1 });
const device = await mqtt.connectAsync(address);
const waits: number[] = [];
let sent = 0;
const timer = setInterval(() => {
  for (let i = 0; i < 10; i++) {
    const at = performance.now();
    sent += 1;
    device.publish("devices/d/t", `{"n":${sent}}`, { qos: 1 }, () => waits.push(performance.now() - at));
  }
}, 10);

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
const usage = (): string => {
  const pids = family(agent.child.pid ?? 0);
  const threads = pids.reduce((sum, pid) => sum + readdirSync(`/proc/${pid}/task`).length, 0);
  const descriptors = pids.reduce((sum, pid) => sum + readdirSync(`/proc/${pid}/fd`).length, 0);
  const agentRss = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${agent.child.pid}/status`, "utf8"))?.[1];
  return `${pids.length} processes, ${threads} threads, ${descriptors} descriptors, PSS ${memoryMiB(pids, "Pss").toFixed(0)} MiB, agent RSS ${(Number(agentRss) / 1024).toFixed(0)} MiB`;
};
const longest = (): string => {
  const sorted = waits.splice(0).sort((a, b) => a - b);
  const at = (share: number): string => (sorted[Math.floor(sorted.length * share)] ?? 0).toFixed(1);
  return `p50 ${at(0.5)}, p99 ${at(0.99)}, p99.9 ${at(0.999)}, longest ${at(0.999999)} ms of ${sorted.length}`;
};

await sleep(2_000);
waits.length = 0;
await sleep(8_000);
console.log(`without replacements: ${longest()}`);
const began = performance.now();
for (let version = 1; version <= SWAPS; version++) {
  drop(version);
  await until(`version ${version}`, async () =>
    (await folder.api.plugins()).some(({ version: now, state }) => now === `1.${version}` && state === "on"),
  );
  if (version === Math.ceil(SWAPS / 4)) console.log(`after ${version}: ${usage()}`);
}
console.log(`after ${SWAPS}: ${usage()}`);
console.log(
  `with ${SWAPS} replacements in ${((performance.now() - began) / 1000).toFixed(0)} s: ${longest()}`,
);
clearInterval(timer);
await until("everything sent to come", () => came >= sent, 30_000);
await until("the last count", () => counted >= sent, 30_000);
const { bounds = [], counts = [] } = (await folder.api.vitals()).latencies["hold"] ?? {};
const held = counts.map((count, i) => `${count} up to ${(bounds[i] ?? Number.POSITIVE_INFINITY) * 1000} ms`);
console.log(`the path was held: ${held.filter((_, i) => (counts[i] ?? 0) > 0).join(", ")}`);
console.log(`sent ${sent}, came ${came}, counted ${counted}`);
await reader.endAsync(true);
await device.endAsync(true);
await agent.stop();
folder.remove();
