/**
 * The whole path: device MQTT (8 connections, 100 bytes of JSON with 6 values) → decode → jailed C plugin → outbox → upstream
 * acknowledgement, beside peers of the same run that keep nothing: a bare aedes with an mqtt.js subscriber and mosquitto's bridge, which run
 * no logic, and Node-RED behind mosquitto, with one function. Every figure is of whole processes, the load's and the upstream's own left out.
 *
 * Aim (4 cores): 550 k msg/s QoS 1 at <= 3.9 CPU s per million, 600 k QoS 0; <= 5 at a paced 165 k/s; p99 to PUBACK <= 20 ms at
 * 10 k/s; PSS <= 150 MiB at 165 k/s, <= 200 saturated; ready in <= 0.9 s warm.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Agent, AgentFolder, hasProgram } from "../test/helpers/agent.ts";
import { nodeRed, startNodeRed } from "../test/helpers/node-red.ts";
import { until } from "../test/helpers/until.ts";
import { freePort } from "./tools/free-port.ts";
import { cpuSeconds, family, memoryMiB } from "./tools/processes.ts";

const MESSAGES = Number(process.env["MESSAGES"] ?? 2_000_000);
const VALUES = 6;
const tool = (name: string): string => join(import.meta.dirname, "tools", name);

/** A program of this folder, and what it printed. */
class Tool {
  readonly child: ChildProcess;
  text = "";

  constructor(...args: readonly string[]) {
    this.child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    this.child.stdout?.on("data", (part) => {
      this.text += part;
    });
  }

  /** Its next whole line. */
  async line(): Promise<string> {
    const text = await until("a tool's answer", () => this.text.includes("\n") && this.text, 60_000);
    const end = text.indexOf("\n");
    this.text = text.slice(end + 1);
    return text.slice(0, end);
  }

  async ask(): Promise<Arrived> {
    this.child.kill("SIGUSR2");
    return JSON.parse(await this.line());
  }

  async stop(): Promise<void> {
    const exited = new Promise((done) => this.child.once("exit", done));
    this.child.kill("SIGTERM");
    await exited;
  }
}

interface Arrived {
  readonly messages: number;
  readonly batches: number;
  readonly samples: number;
}

interface Load {
  readonly messages: number;
  readonly seconds: number;
  readonly p50: number;
  readonly p99: number;
}

async function load(port: string, messages: number, perSecond: number, qos = 1): Promise<Load> {
  const args = [port, "8", String(messages), String(perSecond), "devices/load-", String(qos)];
  const child = new Tool(tool("load.ts"), ...args);
  return JSON.parse(await until("the load to end", () => child.text.includes("\n") && child.text, 600_000));
}

const HEAD = [
  "",
  "QoS",
  "paced to",
  "k msg/s",
  "values each",
  "CPU s per million",
  "p50 / p99 ms to PUBACK",
  "PSS MiB",
] as const;
const rows: string[][] = [];

/** Runs a load and notes a row. `after` waits for what the load has not; it may answer how many messages count, and in what time. */
async function row(
  name: string,
  port: string,
  pids: readonly number[],
  { messages, rate, qos = 1 }: { messages: number; rate: number; qos?: number },
  after: (result: Load) => Promise<Partial<Load>> = () => Promise.resolve({}),
): Promise<void> {
  const before = cpuSeconds(pids);
  let pss = 0;
  const timer = setInterval(() => {
    pss = Math.max(pss, memoryMiB(pids, "Pss"));
  }, 250);
  const result = await load(port, messages, rate, qos);
  const counted = { ...result, ...(await after(result)) };
  clearInterval(timer);
  const cpu = cpuSeconds(pids) - before;
  rows.push([
    name,
    String(qos),
    rate === 0 ? "-" : `${rate / 1000} k/s`,
    (counted.messages / counted.seconds / 1000).toFixed(1),
    String(VALUES),
    ((cpu / counted.messages) * 1e6).toFixed(1),
    qos === 0 ? "-" : `${result.p50} / ${result.p99}`,
    pss.toFixed(0),
  ]);
}

const PACED = { messages: 50_000, rate: 10_000 };
const FEW = { messages: Math.min(MESSAGES, 600_000), rate: 0 };

const peer = new Tool(tool("peer.ts"));
const peerPort = await peer.line();
const peerPids = [peer.child.pid ?? 0];
await load(peerPort, 50_000, 0);
await row("aedes + idle mqtt.js subscriber", peerPort, peerPids, FEW);
await row("aedes + idle mqtt.js subscriber", peerPort, peerPids, PACED);
await peer.stop();

const sink = new Tool(tool("sink.ts"));
const sinkPort = await sink.line();

/** A row of something that acknowledges before it has sent: what counts is when all has arrived at the sink. */
async function arriving(
  name: string,
  port: string,
  pids: readonly number[],
  wanted: { readonly messages: number; readonly rate: number },
): Promise<void> {
  const { messages } = await sink.ask();
  const started = performance.now();
  await row(name, port, pids, wanted, async (result) => {
    const all = messages + wanted.messages;
    await until(`${name} to have sent it all`, async () => (await sink.ask()).messages >= all, 120_000);
    return { seconds: wanted.rate === 0 ? (performance.now() - started) / 1000 : result.seconds };
  });
}

/** mosquitto for devices, with lines of its own. */
async function mosquitto(more: readonly string[]): Promise<{ port: string; pid: number; stop(): void }> {
  const dir = mkdtempSync(join(tmpdir(), "weir-mosquitto-"));
  const port = String(await freePort());
  const lines = [`listener ${port} 127.0.0.1`, "allow_anonymous true", "max_queued_messages 0", ...more];
  writeFileSync(join(dir, "m.conf"), lines.join("\n"));
  const child = spawn("mosquitto", ["-c", join(dir, "m.conf")], { stdio: "ignore" });
  await until("mosquitto to listen", () => load(port, 1000, 0).catch(() => undefined), 20_000);
  const stop = (): void => {
    child.kill();
    rmSync(dir, { recursive: true });
  };
  return { port, pid: child.pid ?? 0, stop };
}

if (hasProgram("mosquitto")) {
  const bridge = await mosquitto([
    "max_inflight_messages 0",
    "connection up",
    `address 127.0.0.1:${sinkPort}`,
    "topic devices/# out 1",
    "notifications false",
    "try_private false",
  ]);
  for (const wanted of [FEW, PACED]) await arriving("mosquitto's bridge", bridge.port, [bridge.pid], wanted);
  bridge.stop();
} else console.log("no mosquitto here: its bridge is left out");

if (nodeRed !== undefined && hasProgram("mosquitto")) {
  const devices = await mosquitto(["max_inflight_messages 1000"]);
  const broker = {
    type: "mqtt-broker",
    broker: "127.0.0.1",
    keepalive: "60",
    cleansession: true,
    protocolVersion: "4",
  };
  const red = await startNodeRed([
    { id: "tab", type: "tab", label: "path" },
    { ...broker, id: "from", port: devices.port, autoConnect: true },
    { ...broker, id: "to", port: sinkPort, autoConnect: true },
    {
      id: "in",
      type: "mqtt in",
      z: "tab",
      topic: "devices/#",
      qos: "1",
      datatype: "json",
      broker: "from",
      inputs: 0,
      wires: [["f"]],
    },
    {
      id: "f",
      type: "function",
      z: "tab",
      func: "msg.payload.seen = true; return msg;",
      outputs: 1,
      libs: [],
      wires: [["out"]],
    },
    { id: "out", type: "mqtt out", z: "tab", topic: "", qos: "1", retain: "false", broker: "to", wires: [] },
  ]);
  const subscribed = async (): Promise<boolean> => {
    const { messages } = await sink.ask();
    await load(devices.port, 100, 0);
    return (await sink.ask()).messages > messages;
  };
  await until("Node-RED to subscribe", subscribed, 30_000);
  const pids = [devices.pid, red.child.pid ?? 0];
  for (const wanted of [{ messages: Math.min(MESSAGES, 150_000), rate: 0 }, PACED])
    await arriving("mosquitto and Node-RED", devices.port, pids, wanted);
  await red.stop();
  devices.stop();
} else console.log("no Node-RED here: it is left out (.ci/run installs it into build/tools)");

const folder = new AgentFolder({
  plugins: { dir: "plugins", deadband: { bind: { devices: ["*"] }, config: { band: 0 } } },
  uplinks: {
    cloud: { url: `mqtt://127.0.0.1:${sinkPort}`, version: 4, streams: ["data"] },
    local: { url: "embedded", streams: ["host"] },
  },
});
mkdirSync(join(folder.dir, "plugins"));
cpSync("plugins/deadband", join(folder.dir, "plugins", "deadband"), { recursive: true });
const cold = await Agent.start(folder);
await cold.stop();
const startedAt = performance.now();
const agent = await Agent.start(folder);
const readyMs = performance.now() - startedAt;
const port = (await agent.broker()).split(":")[1] ?? "";
await new Promise((done) => setTimeout(done, 3000));
const pids = family(agent.child.pid ?? 0);
const idle = { rss: memoryMiB(pids, "Rss"), pss: memoryMiB(pids, "Pss") };
const line = async (stage: string, name: string) =>
  (await folder.api.ledger()).lines.find((one) => one.stage === stage && one.name === name);
const sent = async (): Promise<Partial<Load>> => {
  const done = async (): Promise<boolean> => ((await line("outbox", "cloud/data"))?.held ?? 0) === 0;
  await until("everything to be acknowledged upstream", done, 300_000);
  return {};
};
const WEIR = "Weir: plugin, disk, upstream";
await load(port, 20_000, 10_000);
await row(WEIR, port, pids, PACED, sent);
await row(WEIR, port, pids, { messages: Math.min(MESSAGES, 1_000_000), rate: 165_000 }, sent);
await row(WEIR, port, pids, { messages: MESSAGES, rate: 0 }, sent);
const before = (await line("source", "devices"))?.out ?? 0;
let taken = 0;
await row(WEIR, port, pids, { messages: MESSAGES, rate: 0, qos: 0 }, async () => {
  await sent();
  taken = ((await line("source", "devices"))?.out ?? 0) - before;
  return { messages: taken };
});
const outbox = await line("outbox", "cloud/data");
await agent.stop();
const arrived = await sink.ask();
await sink.stop();
folder.remove();

const width = HEAD.map((title, i) => Math.max(title.length, ...rows.map((cells) => cells[i]?.length ?? 0)));
for (const cells of [HEAD, ...rows])
  console.log(cells.map((cell, i) => cell.padEnd(width[i] ?? 0)).join("  "));
console.log(
  `QoS 0: ${taken} of ${MESSAGES} taken in, the rest dropped and counted: nothing slows its sender down`,
);
console.log(
  `samples acknowledged upstream: ${outbox?.out}, arrived under their keys: ${arrived.samples} in ${arrived.batches} batches`,
);
console.log(
  `ready with a warm cache: ${readyMs.toFixed(0)} ms; idle: RSS ${idle.rss.toFixed(0)} MiB, PSS ${idle.pss.toFixed(0)} MiB in ${pids.length} processes`,
);
