/** The recipes of docs/recipes.md, as they stand there: run where the tool is here, else checked against real messages. */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import mqtt, { type MqttClient } from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { z } from "zod";
import { Mosquitto } from "../faults/harness/mosquitto.ts";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { nodeRed, startNodeRed } from "../helpers/node-red.ts";
import { hasModule, PYTHON } from "../helpers/python.ts";
import { until } from "../helpers/until.ts";

const page = readFileSync("docs/recipes.md", "utf8");

/** The first block of code below the heading that begins so. */
function recipe(title: string): string {
  const section = page.split("\n## ").find((text) => text.startsWith(title));
  const code = section?.match(/^```\w+\n(.*?)^```$/ms)?.[1];
  if (code === undefined) throw new Error(`docs/recipes.md has no recipe ${title}`);
  return code;
}

const batchSchema = z.object({
  id: z.string(),
  gateway: z.string(),
  samples: z.array(z.record(z.string(), z.unknown())).min(1),
});
const MESSAGES = 100;
const expected = Array.from({ length: MESSAGES }, (_, n) => n);

describe.skipIf(!hasProgram("mosquitto"))("recipes (mosquitto)", () => {
  let broker: Mosquitto;
  let folder: AgentFolder;
  let agent: Agent;
  let client: MqttClient;
  const children: ChildProcess[] = [];
  const heard: { readonly topic: string; readonly text: string }[] = [];

  beforeAll(async () => {
    broker = await Mosquitto.start();
    const url = `mqtt://127.0.0.1:${broker.port}`;
    client = await mqtt.connectAsync(url, { reconnectPeriod: 0 });
    client.on("message", (topic, payload) => heard.push({ topic, text: String(payload) }));
    await client.subscribeAsync(["weir/#", "recipe/#"], { qos: 1 });
    folder = new AgentFolder({
      sources: { kernel: { enabled: false }, system: { enabled: false } },
      uplinks: { up: { url, last: true, batch: { ageMs: 50 } } },
    });
    agent = await Agent.start(folder);
    await publish("pump-1", [1]);
    for (const topic of ["status", "data", "last/pump-1"]) await message(topic);
  });
  afterAll(async () => {
    // With whatever they started.
    for (const { pid } of children) if (pid !== undefined) process.kill(-pid, "SIGKILL");
    client.end(true);
    await agent.kill();
    await broker.remove();
    folder.remove();
  });

  async function publish(name: string, numbers: readonly number[]): Promise<void> {
    const device = await agent.client();
    const send = (n: number) =>
      device.publishAsync(`devices/${name}/t`, JSON.stringify({ temp_c: n }), { qos: 1 });
    await Promise.all(numbers.map(send));
    await device.endAsync();
  }

  /** The first message on a topic below `weir/v1/gw`. */
  const message = async (topic: string): Promise<unknown> =>
    JSON.parse((await until(topic, () => heard.find((one) => one.topic === `weir/v1/gw/${topic}`))).text);
  const batch = async () => batchSchema.parse(await message("data"));

  /** Starts a subscriber, publishes once it prints what came, and gives its lines of that device. */
  async function linesOf(program: string, args: readonly string[], name: string): Promise<readonly string[]> {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], detached: true });
    children.push(child);
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    const lines = (): string[] => output.split("\n").filter((line) => line.includes(name));
    const probe = async (): Promise<boolean> => {
      await publish("probe", [1]);
      return output !== "";
    };
    await until("the subscriber", probe);
    await publish(name, expected);
    await until("every value", () => lines().length >= MESSAGES);
    return lines();
  }

  test.skipIf(!hasProgram("mosquitto_sub") || !hasProgram("jq"))(
    "mosquitto_sub and jq print a line for each value (mosquitto-clients, jq)",
    async () => {
      const script = recipe("mosquitto_sub").replace("-h 127.0.0.1", `-h 127.0.0.1 -p ${broker.port}`);
      const lines = await linesOf("bash", ["-c", script], "by-jq");
      expect(lines.map((line) => JSON.parse(line)[3])).toEqual(expected);
    },
  );

  test.skipIf(!hasModule("paho.mqtt.client"))(
    "paho gets every value once, by the key of its batch (python3-paho-mqtt)",
    async () => {
      const script = recipe("Python").replace('connect("127.0.0.1")', `connect("127.0.0.1", ${broker.port})`);
      const lines = await linesOf(PYTHON, ["-u", "-c", script], "by-paho");
      expect(lines.map((line) => Number(line.split(" ")[2]))).toEqual(expected);
    },
  );

  test.skipIf(nodeRed === undefined)(
    `Node-RED makes one message of each sample, and none of a copy${nodeRed === undefined ? " (lacking node-red: see .ci/run)" : ""}`,
    async () => {
      const out = {
        id: "test-out",
        type: "mqtt out",
        z: "weir-tab",
        topic: "recipe/out",
        qos: "1",
        broker: "weir-broker",
      };
      const flow = (await import("../../docs/recipes/node-red.json", { with: { type: "json" } })).default.map(
        (node) => {
          if (node.type === "mqtt-broker") return { ...node, port: String(broker.port) };
          if (node.type === "function") expect(`${node.func}\n`).toBe(recipe("Node-RED"));
          return node.id === "weir-split" ? { ...node, wires: [["weir-debug", "test-out"]] } : node;
        },
      );
      const red = await startNodeRed([...flow, out]);
      try {
        const samples = (): unknown[] =>
          heard.filter(({ topic }) => topic === "recipe/out").map(({ text }) => JSON.parse(text));
        const probe = async (): Promise<boolean> => {
          await publish("probe", [1]);
          return samples().length > 0;
        };
        await until("Node-RED to subscribe", probe);
        const from = heard.length;
        await publish("by-red", expected);
        const came = () =>
          samples().filter((sample) => z.object({ device: z.literal("by-red") }).safeParse(sample).success);
        await until("every sample", () => came().length >= MESSAGES);
        // The same batches once more, and something new behind them.
        for (const { topic, text } of heard.slice(from))
          if (topic === "weir/v1/gw/data") await client.publishAsync(topic, text, { qos: 1 });
        await publish("after-red", [1]);
        await until("what came after", () =>
          samples().some((sample) => JSON.stringify(sample).includes("after-red")),
        );
        expect(came()).toEqual(
          expected.map((n) => ({ device: "by-red", ts: expect.any(Number), values: { temp_c: n } })),
        );
      } finally {
        await red.stop();
      }
    },
  );

  test("what Telegraf is told to look at is there: an array of objects with time, tag and nested values", async () => {
    const toml = recipe("Telegraf");
    const value = (key: string): string => toml.match(new RegExp(`${key} = \\[?"([^"]+)"`))?.[1] ?? "";
    expect(value("topics")).toBe("weir/v1/+/data");
    const samples: unknown = Object.entries(await batch()).find(([name]) => name === value("path"))?.[1];
    for (const sample of z.array(z.record(z.string(), z.unknown())).min(1).parse(samples)) {
      expect(typeof sample[value("tags")]).toBe("string");
      expect(new Date(Number(sample[value("timestamp_key")])).getUTCFullYear()).toBeGreaterThan(2024);
      for (const one of Object.values(z.record(z.string(), z.unknown()).parse(sample["values"])))
        expect(typeof one).not.toBe("object");
    }
  });

  test("AWS IoT's rule names the topic's level of the gateway, and the batch has an id", async () => {
    const sql = recipe("AWS");
    const level = Number(sql.match(/topic\((\d)\)/)?.[1]);
    expect("weir/v1/gw/data".split("/")[level - 1]).toBe("gw");
    expect(sql).toContain("'weir/v1/+/data'");
    expect((await batch()).id).toMatch(/^gw\/[0-9a-f]{8}\/data\/\d+$/);
  });

  test("what Azure's query names is in the batch, in its samples, and among its own columns", async () => {
    const sql = recipe("Azure");
    const names = (pattern: RegExp): string[] => [...sql.matchAll(pattern)].map(([, name]) => name ?? "");
    const one = await batch();
    for (const name of names(/\binput\.(\w+)/g)) expect(one).toHaveProperty(name);
    const ofSample = names(/ArrayValue\.\[?(\w+)/g);
    expect(ofSample).toEqual(["device", "ts", "values"]);
    for (const name of ofSample) expect(one.samples[0]).toHaveProperty(name);
    const columns = new Set([...names(/ AS (\w+)/g), ...names(/SELECT input\.(\w+)/g)]);
    for (const name of names(/\bsamples\.(\w+)/g)) if (name !== "samples") expect(columns).toContain(name);
  });

  test("what Grafana shows is flat", async () => {
    const last = z.record(z.string(), z.unknown()).parse(await message("last/pump-1"));
    expect(last["temp_c"]).toBe(1);
    for (const value of Object.values(last)) expect(typeof value).not.toBe("object");
  });

  test("Home Assistant's templates find their values, and the availability is one of its two words", async () => {
    const entry = z.object({
      state_topic: z.string(),
      value_template: z.string(),
      availability_topic: z.string(),
      availability_template: z.string(),
    });
    const config = z
      .object({ mqtt: z.object({ sensor: z.array(entry).min(1) }) })
      .parse(parse(recipe("Home Assistant")));
    const [sensor] = config.mqtt.sensor;
    const find = async (topic = "", template = ""): Promise<unknown> => {
      const found = z
        .record(z.string(), z.unknown())
        .parse(await message(topic.replace("weir/v1/hall3-9f2c/", "")));
      return found[template.match(/^\{\{ value_json\.(\w+) \}\}$/)?.[1] ?? ""];
    };
    expect(await find(sensor?.state_topic, sensor?.value_template)).toBe(1);
    expect(await find(sensor?.availability_topic, sensor?.availability_template)).toBe("online");
  });
});
