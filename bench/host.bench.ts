/**
 * What the plugin host costs, and what one plugin can do to the others:
 *
 *     starts    vetting (a jailed process of its own), the first instance in a fresh host, one more in a warm one
 *     layers    a fresh host's start and one small call, with every wall, without each, without any
 *     plugins   memory and threads of the host with 1, 10 and 100 plugins; a chunk's way through all of them
 *     deadline  how long after its deadline a spinning plugin is gone
 *     hostile   waits for a PUBACK of a device whose plugin behaves, alone and beside plugins that don't
 *
 *     node bench/host.bench.ts [seconds for `hostile`, default 60] [sections, default all]
 *     HOSTILE=spin,trap node bench/host.bench.ts 300 hostile     these bad plugins alone
 *
 * Aims: vetting 5 KB <= 400 ms; a warm start <= 60 ms; <= 11 MiB for each further C plugin; the walls add <= 30 ms to a start and nothing to
 * a call; a spinning plugin is gone 20 ms after its deadline; p99 of the others within 2x over five minutes.
 */
import { copyFileSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import mqtt from "mqtt";
import { type JailLayer, jailLayers } from "../src/plugins/jail-report.ts";
import { Agent, AgentFolder } from "../test/helpers/agent.ts";
import { fixture, frameOf, hostile, Lane, openFolder, type Subject } from "../test/helpers/lane.ts";
import { memoryMiB } from "./tools/processes.ts";

const seconds = Number(process.argv[2] ?? 60);
const cacheDir = join(openFolder("weir-bench-"), "cache");
const small: Subject = { component: fixture("passthrough"), options: { bind: { devices: ["*"] } } };
const frame = frameOf(...Array.from({ length: 16 }, (_, i) => [`press-${i}`, "n", i] as const));

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
const at = (values: readonly number[], share: number): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * share)] ?? 0;
const ms = (value: number): string => `${value.toFixed(1)} ms`;

async function timed(action: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await action();
  return performance.now() - start;
}

/** Starts plugins in a host of their own; `body` gets the lane and how long that took. */
async function withLane<T>(
  subjects: Readonly<Record<string, Subject>>,
  options: Parameters<typeof Lane.start>[2],
  body: (lane: Lane, startMs: number) => Promise<T>,
  cache = cacheDir,
): Promise<T> {
  const start = performance.now();
  const lane = await Lane.start(subjects, cache, options);
  try {
    return await body(lane, performance.now() - start);
  } finally {
    await lane.stop();
  }
}

async function starts(): Promise<void> {
  const rows = [];
  for (const [name, component] of [
    ["C, 2.4 KB", fixture("passthrough")],
    ["C, 11 KB", "plugins/deadband/deadband.wasm"],
    ["JavaScript, 1.6 MB", "plugins/scale/scale.wasm"],
  ] as const) {
    const fresh = join(openFolder("weir-bench-"), "cache");
    const cold = await withLane({ a: { component } }, {}, async (_, startMs) => startMs, fresh);
    const cached: number[] = [];
    const warm: number[] = [];
    for (let i = 0; i < 5; i++) {
      await withLane(
        { a: { component } },
        {},
        async (lane, startMs) => {
          cached.push(startMs);
          await lane.manager.disable("a");
          warm.push(await timed(() => lane.manager.enable("a")));
        },
        fresh,
      );
    }
    rows.push({
      component: name,
      "vetted and started": ms(cold),
      "from the cache, fresh host": ms(median(cached)),
      "one more in a warm host": ms(median(warm)),
    });
  }
  console.log("starts (median of 5)");
  console.table(rows);
}

async function layers(): Promise<void> {
  const ways: (readonly [string, readonly JailLayer[]])[] = [
    ["all walls", []],
    ...jailLayers.map((layer) => [`without ${layer}`, [layer]] as const),
    ["none", jailLayers],
  ];
  const starts = new Map<string, number[]>();
  const calls = new Map<string, number[]>();
  for (let round = 0; round < 5; round++) {
    for (const [name, without] of ways) {
      await withLane({ small }, { without }, async (lane, startMs) => {
        starts.set(name, [...(starts.get(name) ?? []), startMs]);
        for (let i = 0; i < 200; i++) await lane.pass(frame);
        const took = await timed(async () => {
          for (let i = 0; i < 1_000; i++) await lane.pass(frame);
        });
        calls.set(name, [...(calls.get(name) ?? []), took]);
      });
    }
  }
  const bare = median(starts.get("none") ?? []);
  const bareCall = median(calls.get("none") ?? []);
  console.log("layers (median of 5, in turns; a call of 16 rows alone)");
  console.table(
    ways.map(([name]) => ({
      walls: name,
      start: ms(median(starts.get(name) ?? [])),
      "more than none": ms(median(starts.get(name) ?? []) - bare),
      "µs a call": Number(median(calls.get(name) ?? []).toFixed(0)),
      ratio: Number((median(calls.get(name) ?? []) / bareCall).toFixed(2)),
    })),
  );
}

async function plugins(): Promise<void> {
  const rows: Record<string, string | number>[] = [];
  let one = 0;
  for (const count of [1, 10, 100]) {
    const subjects = Object.fromEntries(Array.from({ length: count }, (_, i) => [`p${i}`, small]));
    await withLane(subjects, {}, async (lane, startMs) => {
      const { pids } = lane.manager;
      for (let i = 0; i < 50; i++) await lane.pass(frame);
      const took = await timed(async () => {
        for (let i = 0; i < 100; i++) await lane.pass(frame);
      });
      const rss = memoryMiB(pids, "Rss");
      if (count === 1) one = rss;
      const threads = pids.reduce((sum, pid) => sum + readdirSync(`/proc/${pid}/task`).length, 0);
      rows.push({
        plugins: count,
        "started in": ms(startMs),
        "host RSS MiB": Number(rss.toFixed(0)),
        "MiB each further": count === 1 ? "-" : Number(((rss - one) / (count - 1)).toFixed(1)),
        threads,
        "ms a chunk through all": Number((took / 100).toFixed(2)),
      });
    });
  }
  console.log("plugins (C, every one bound to every row)");
  console.table(rows);
}

async function deadline(): Promise<void> {
  const timeMs = 250;
  const late: number[] = [];
  const spin: Subject = { component: hostile("spin"), manifest: { limits: { timeMs } } };
  for (let i = 0; i < 3; i++) {
    await withLane({ spin }, {}, async (lane) => {
      late.push((await timed(() => lane.send(frame))) - timeMs);
      await lane.manager.chain.restart();
    });
  }
  console.log(
    `deadline: the call of a spinning plugin failed ${late.map(ms).join(", ")} after its ${timeMs} ms`,
  );
}

async function hostiles(): Promise<void> {
  const all = "spin,grow,recursion,trap,log-flood,huge-output,alias-blobs";
  const bad = (process.env["HOSTILE"] ?? all).split(",");
  const folder = new AgentFolder({
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    plugins: {
      dir: "plugins",
      good: { bind: { devices: ["good"] } },
      ...Object.fromEntries(bad.map((name) => [name, { bind: { devices: [name] } }])),
    },
  });
  const dir = join(folder.dir, "plugins");
  mkdirSync(dir);
  copyFileSync(fixture("passthrough"), join(dir, "good.wasm"));
  for (const name of bad) copyFileSync(hostile(name), join(dir, `${name}.wasm`));
  const agent = await Agent.start(folder);
  const client = await mqtt.connectAsync(`mqtt://${await agent.broker()}`);
  const send = (device: string): Promise<unknown> =>
    client.publishAsync(`devices/${device}/t`, '{"n":1}', { qos: 1 });
  const wait = (duration: number): Promise<void> => new Promise((done) => setTimeout(done, duration));
  const measure = async (misbehave: boolean, forSeconds = seconds): Promise<number[]> => {
    const waits: number[] = [];
    const until = performance.now() + forSeconds * 1000;
    const hostile = misbehave
      ? setInterval(() => {
          for (const name of bad) void send(name);
        }, 2_000)
      : undefined;
    while (performance.now() < until) {
      const start = performance.now();
      void send("good").then(() => waits.push(performance.now() - start));
      await wait(5);
    }
    clearInterval(hostile);
    await send("good");
    return waits;
  };
  await measure(false, 5);
  const alone = await measure(false, Math.min(seconds, 60));
  const beside = await measure(true);
  const rows = [
    ["alone", alone],
    ["beside", beside],
  ] as const;
  console.log(
    `hostile: 200 messages a second of a good device, ${seconds} s; ${bad.length} bad plugins with a message every 2 s`,
  );
  console.table(
    rows.map(([name, waits]) => ({
      good: name,
      messages: waits.length,
      p50: ms(at(waits, 0.5)),
      p99: ms(at(waits, 0.99)),
      "p99.9": ms(at(waits, 0.999)),
      longest: ms(at(waits, 0.99999)),
    })),
  );
  console.log(
    `p99 beside : alone ${(at(beside, 0.99) / at(alone, 0.99)).toFixed(1)}; ${(await folder.api.plugins()).filter(({ state }) => state === "quarantined").length} in quarantine; agent not restarted`,
  );
  await client.endAsync(true);
  await agent.stop();
  folder.remove();
}

const sections = { starts, layers, plugins, deadline, hostile: hostiles };
const wanted = process.argv.slice(3);
for (const [name, run] of Object.entries(sections)) {
  if (wanted.length === 0 || wanted.includes(name)) await run();
}
