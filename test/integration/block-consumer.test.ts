/** Batches of every encoding and compression, from a whole agent through mosquitto to a consumer in Python that knows the documents alone. */
import { type ChildProcess, spawn } from "node:child_process";
import { resolve } from "node:path";
import mqtt from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Mosquitto } from "../faults/harness/mosquitto.ts";
import { Agent, AgentFolder, hasProgram, weir } from "../helpers/agent.ts";
import { hasModule, PYTHON } from "../helpers/python.ts";
import { until } from "../helpers/until.ts";

const missing = [
  ...(hasProgram("mosquitto") ? [] : ["mosquitto"]),
  ...(hasModule("paho.mqtt.client") ? [] : ["python3-paho-mqtt"]),
];
const zstd = hasModule("zstandard");
const lacks = zstd ? missing : [...missing, "python3-zstandard, for zstd"];
const lacking = lacks.length > 0 ? ` (lacking ${lacks.join(", ")})` : "";
const FORMATS = ["json", "block"].flatMap((encoding) =>
  ["none", "gzip", ...(zstd ? ["zstd"] : [])].map((compression) => ({
    encoding,
    compression,
  })),
);
const MESSAGES = 600;

interface Printed {
  readonly topic: string;
  readonly key?: readonly [gateway: string, epoch: string, stream: string, seq: number, span: number];
  readonly samples?: readonly (readonly [device: string, metric: string, ms: number, value: unknown])[];
  readonly copy?: boolean;
  readonly gap?: Readonly<Record<string, unknown>>;
  readonly error?: string;
}

describe.skipIf(missing.length > 0)(`a consumer in Python${lacking}`, () => {
  let broker: Mosquitto;
  let folder: AgentFolder;
  let agent: Agent;
  let consumer: ChildProcess;
  const printed: Printed[] = [];
  let rest = "";

  beforeAll(async () => {
    broker = await Mosquitto.start();
    const url = `mqtt://127.0.0.1:${broker.port}`;
    const uplink = (name: string, more: object) => ({
      url,
      clientId: name,
      streams: ["data"],
      topics: { status: `status/${name}`, batch: `up/${name}/{stream}`, gap: `up/${name}/gap` },
      ...more,
    });
    const uplinks = FORMATS.map(({ encoding, compression }) => {
      const name = `${encoding}-${compression}`;
      return [name, uplink(name, { encoding, compression, batch: { samples: 200, ageMs: 50 } })];
    });
    // What this one is not to send yet is purged.
    const held = uplink("held", {
      encoding: "block",
      batch: { samples: 1_000_000, bytes: "1GiB", ageMs: 3_600_000 },
    });
    folder = new AgentFolder({
      sources: { kernel: { enabled: false }, system: { enabled: false } },
      uplinks: { ...Object.fromEntries(uplinks), held },
    });
    agent = await Agent.start(folder);
    const script = resolve("docs/recipes/consume.py");
    // Without -B it would leave its bytecode in docs/, which is packed.
    const child = spawn(PYTHON, ["-B", script, "127.0.0.1", String(broker.port), "up/#"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    consumer = child;
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      printed.push(...lines.map((line): Printed => JSON.parse(line)));
    });
    await until("the consumer", () => printed.some(({ topic }) => topic === "ready"));
  });
  afterAll(async () => {
    consumer.kill("SIGKILL");
    await agent.kill();
    await broker.remove();
    folder.remove();
  });

  const samplesOf = (name: string) =>
    printed.filter(({ topic }) => topic === `up/${name}/data`).flatMap(({ samples }) => samples ?? []);

  test("gets every sample of every encoding, with its value, and can read all there is", async () => {
    const device = await agent.client();
    const payload = (n: number): string =>
      JSON.stringify({ n, temp_c: n / 10, on: n % 2 === 0, text: `t${n}`, nil: null });
    await Promise.all(
      Array.from({ length: MESSAGES }, (_, n) =>
        device.publishAsync(`devices/pump-${n % 7}/t`, payload(n), { qos: 1 }),
      ),
    );
    await device.endAsync();
    const expected = Array.from({ length: MESSAGES }, (_, n) =>
      [
        ["n", n],
        ["temp_c", n / 10],
        ["on", n % 2 === 0],
        ["text", `t${n}`],
        ["nil", null],
      ].map(([metric, value]) => [`pump-${n % 7}`, metric, value]),
    ).flat();
    for (const { encoding, compression } of FORMATS) {
      const name = `${encoding}-${compression}`;
      await until(`everything of ${name}`, () => samplesOf(name).length >= expected.length);
      const came = samplesOf(name).map(([deviceId, metric, ms, value]) => {
        expect(Math.abs(ms - Date.now())).toBeLessThan(600_000);
        return [deviceId, metric, value];
      });
      expect(came).toEqual(expected);
    }
    expect(printed.filter(({ error }) => error !== undefined)).toEqual([]);
  });

  test("knows a copy by its key", async () => {
    const copier = await mqtt.connectAsync(`mqtt://127.0.0.1:${broker.port}`, { reconnectPeriod: 0 });
    const before = printed.length;
    // Every batch that it hears comes once more.
    let copies = 0;
    copier.on("message", (topic, payload, { retain }) => {
      if (retain || copies > 0) return;
      copies += 1;
      copier.publish(topic, payload, { qos: 1 });
    });
    await copier.subscribeAsync("up/block-gzip/data", { qos: 1 });
    const device = await agent.client();
    await device.publishAsync("devices/pump-1/t", '{"n":-1}', { qos: 1 });
    await device.endAsync();
    const copy = await until("the copy", () => printed.slice(before).find((line) => line.copy === true));
    const first = printed
      .slice(before)
      .find(({ key, samples }) => samples !== undefined && String(key) === String(copy.key));
    expect(first?.samples).toHaveLength(1);
    copier.end(true);
  });

  test("reads which numbers will not come, and why, while nothing else happens", async () => {
    const purged = weir("outbox", "purge", "--uplink", "held", "--config", folder.config);
    expect(purged).toMatchObject({ status: 0 });
    const { gap } = await until("the gap", () => printed.find(({ topic }) => topic === "up/held/gap"));
    const samples = 5 * MESSAGES + 1;
    expect(gap).toMatchObject({ stream: "data", from: 0, to: samples - 1, reason: "purge" });
  });
});
