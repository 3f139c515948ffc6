/**
 * An agent at rest with both sample plugins: until it is ready (warm), memory, processor time and wake-ups, each by process and
 * thread. It runs on a copy of Node, as one that is installed does: with the Node of this bench, or of anything else here, PSS would
 * leave out what they share, some 50 MiB. `IDLE_WEIR=/usr/bin/weir npm run bench idle` measures another installation.
 *
 * Aims: ready <= 0.5 s, PSS <= 100 MiB, <= 1 % of a core.
 */
import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import { Agent, AgentFolder } from "../test/helpers/agent.ts";
import { family, memoryMiB } from "./tools/processes.ts";

const STARTS = 5;
/** Both processes have given back by then what only their start needed. */
const SETTLE_MS = 15_000;
const MEASURE_MS = 30_000;
const LOOK_MS = 1_000;

const folder = new AgentFolder({ plugins: { dir: "plugins" } });
mkdirSync(join(folder.dir, "plugins"));
for (const name of ["deadband", "scale"])
  cpSync(join("plugins", name), join(folder.dir, "plugins", name), { recursive: true });

/** This tree, with a Node that nothing else runs. */
function withOwnNode(): string {
  const root = join(folder.dir, "weir");
  const node = join(root, "node_modules", `node-linux-${process.arch}`, "bin");
  mkdirSync(node, { recursive: true });
  copyFileSync(process.execPath, join(node, "node"));
  cpSync("bin", join(root, "bin"), { recursive: true });
  for (const name of ["src", "build"]) symlinkSync(resolve(name), join(root, name));
  return join(root, "bin", "weir");
}

interface Thread {
  readonly name: string;
  /** ms */
  readonly cpu: number;
  readonly wakes: number;
}

function threads(pid: number): Map<string, Thread> {
  const found = new Map<string, Thread>();
  for (const id of readdirSync(`/proc/${pid}/task`)) {
    const read = (file: string): string => readFileSync(`/proc/${pid}/task/${id}/${file}`, "utf8");
    const wakes = /^voluntary_ctxt_switches:\s+(\d+)/m.exec(read("status"))?.[1];
    const cpu = Number(read("schedstat").split(" ")[0]) / 1e6;
    found.set(id, { name: read("comm").trim(), cpu, wakes: Number(wakes) });
  }
  return found;
}

const weir = process.env["IDLE_WEIR"] ?? withOwnNode();
const installed = { weir, environment: process.env };
const start = () => Agent.start(folder, [], installed);
let agent = await start();
const readyMs: number[] = [];
for (let i = 0; i < STARTS; i++) {
  await agent.stop();
  const from = performance.now();
  agent = await start();
  readyMs.push(performance.now() - from);
}
const pids = family(agent.child.pid ?? 0);
await setTimeout(SETTLE_MS);
const before = pids.map(threads);
/** MiB of each process, a look a second: code comes and goes with what the agent does, and with each trim. */
const pss: number[][] = [];
for (let ms = 0; ms < MEASURE_MS; ms += LOOK_MS) {
  pss.push(pids.map((pid) => memoryMiB([pid], "Pss")));
  await setTimeout(LOOK_MS);
}
const mean = (list: readonly number[]): number => list.reduce((sum, one) => sum + one, 0) / list.length;
const totals = pss.map((looks) => looks.reduce((sum, one) => sum + one, 0));
const seconds = MEASURE_MS / 1000;
let total = 0;
for (const [i, pid] of pids.entries()) {
  const anonymous =
    Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1024;
  console.log(
    `${i === 0 ? "agent" : "plugin host"}: PSS ${mean(pss.map((looks) => looks[i] ?? 0)).toFixed(1)} MiB, at the end of it ${anonymous.toFixed(1)} its own`,
  );
  for (const [id, { name, cpu, wakes }] of threads(pid)) {
    const since = before[i]?.get(id);
    const percent = (cpu - (since?.cpu ?? 0)) / seconds / 10;
    total += percent;
    if (percent >= 0.005)
      console.log(
        `  ${name.padEnd(16)} ${percent.toFixed(2)} %  ${((wakes - (since?.wakes ?? 0)) / seconds).toFixed(1)} wake-ups/s`,
      );
  }
}
console.log(
  `all: PSS ${mean(totals).toFixed(1)} MiB (${Math.min(...totals).toFixed(1)} to ${Math.max(...totals).toFixed(1)}), ${total.toFixed(2)} % of a core; ready in ${readyMs.map((ms) => ms.toFixed(0)).join(", ")} ms`,
);
await agent.stop();
rmSync(join(folder.dir, "weir"), { recursive: true, force: true });
folder.remove();
