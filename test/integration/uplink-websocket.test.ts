/** Uplinks over WebSocket, ws:// and wss://, through an independent implementation of RFC 6455 to mosquitto. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import mqtt, { type MqttClient } from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Mosquitto } from "../faults/harness/mosquitto.ts";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { selfSigned } from "../helpers/certificate.ts";
import { freePort } from "../helpers/free-port.ts";
import { hasModule, PYTHON } from "../helpers/python.ts";
import { until } from "../helpers/until.ts";

const missing = [
  ...["mosquitto", "openssl"].filter((name) => !hasProgram(name)),
  ...(hasModule("websockets") ? [] : ["python3-websockets"]),
];
const lacking = missing.length > 0 ? ` (lacking ${missing.join(", ")})` : "";

describe.skipIf(missing.length > 0)(`uplinks over WebSocket${lacking}`, () => {
  const dir = mkdtempSync(join(tmpdir(), "weir-uplink-ws-"));
  const fronts = new Map<string, ChildProcess>();
  const ports = { ws: 0, wss: 0 };
  let broker: Mosquitto;
  let folder: AgentFolder;
  let agent: Agent;
  let client: MqttClient;
  const heard: string[] = [];

  async function front(scheme: "ws" | "wss"): Promise<void> {
    const files = scheme === "wss" ? [join(dir, "server.pem"), join(dir, "server.key")] : [];
    const script = resolve("test/fixtures/tools/ws_front.py");
    const args = [script, String(ports[scheme]), String(broker.port), ...files];
    const child = spawn(PYTHON, args, { stdio: ["ignore", "pipe", "inherit"] });
    fronts.set(scheme, child);
    await once(child.stdout, "data");
  }

  async function halt(): Promise<void> {
    for (const child of fronts.values()) {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    }
    fronts.clear();
    await broker.halt();
  }

  async function listen(): Promise<void> {
    client = await mqtt.connectAsync(`mqtt://127.0.0.1:${broker.port}`, { reconnectPeriod: 0 });
    client.on("message", (topic, payload) => heard.push(`${topic} ${payload}`));
    await client.subscribeAsync(["up/#", "status/#"], { qos: 1 });
  }

  const part = async (name: string) =>
    (await folder.api.status()).parts.find((one) => one.name === `uplink ${name}`);
  const bothAre = (state: string): Promise<unknown> =>
    until(
      `both uplinks to be ${state}`,
      async () => (await part("ws"))?.state === state && (await part("wss"))?.state === state,
    );
  const publish = async (n: number): Promise<void> => {
    const device = await agent.client();
    await device.publishAsync("devices/pump-1/t", `{"n":${n}}`, { qos: 1 });
    await device.endAsync();
  };
  /** Batches over both came here, and their acknowledgements there. */
  const delivered = (n: number): Promise<unknown> =>
    until(`${n} over both`, async () => {
      const { counts } = await folder.api.outbox();
      const done = counts.filter(({ uplink, held }) => uplink.startsWith("ws") && held === 0);
      const came = (name: string): boolean =>
        heard.some((text) => text.startsWith(`up/${name} `) && text.includes(`"n":${n}}`));
      return came("ws") && came("wss") && done.filter(({ acked }) => acked > 0).length === 2;
    });

  beforeAll(async () => {
    selfSigned(dir, "server");
    broker = await Mosquitto.start();
    for (const scheme of ["ws", "wss"] as const) {
      ports[scheme] = await freePort();
      await front(scheme);
    }
    await listen();
    const to = (scheme: "ws" | "wss", name: string, tls: object = {}) => ({
      url: `${scheme}://127.0.0.1:${ports[scheme]}/mqtt`,
      clientId: name,
      streams: ["data"],
      batch: { ageMs: 50 },
      topics: { status: `status/${name}`, batch: `up/${name}` },
      tls,
    });
    const ca = join(dir, "server.pem");
    folder = new AgentFolder({
      sources: { kernel: { enabled: false }, system: { enabled: false } },
      uplinks: {
        ws: { ...to("ws", "ws"), version: 4 },
        wss: to("wss", "wss", { ca }),
        stranger: to("wss", "stranger"),
        wrongname: to("wss", "wrongname", { ca, servername: "elsewhere.example" }),
      },
    });
    agent = await Agent.start(folder);
  });
  afterAll(async () => {
    await agent.kill();
    client.end(true);
    await halt();
    await broker.remove();
    folder.remove();
    rmSync(dir, { recursive: true, force: true });
  });

  const says = (status: string): Promise<unknown> =>
    until(`both to be ${status}`, () =>
      ["ws", "wss"].every((name) =>
        heard.some((text) => text.startsWith(`status/${name} `) && text.includes(`"status":"${status}"`)),
      ),
    );

  test("say that they are there, deliver, and take the broker's acknowledgement", async () => {
    await bothAre("on");
    await says("online");
    await publish(1);
    await delivered(1);
  });

  test("refuse a certificate that nobody signed, or of another host, and say so", async () => {
    const because = (name: string, text: string): Promise<unknown> =>
      until(`${name}: ${text}`, async () => (await part(name))?.reason?.includes(text));
    await because("stranger", "self-signed");
    await because("wrongname", "elsewhere.example");
    expect((await part("stranger"))?.state).toBe("failed");
  });

  test("find the broker again after it was away, and deliver what came meanwhile", async () => {
    client.end(true);
    await halt();
    await bothAre("failed");
    await publish(2);
    await broker.run();
    await listen();
    await front("ws");
    await front("wss");
    await bothAre("on");
    await delivered(2);
    await publish(3);
    await delivered(3);
  });

  test("leave a will, which says that they are gone when the agent is killed", async () => {
    heard.length = 0;
    await agent.kill();
    await says("offline");
  });
});
