/**
 * Mixed load, faults and plugin swaps for SOAK_MINUTES (1; 10 in the long form, 600 for a night): 500 QoS 1 messages a second on eight
 * connections, QoS 0 and payloads that are not valid beside them; an uplink whose broker is killed and comes back; a plugin with state
 * that is replaced; configuration reloads. Plots memory, loop lag, losses and descriptors to build/soak.svg, and says pass or fail:
 * every stage of the ledger adds up, nothing is lost, what was acknowledged to devices is acknowledged upstream, and (from ten
 * minutes on) memory and descriptors of the last quarter are within 3 % of the second.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { copyFileSync, cpSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import mqtt from "mqtt";
import { imbalance } from "../src/core/ledger.ts";
import { Agent, AgentFolder, hasProgram } from "../test/helpers/agent.ts";
import { until } from "../test/helpers/until.ts";
import { type Panel, plot } from "./tools/plot.ts";

const minutes = Number(process.env["SOAK_MINUTES"] ?? 1);
const LOOK_S = Math.max(1, minutes / 10);
const RATE = 500;
/** Flat: the last quarter within this of the second. Judged where the run is long enough to have settled. */
const FLAT = 0.03;
const JUDGED_MINUTES = 10;

const probe = createServer();
await new Promise<void>((done) => probe.listen(0, "127.0.0.1", done));
const bound = probe.address();
const upstreamPort = typeof bound === "object" && bound !== null ? bound.port : 0;
await new Promise((done) => probe.close(done));

const folder = new AgentFolder({
  uplinks: { cloud: { url: `mqtt://127.0.0.1:${upstreamPort}`, streams: ["data"] } },
  plugins: {
    dir: "plugins",
    deadband: { bind: { devices: ["load-*"] } },
    counter: { bind: { devices: ["load-1"] } },
  },
});
const plugins = join(folder.dir, "plugins");
mkdirSync(join(folder.dir, "conf.d"));
cpSync("plugins/deadband", join(plugins, "deadband"), { recursive: true });
cpSync("plugins/scale", join(plugins, "scale"), { recursive: true });

/** Replaces the plugin `counter` by its next version. */
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
  rmSync(join(plugins, "counter"), { recursive: true, force: true });
  renameSync(beside, join(plugins, "counter"));
}
drop(0);

const configured = join(folder.dir, "upstream.conf");
writeFileSync(configured, `listener ${upstreamPort} 127.0.0.1\nallow_anonymous true\n`);
const startUpstream = (): ChildProcess | undefined =>
  hasProgram("mosquitto") ? spawn("mosquitto", ["-c", configured], { stdio: "ignore" }) : undefined;
let upstream = startUpstream();

const agent = await Agent.start(folder);
const port = Number((await agent.broker()).split(":").at(-1));
const seconds = Math.round(minutes * 60);
const load = spawn(
  process.execPath,
  ["bench/tools/load.ts", String(port), "8", String(RATE * seconds), String(RATE)],
  { stdio: ["ignore", "pipe", "inherit"] },
);
let report = "";
load.stdout.setEncoding("utf8").on("data", (text: string) => {
  report += text;
});
const noise = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`);
const noisy = setInterval(() => {
  noise.publish("devices/noise/state", '{"on":true,"text":"idle"}', { qos: 0 });
  noise.publish("devices/noise/state", '{"on":', { qos: 1 });
}, 100);

const curves = {
  pss: [] as number[],
  host: [] as number[],
  lag: [] as number[],
  lost: [] as number[],
  dropped: [] as number[],
  rejected: [] as number[],
  fds: [] as number[],
};
const MIB = 2 ** 20;
let version = 0;
const looks = Math.max(8, Math.round(seconds / LOOK_S));
for (let look = 0; look < looks; look++) {
  await new Promise((done) => setTimeout(done, LOOK_S * 1000));
  const [{ processes, loopLag, openFds }, { lines }] = await Promise.all([
    folder.api.vitals(),
    folder.api.ledger(),
  ]);
  const all = (key: "lost" | "dropped" | "rejected"): number =>
    lines.reduce((sum, line) => sum + line[key], 0);
  curves.pss.push(processes.reduce((sum, { pssBytes }) => sum + pssBytes, 0) / MIB);
  curves.host.push((processes.find(({ name }) => name === "plugin-host")?.pssBytes ?? 0) / MIB);
  curves.lag.push(loopLag * 1000);
  curves.lost.push(all("lost"));
  curves.dropped.push(all("dropped"));
  curves.rejected.push(all("rejected"));
  curves.fds.push(openFds);
  // Faults, each in its turn; the last tenth is left to come to rest.
  if (look > looks * 0.9) continue;
  if (look % 5 === 1) drop(++version);
  if (look % 10 === 3) upstream?.kill("SIGKILL");
  if (look % 10 === 6) upstream = startUpstream();
  if (look % 10 === 8)
    writeFileSync(join(folder.dir, "conf.d", "a.yaml"), `pipeline: { lingerMs: ${3 + (look % 4)} }\n`);
}
upstream?.kill("SIGKILL");
upstream = startUpstream();
clearInterval(noisy);
await noise.endAsync();
await new Promise((done) => (load.exitCode === null ? load.once("close", done) : done(0)));
const uplinks = hasProgram("mosquitto") ? ["local/data", "cloud/data"] : ["local/data"];
const settled = await until(
  "everything to be acknowledged upstream",
  async () => {
    const { lines } = await folder.api.ledger();
    return lines.filter(({ name }) => uplinks.includes(name)).every(({ held }) => held === 0) && lines;
  },
  60_000,
).catch(async () => (await folder.api.ledger()).lines);

const failures: string[] = [];
if (report.trim() === "") failures.push("the load ended early: its connections were closed");
for (const line of settled)
  if (imbalance(line) !== 0) failures.push(`${line.stage} ${line.name} is off by ${imbalance(line)}`);
const lost = settled.filter(({ stage }) => stage !== "kernel").reduce((sum, line) => sum + line.lost, 0);
if (lost > 0) failures.push(`${lost} lost`);
for (const name of uplinks) {
  const line = settled.find((one) => one.name === name && one.stage === "outbox");
  if (line === undefined || line.held > 0) failures.push(`${name} still holds ${line?.held ?? "all"}`);
}
const drift = (curve: readonly number[]): number => {
  const quarter = Math.floor(curve.length / 4);
  const mean = (part: readonly number[]): number => part.reduce((sum, one) => sum + one, 0) / part.length;
  return mean(curve.slice(-quarter)) / mean(curve.slice(quarter, 2 * quarter)) - 1;
};
for (const [name, curve] of [
  ["memory", curves.pss],
  ["descriptors", curves.fds],
] as const) {
  const change = drift(curve);
  console.log(`${name}: last quarter against the second ${(change * 100).toFixed(1)} %`);
  if (minutes >= JUDGED_MINUTES && change > FLAT) failures.push(`${name} grows`);
}
const panels: Panel[] = [
  { title: "Memory", unit: "MiB (PSS)", curves: { all: curves.pss, "plugin host": curves.host } },
  { title: "Largest delay of the main loop", unit: "ms", curves: { lag: curves.lag } },
  {
    title: "Loss",
    unit: "since the start",
    curves: { lost: curves.lost, dropped: curves.dropped, rejected: curves.rejected },
  },
  { title: "Open descriptors", unit: "agent", curves: { descriptors: curves.fds } },
];
mkdirSync("build", { recursive: true });
writeFileSync("build/soak.svg", plot(`Weir: ${minutes} min, ${version} plugin swaps`, LOOK_S, panels));
console.log(`load: ${report.trim()}`);
console.log(
  `memory ${curves.pss.at(-1)?.toFixed(0)} MiB, descriptors ${curves.fds.at(-1)}, largest delay ${Math.max(...curves.lag).toFixed(0)} ms; build/soak.svg`,
);
if (failures.length > 0) console.log(agent.output.slice(-8000));
console.log(failures.length === 0 ? "pass" : `fail: ${failures.join("; ")}`);
await agent.stop();
upstream?.kill("SIGKILL");
folder.remove();
process.exitCode = failures.length === 0 ? 0 : 1;
