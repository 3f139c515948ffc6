/** Real peers: programs of others that read what Weir stores and publishes, by its documents alone. */
import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";
import { freePort } from "./harness/mosquitto.ts";

const MESSAGES = 200;
let folder: AgentFolder;
let agent: Agent;
let address: { readonly host: string; readonly port: string };

beforeAll(async () => {
  folder = new AgentFolder({
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    uplinks: { dead: { url: `mqtt://127.0.0.1:${await freePort()}`, streams: ["data"] } },
  });
  agent = await Agent.start(folder);
  const [host = "", port = ""] = (await agent.broker()).split(":");
  address = { host, port };
});
afterAll(async () => {
  await agent.kill();
  folder.remove();
});

async function publish(device: string): Promise<void> {
  const client = await agent.client();
  await Promise.all(
    Array.from({ length: MESSAGES }, (_, n) =>
      client.publishAsync(`devices/${device}/t`, JSON.stringify({ n }), { qos: 1 }),
    ),
  );
  await client.endAsync();
}

/** Starts a subscriber, publishes once it says that it is there, and gives the lines that it printed. */
async function linesOf(program: string, args: readonly string[], device: string): Promise<readonly string[]> {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], detached: true });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  try {
    const lines = (): string[] => output.split("\n").filter((line) => line.includes(device));
    // A subscriber is there when it prints something.
    const probe = async (): Promise<boolean> => {
      const client = await agent.client();
      await client.publishAsync("devices/probe/t", '{"n":1}', { qos: 1 });
      await client.endAsync();
      return output !== "";
    };
    await until("the subscriber", probe, 30_000);
    await publish(device);
    await until("every value", () => lines().length >= MESSAGES, 30_000);
    return lines();
  } finally {
    // With whatever it started.
    if (child.pid !== undefined) process.kill(-child.pid, "SIGTERM");
  }
}

const expected = Array.from({ length: MESSAGES }, (_, n) => n);

test.skipIf(!hasProgram("mosquitto_sub") || !hasProgram("jq"))(
  "mosquitto_sub and jq print a line for each value (needs mosquitto-clients, jq)",
  { timeout: 90_000 },
  async () => {
    const { host, port } = address;
    const recipe =
      `mosquitto_sub -h ${host} -p ${port} -t 'weir/v1/+/data' | ` +
      "jq --unbuffered -c '.samples[] as $s | $s.values | to_entries[] | [$s.ts, $s.device, .key, .value]'";
    const lines = await linesOf("bash", ["-c", recipe], "by-jq");
    expect(lines.map((line) => JSON.parse(line)[3])).toEqual(expected);
  },
);

/** Debian's Python: its own version manager may come first on the PATH. */
const PYTHON = "/usr/bin/python3";
const paho = spawnSync(PYTHON, ["-c", "import paho.mqtt.client"]).status === 0;
const CONSUMER = `
import json, sys
import paho.mqtt.client as mqtt
try: client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION1)
except AttributeError: client = mqtt.Client()
seen = set()
def on_message(client, _, message):
    batch = json.loads(message.payload)
    key = (batch["gateway"], batch["epoch"], batch["stream"], batch["seq"])
    if key in seen: return
    seen.add(key)
    for sample in batch["samples"]:
        for name, value in sample["values"].items(): print(sample["device"], name, value, flush=True)
client.on_message = on_message
client.on_connect = lambda client, *_: client.subscribe("weir/v1/+/data", 1)
client.connect(sys.argv[1], int(sys.argv[2]))
client.loop_forever()
`;

test.skipIf(!paho)(
  "paho gets every value once, by the key of its batch (needs python3-paho-mqtt)",
  { timeout: 90_000 },
  async () => {
    const lines = await linesOf(PYTHON, ["-c", CONSUMER, address.host, address.port], "by-paho");
    expect(lines.map((line) => Number(line.split(" ")[2]))).toEqual(expected);
  },
);

test.skipIf(!hasProgram("sqlite3"))(
  "sqlite3 reads the outbox beside the running agent, and every lane adds up (needs sqlite3)",
  { timeout: 90_000 },
  async () => {
    await publish("by-sqlite");
    const ask = (sql: string): string => {
      const done = spawnSync("sqlite3", ["-readonly", join(folder.dir, "data", "weir.db"), sql], {
        encoding: "utf8",
      });
      expect(done.stderr).toBe("");
      return done.stdout.trim();
    };
    expect(ask("PRAGMA application_id; PRAGMA user_version; PRAGMA integrity_check")).toBe(
      `${0x57454952}\n2\nok`,
    );
    const wrong = ask(`SELECT uplink, stream FROM lane WHERE uplink <> '' AND committed <>
      acked + dropped + rejected + lost + pending_samples +
      coalesce((SELECT sum(samples) FROM backlog b WHERE b.uplink = lane.uplink AND b.stream = lane.stream), 0) +
      coalesce((SELECT sum(span) FROM batch b WHERE b.uplink = lane.uplink AND b.stream = lane.stream), 0)`);
    expect(wrong).toBe("");
    // What the dead uplink holds are chunks that are there, numbered without a hole.
    const held = "SELECT sum(samples), max(seq + samples) - min(seq) FROM chunk WHERE stream = 'data'";
    const [samples, numbers] = ask(held).split("|").map(Number);
    expect(samples).toBeGreaterThanOrEqual(MESSAGES);
    expect(samples).toBe(numbers);
    const { lines } = await folder.api.ledger();
    const dead = lines.find(({ name }) => name === "dead/data");
    expect(dead?.held).toBe(samples);
  },
);
