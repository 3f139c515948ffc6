import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join, resolve } from "node:path";
import mqtt from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { batchIn } from "../../src/batch-tools.ts";
import { imbalance } from "../../src/core/ledger.ts";
import { METRICS } from "../../src/telemetry/metrics.ts";
import { Agent, AgentFolder, hasProgram, weir } from "../helpers/agent.ts";
import { eventually } from "../helpers/eventually.ts";
import { freePort } from "../helpers/free-port.ts";
import { until } from "../helpers/until.ts";

/** Something else that has a port. */
async function takePort(): Promise<{ port: number; server: Server }> {
  const port = await freePort();
  const server = createServer((socket) => socket.on("error", () => {}).resume());
  await new Promise<void>((done) => server.listen(port, "127.0.0.1", done));
  return { port, server };
}
/** Stages of the ledger, how long things take, and how the agent is doing; probes are elsewhere: they need rights. */
const SHOWN = [
  ...[
    "source_in_messages",
    "source_in_samples",
    "decode_in_messages",
    "plugin_in_samples",
    "commit_in_samples",
  ],
  ...["outbox_in_samples", "forward_in_batches"],
]
  .map((name) => `weir_${name}_total`)
  .concat(
    [
      "device_ack",
      "chain",
      "commit",
      "publish",
      "outbox_oldest_age",
      "loop_lag",
      "gc_pause",
      "start_time",
    ].map((name) => `weir_${name}_seconds`),
    [
      "outbox_used",
      "outbox_limit",
      "outbox_file",
      "plugin_state",
      "plugin_memory",
      "process_pss",
      "heap_used",
    ].map((name) => `weir_${name}_bytes`),
    ["weir_plugin_busy_seconds_total", "weir_process_cpu_seconds_total", "weir_process_open_fds"],
    ["weir_loop_busy_ratio", "weir_build_info", "weir_part_up", "weir_ready", "weir_outbox_restarts_total"],
  );
const closed = (server: Server): Promise<void> => new Promise((done) => void server.close(() => done()));

describe("what a running agent shows", () => {
  const folder = new AgentFolder({
    sources: { system: { intervalMs: 300 } },
    uplinks: { away: { url: "mqtt://127.0.0.1:9" } },
  });
  let agent: Agent;
  let base = "";
  beforeAll(async () => {
    cpSync("plugins/scale", join(folder.dir, "plugins", "scale"), { recursive: true });
    agent = await Agent.start(folder);
    const { http } = await folder.api.status();
    base = `http://${http}`;
    const device = await agent.client();
    for (let i = 0; i < 20; i++)
      await device.publishAsync("devices/pump/telemetry", `{"temp_c":${i}}`, { qos: 1 });
    await device.publishAsync("devices/demo-1/telemetry", '{"temp_c":1}', { qos: 1 });
    await device.endAsync();
  });
  afterAll(async () => {
    await agent.kill();
    folder.remove();
  });

  test("/metrics has every stage and how long things take, and promtool finds nothing wrong with it", async () => {
    // Some of it is told a moment after what it is about.
    const page = await eventually(async () => {
      const page = await (await fetch(`${base}/metrics`)).text();
      expect(page).toMatch(/^weir_outbox_out_samples_total\{uplink="local",stream="data"\} [1-9]/m);
      expect(page).toMatch(/^weir_source_in_messages_total\{source="devices"\} 21$/m);
      expect(page).toMatch(/^weir_device_ack_seconds_count 21$/m);
      expect(page).toMatch(/^weir_publish_seconds_count\{uplink="local"\} [1-9]/m);
      expect(page).toMatch(/^weir_process_pss_bytes\{process="weir"\} [1-9]\d{6}/m);
      // Each in use, as docs/metrics.md has it.
      const shown = new Set(Array.from(page.matchAll(/^# TYPE (\S+)/gm), ([, name]) => name));
      expect(SHOWN.filter((name) => !shown.has(name))).toEqual([]);
      expect(page).toMatch(/^weir_process_pss_bytes\{process="plugin-host[^"]*"\} [1-9]\d{6}/m);
      expect(page).toMatch(/^weir_plugin_memory_bytes\{plugin="scale",of="wasm"\} [1-9]\d{5}/m);
      expect(page).toMatch(/^weir_plugin_memory_bytes\{plugin="scale",of="heap"\} [1-9]\d{5}/m);
      expect(page).toMatch(
        new RegExp(`^weir_build_info\\{version="[^"]+",node="v\\d[^"]+",arch="${process.arch}"\\} 1$`, "m"),
      );
      return page;
    });
    for (const [, name = ""] of page.matchAll(/^# TYPE (\S+)/gm)) expect(METRICS.has(name)).toBe(true);
    if (!hasProgram("promtool")) return;
    const checked = spawnSync("promtool", ["check", "metrics"], { input: page, encoding: "utf8" });
    expect(checked.stdout + checked.stderr).toBe("");
    expect(checked.status).toBe(0);
  });

  test("/metrics has the cost of each kernel probe that runs", async (context) => {
    const probes = await folder.api.probes();
    if (!probes.some(({ state, memoryBytes }) => state === "on" && memoryBytes !== undefined))
      context.skip("no kernel probe runs here");
    await until("the first count, some seconds after the start", async () => {
      const page = await (await fetch(`${base}/metrics`)).text();
      return ["weir_probe_run_seconds", "weir_probe_cpu_ratio", "weir_probe_memory_bytes"].every((name) =>
        new RegExp(`^${name}\\{probe="sched"\\} \\d`, "m").test(page),
      );
    });
  });

  test("health and readiness answer; /api/v1 is read-only and knows neither payloads nor bodies", async () => {
    expect(await (await fetch(`${base}/healthz`)).json()).toEqual({ status: "ok" });
    expect(await (await fetch(`${base}/readyz`)).json()).toMatchObject({ ready: true, reasons: [] });
    expect((await fetch(`${base}/api/v1/status`)).headers.get("access-control-allow-origin")).toBeNull();
    expect((await fetch(`${base}/api/v1/reload`, { method: "POST" })).status).toBe(405);
    expect((await fetch(`${base}/api/v1/rejected`)).status).toBe(404);
    expect((await fetch(`${base}/api/v1/status`, { method: "POST", body: "x".repeat(100) })).status).toBe(
      413,
    );
  });

  test("a name from outside that points here gets nothing", () => {
    const asked = (host: string): string =>
      spawnSync(
        "curl",
        ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", `Host: ${host}`, `${base}/metrics`],
        {
          encoding: "utf8",
        },
      ).stdout;
    expect(["evil.example", "localhost.evil.example:80", ""].map(asked)).toEqual(["421", "421", "421"]);
    expect(["localhost:7780", "127.0.0.1", "[::1]:1"].map(asked)).toEqual(["200", "200", "200"]);
  });
});

describe("a configuration that changes while the agent runs", () => {
  const folder = new AgentFolder({ sources: { kernel: { enabled: false }, system: { enabled: false } } });
  const extra = join(folder.dir, "conf.d", "50-test.yaml");
  let agent: Agent;
  beforeAll(async () => {
    mkdirSync(join(folder.dir, "conf.d"));
    agent = await Agent.start(folder);
  });
  afterAll(async () => {
    await agent.kill();
    folder.remove();
  });
  /** By renaming: the agent looks by itself, too, and a file that is being written is empty for a moment. */
  const write = (text: string): void => {
    writeFileSync(`${folder.dir}/extra.new`, text);
    renameSync(`${folder.dir}/extra.new`, extra);
  };
  const reload = () => {
    const { stdout, stderr, status } = weir("reload", "--json", "--config", folder.config);
    return { status, stderr, report: status === 0 ? JSON.parse(stdout) : undefined };
  };

  test("only what changed restarts; devices of a broker that stays notice nothing, and nothing is lost", async () => {
    const device = await agent.client();
    const rates = { sent: 0, stop: false };
    const sending = (async () => {
      while (!rates.stop) {
        await device.publishAsync("devices/pump/telemetry", `{"n":${rates.sent}}`, { qos: 1 });
        rates.sent += 1;
      }
    })();
    write("pipeline: { lingerMs: 2 }\nsources: { system: { enabled: true } }\n");
    // Asked directly: by the time that a command has started, the agent may have noticed the change itself.
    expect(await folder.api.reload()).toMatchObject({ restarted: ["system"], atNextStart: [] });
    write(`uplinks: { cloud: { url: "mqtt://127.0.0.1:${await freePort()}" } }\n`);
    const report = await folder.api.reload();
    expect(report.restarted).toEqual(expect.arrayContaining(["outbox", "uplink cloud", "system"]));
    expect(report.restarted).not.toContain("broker");
    expect(report.restarted).not.toContain("uplink local");
    write("outbox: { maxBytes: 64MiB }\n");
    const { restarted } = await folder.api.reload();
    expect(restarted).toEqual(expect.arrayContaining(["outbox", "uplink cloud"]));
    rates.stop = true;
    await sending;
    expect(device.connected).toBe(true);
    await device.endAsync();
    const lines = await until("everything to be acknowledged at the local uplink", async () => {
      const found = (await folder.api.ledger()).lines;
      const local = found.find(({ name }) => name === "local/data");
      return local !== undefined && local.out >= rates.sent && found;
    });
    for (const line of lines) expect(imbalance(line), `${line.stage} ${line.name}`).toBe(0);
    expect(lines.find(({ name }) => name === "local/data")).toMatchObject({
      out: rates.sent,
      lost: 0,
      dropped: 0,
    });
  });

  test("what is not valid is refused as a whole, with line and remedy, and the old one goes on", async () => {
    write("pipeline: { lingerMs: 3 }\nbroker:\n  prot: 7\n");
    const { status, stderr } = reload();
    expect(status).toBe(2);
    expect(stderr).toContain(`${extra}:3: broker.prot: unknown key; did you mean "port"?`);
    expect((await folder.api.status()).broker).toBeDefined();
    await until("the log to say so", () => agent.output.includes("the configuration is refused"));
    rmSync(extra);
    agent.child.kill("SIGHUP");
    await until("a change of a file to be noticed", async () => {
      const { parts } = await folder.api.status();
      return parts.every(({ state }) => state === "on");
    });
  });

  test("the gateway's name and the data folder wait for a restart", () => {
    write("gateway: { name: other }\n");
    expect(reload().report).toMatchObject({ sections: [], restarted: [], atNextStart: ["gateway"] });
    rmSync(extra);
  });

  test("rules for devices change without a restart of the agent", async () => {
    write('sources: { devices: [ { topic: "plant/{device}/v" } ] }\n');
    await until("the change to be noticed", () => agent.output.includes("restarted: broker, uplink local"));
    const client = await agent.client();
    const seen: string[] = [];
    client.on("message", (_topic, payload) => {
      for (const { device } of batchIn(payload)?.samples ?? []) seen.push(device);
    });
    await client.subscribeAsync("weir/v1/gw/data");
    await client.publishAsync("plant/mill/v", "4", { qos: 1 });
    await until("mill upstream", () => seen.includes("mill"));
    await client.endAsync();
  });

  test("a broken file at the next start: the last good configuration is in force, and says so", async () => {
    await agent.stop();
    write("broker: { port: 18");
    agent = await Agent.start(folder);
    expect(agent.output).toContain("the last good configuration");
    const client = await agent.client();
    await client.publishAsync("plant/mill/v", "5", { qos: 1 });
    await client.endAsync();
    rmSync(extra);
  });
});

test("a file that appears beside an agent that started without one takes effect; when it goes, what runs stays", async () => {
  const folder = new AgentFolder();
  rmSync(folder.config);
  const environment = {
    ...process.env,
    WEIR__DATA__DIR: join(folder.dir, "data"),
    WEIR__BROKER__PORT: "0",
    WEIR__HTTP__PORT: "0",
    WEIR__SOURCES__KERNEL__ENABLED: "false",
  };
  // As in a clone: the file is not named, but found in the working folder.
  const agent = await Agent.start(folder, ["sh", "-c", `exec "$0" run`], {
    weir: resolve("bin/weir"),
    environment,
  });
  try {
    const uplinks = async () => new Set((await folder.api.outbox()).counts.map(({ uplink }) => uplink));
    expect(await uplinks()).toEqual(new Set(["local"]));
    writeFileSync(
      folder.config,
      'uplinks: { local: { url: embedded }, cloud: { url: "mqtt://127.0.0.1:9" } }\n',
    );
    await until("the new uplink", async () => (await uplinks()).has("cloud"));
    rmSync(folder.config);
    await until("the refusal", () => agent.output.includes("no such file"));
    expect((await uplinks()).has("cloud")).toBe(true);
  } finally {
    await agent.kill();
    folder.remove();
  }
});

test("a port that is taken is tried again until it is free; the rest of the agent runs meanwhile", async () => {
  const { port, server } = await takePort();
  const folder = new AgentFolder({
    broker: { port },
    sources: { kernel: { enabled: false }, system: { enabled: false } },
  });
  const agent = await Agent.start(folder);
  try {
    const { parts } = await folder.api.status();
    expect(parts.find(({ name }) => name === "broker")).toMatchObject({
      state: "failed",
      remedy: expect.stringContaining("broker.port"),
    });
    await closed(server);
    await until("the broker", async () => (await folder.api.status()).broker);
    await until("the local uplink", async () => {
      const { parts: now } = await folder.api.status();
      return now.every(({ state }) => state === "on");
    });
    const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { reconnectPeriod: 0 });
    await client.publishAsync("devices/a/b", "1", { qos: 1 });
    await client.endAsync();
  } finally {
    await agent.kill();
    folder.remove();
  }
});
