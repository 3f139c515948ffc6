/**
 * The whole path: device MQTT (QoS 1, 8 connections) → decode → C plugin → outbox → upstream acknowledgement, beside a peer
 * that does nothing: a bare aedes with an mqtt.js subscriber. Every figure is of whole processes, the load's own left out.
 *
 * Aim (4 cores): >= 80 k msg/s at <= 14 CPU s per million; p99 to PUBACK <= 35 ms at 10 k/s; ready in <= 0.9 s warm;
 * idle RSS of all processes <= 150 MB.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { Agent, AgentFolder } from "../test/helpers/agent.ts";
import { until } from "../test/helpers/until.ts";
import { cpuSeconds, family, memoryMiB } from "./tools/processes.ts";

const MESSAGES = Number(process.env["MESSAGES"] ?? 600_000);
const tool = (name: string): string => join(import.meta.dirname, "tools", name);

/** Starts a tool of this folder and reads its first line. */
async function start(...args: readonly string[]): Promise<{ child: ChildProcess; first: string }> {
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout?.on("data", (part) => {
    text += part;
  });
  const first = await until(`${args[0]} to start`, () => text.includes("\n") && text.trim());
  return { child, first };
}

async function finish(child: ChildProcess): Promise<string> {
  let text = "";
  child.stdout?.on("data", (part) => {
    text += part;
  });
  const exited = new Promise((done) => child.once("exit", done));
  child.kill("SIGTERM");
  await exited;
  return text;
}

interface Load {
  readonly messages: number;
  readonly seconds: number;
  readonly p50: number;
  readonly p99: number;
}

async function load(port: string, messages: number, perSecond: number): Promise<Load> {
  const child = spawn(process.execPath, [tool("load.ts"), port, "8", String(messages), String(perSecond)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (part) => {
    text += part;
  });
  await new Promise((done) => child.once("exit", done));
  return JSON.parse(text);
}

const rows: string[][] = [];
const say = (name: string, { messages, seconds, p50, p99 }: Load, cpu: number, pss: number): void => {
  const perMillion = (cpu / messages) * 1e6;
  rows.push([
    name,
    (messages / seconds / 1000).toFixed(1),
    perMillion.toFixed(1),
    `${p50} / ${p99}`,
    pss.toFixed(0),
  ]);
};

// The peer first: it has no state to warm up.
const peer = await start(tool("peer.ts"));
const peerPid = peer.child.pid ?? 0;
await load(peer.first, 50_000, 0);
for (const [name, count, rate] of [
  ["aedes + idle mqtt.js subscriber", MESSAGES, 0],
  ["the same at 10 k/s", 50_000, 10_000],
] as const) {
  const before = cpuSeconds([peerPid]);
  const result = await load(peer.first, count, rate);
  say(name, result, cpuSeconds([peerPid]) - before, memoryMiB([peerPid], "Pss"));
}
await finish(peer.child);

const sink = await start(tool("sink.ts"));
const folder = new AgentFolder({
  plugins: { dir: "plugins", deadband: { bind: { devices: ["*"] }, config: { band: 0 } } },
  uplinks: {
    cloud: { url: `mqtt://127.0.0.1:${sink.first}`, version: 4, streams: ["data"] },
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
const idle = family(agent.child.pid ?? 0);
const idleRss = memoryMiB(idle, "Rss");
const idlePss = memoryMiB(idle, "Pss");
await load(port, 50_000, 0);
for (const [name, count, rate] of [
  ["Weir, whole path", MESSAGES, 0],
  ["the same at 10 k/s", 50_000, 10_000],
] as const) {
  const pids = family(agent.child.pid ?? 0);
  const before = cpuSeconds(pids);
  const result = await load(port, count, rate);
  const held = async (): Promise<number> => {
    const { lines } = await folder.api.ledger();
    return lines.find((line) => line.stage === "outbox" && line.name === "cloud/data")?.held ?? 0;
  };
  await until("everything to be acknowledged upstream", async () => (await held()) === 0, 120_000);
  say(name, result, cpuSeconds(pids) - before, memoryMiB(pids, "Pss"));
}
const { lines } = await folder.api.ledger();
const outbox = lines.find((line) => line.stage === "outbox" && line.name === "cloud/data");
await agent.stop();
const arrived: { batches: number; samples: number } = JSON.parse(await finish(sink.child));
folder.remove();

const head = ["", "k msg/s QoS 1", "CPU s per million", "p50 / p99 ms to PUBACK", "PSS MiB"];
const width = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
for (const row of [head, ...rows]) console.log(row.map((cell, i) => cell.padEnd(width[i] ?? 0)).join("  "));
const [reference, , ours] = rows;
console.log(
  `ratio to the peer: ${(Number(ours?.[1]) / Number(reference?.[1])).toFixed(2)} of its rate, ${(Number(ours?.[2]) / Number(reference?.[2])).toFixed(2)} of its CPU`,
);
console.log(
  `samples acknowledged upstream: ${outbox?.out}, arrived under their keys: ${arrived.samples} in ${arrived.batches} batches`,
);
console.log(
  `ready with a warm cache: ${readyMs.toFixed(0)} ms; idle: RSS ${idleRss.toFixed(0)} MiB, PSS ${idlePss.toFixed(0)} MiB in ${idle.length} processes`,
);
