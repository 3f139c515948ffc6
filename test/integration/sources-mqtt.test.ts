import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt, { type MqttClient } from "mqtt";
import { generate, type Packet, parser } from "mqtt-packet";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Frame } from "../../src/core/frame.ts";
import { Ledger } from "../../src/core/ledger.ts";
import type { DeviceMessage, Intake } from "../../src/core/ports.ts";
import { DeviceDecoder } from "../../src/sources/decode.ts";
import type { MqttSource } from "../../src/sources/mqtt-source.ts";
import { mqttSource } from "../../src/sources/mqtt-sources.ts";
import { mqttSourceSchema, sourcesSchema } from "../../src/sources/options.ts";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { selfSigned } from "../helpers/certificate.ts";
import { freePort } from "../helpers/free-port.ts";
import { until } from "../helpers/until.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A source whose messages wait in `messages` for the test to settle them. */
async function startSource(port: number, options: object = {}) {
  const messages: DeviceMessage[] = [];
  const refreshed: Frame[] = [];
  const intake: Intake = { message: (message) => messages.push(message), frame: () => true };
  const ledger = new Ledger();
  const log: string[] = [];
  const plant = mqttSourceSchema.parse({
    url: `mqtt://127.0.0.1:${port}`,
    rules: [{ topic: "factory/{device}/data", time: "$.t" }],
    ...options,
  });
  const { devices } = sourcesSchema.parse({});
  const source = mqttSource("plant", plant, devices.length, {
    gateway: "gw",
    templates: ["weir/v1/{gateway}/{stream}", "factory/{gateway}/data"],
    decoder: new DeviceDecoder([...devices, ...plant.rules]),
    refresh: (frame) => refreshed.push(frame),
    met: () => {},
    ledger,
    log: (_level, message) => log.push(message),
    random: () => 0,
  });
  await source.start(intake, new AbortController().signal);
  cleanups.push(() => source.close());
  return { source, messages, refreshed, log, ledger };
}

const isOn = (source: MqttSource) => until("the source to be on", () => source.state === "on");
const text = ({ payload }: DeviceMessage): string => Buffer.from(payload).toString();

describe("at mosquitto", () => {
  let found = false;
  beforeAll(() => {
    found = hasProgram("mosquitto");
  });

  async function startMosquitto(port: number, more = ""): Promise<ChildProcess> {
    const dir = mkdtempSync(join(tmpdir(), "weir-mosquitto-"));
    writeFileSync(join(dir, "m.conf"), `listener ${port} 127.0.0.1\nallow_anonymous true\n${more}`);
    const child = spawn("mosquitto", ["-c", join(dir, "m.conf")], { stdio: "ignore" });
    cleanups.push(async () => {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill("SIGKILL");
        await once(child, "exit");
      }
      rmSync(dir, { recursive: true, force: true });
    });
    return child;
  }

  async function join_(port: number): Promise<MqttClient> {
    const client = await until("mosquitto", () =>
      mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { reconnectPeriod: 0 }).catch(() => undefined),
    );
    cleanups.push(() => client.endAsync(true));
    return client;
  }

  for (const version of [4, 5] as const) {
    for (const qos of [1, 2] as const) {
      it(`version ${version}: what was not settled at QoS ${qos} comes again on the next connection, what was does not`, async (context) => {
        if (!found) context.skip("mosquitto is not installed");
        const port = await freePort();
        await startMosquitto(port);
        const client = await join_(port);
        const first = await startSource(port, { version, qos });
        await isOn(first.source);
        for (const n of [1, 2, 3]) await client.publishAsync("factory/a/data", `{"n":${n}}`, { qos });
        await until("three messages", () => first.messages.length === 3);
        expect(first.messages[0]?.route).toMatchObject({
          device: "a",
          rule: sourcesSchema.parse({}).devices.length,
        });
        expect(first.messages[0]?.source).toBe("mqtt/plant");
        first.messages[0]?.settle?.("committed");
        await first.source.close();
        const second = await startSource(port, { version, qos });
        await until("two messages", () => second.messages.length === 2);
        expect(second.messages.map(text)).toEqual(['{"n":2}', '{"n":3}']);
        for (const message of second.messages) message.settle?.("committed");
        await second.source.close();
        const third = await startSource(port, { version, qos });
        await isOn(third.source);
        await client.publishAsync("factory/a/data", '{"n":4}', { qos });
        await until("a message", () => third.messages.length > 0);
        expect(third.messages.map(text)).toEqual(['{"n":4}']);
      });
    }
  }

  it("a broker that goes and comes back is found again", async (context) => {
    if (!found) context.skip("mosquitto is not installed");
    const port = await freePort();
    const broker = await startMosquitto(port);
    await join_(port);
    const { source, messages, log } = await startSource(port);
    await isOn(source);
    broker.kill("SIGKILL");
    await until("the loss", () => source.state === "connecting");
    await startMosquitto(port);
    await isOn(source);
    await (await join_(port)).publishAsync("factory/a/data", '{"n":1}', { qos: 1 });
    await until("a message", () => messages.length === 1);
    expect(log.join()).toContain("next try in");
  });

  it("a second client with the id that comes again and again ends the source with the reason: it does not fight", async (context) => {
    if (!found) context.skip("mosquitto is not installed");
    const port = await freePort();
    await startMosquitto(port);
    await join_(port);
    const { source, log } = await startSource(port);
    await isOn(source);
    const rival = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
      clientId: "weir-gw-plant",
      reconnectPeriod: 50,
    });
    rival.on("error", () => {});
    cleanups.push(() => rival.endAsync(true));
    await until("the end", () => source.state === "stopped");
    expect(source.reason).toContain("another client seems to use the same id");
    expect(log.join()).toContain("clientId of its own");
    await until("the rival", () => rival.connected);
  });

  it("members of a shared group share the messages", async (context) => {
    if (!found) context.skip("mosquitto is not installed");
    const port = await freePort();
    await startMosquitto(port);
    const client = await join_(port);
    const a = await startSource(port, { sharedGroup: "g", clientId: "a" });
    const b = await startSource(port, { sharedGroup: "g", clientId: "b" });
    await isOn(a.source);
    await isOn(b.source);
    for (let n = 0; n < 10; n++) await client.publishAsync("factory/a/data", `${n}`, { qos: 1 });
    await until("all", () => a.messages.length + b.messages.length === 10);
    expect(a.messages.length).toBeGreaterThan(0);
    expect(b.messages.length).toBeGreaterThan(0);
  });

  it("a retained message becomes samples with a device's time only; Weir's own topics are never taken in", async (context) => {
    if (!found) context.skip("mosquitto is not installed");
    const port = await freePort();
    await startMosquitto(port);
    const client = await join_(port);
    await client.publishAsync("factory/a/data", '{"n":1}', { qos: 1, retain: true });
    await client.publishAsync("factory/b/data", '{"n":2,"t":1763640000}', { qos: 1, retain: true });
    await client.publishAsync("factory/gw/data", '{"n":3}', { qos: 1, retain: true });
    const { messages, refreshed, ledger } = await startSource(port);
    await until("the three", () => {
      const { also } = ledger.stage("source", "mqtt/plant", "messages");
      return also["retained"] === 1 && also["own"] === 1 && messages.length === 1;
    });
    expect(messages[0]).toMatchObject({ topic: "factory/b/data", retained: true });
    expect(refreshed.map(({ devices, metrics, value }) => [devices, metrics, ...value])).toEqual([
      [["a"], ["n"], 1],
    ]);
  });

  it.for([4, 5] as const)(
    "a message that is too large holds nothing up: it is acknowledged and counted, in MQTT version %i",
    async (version, context) => {
      if (!found) context.skip("mosquitto is not installed");
      const port = await freePort();
      await startMosquitto(port);
      const client = await join_(port);
      await client.publishAsync("factory/a/data", Buffer.alloc(300_000, 120), { qos: 1, retain: true });
      const { source, messages, ledger, log } = await startSource(port, { version });
      await isOn(source);
      for (const qos of [1, 2, 0] as const) {
        await client.publishAsync("factory/b/data", Buffer.alloc(400_000, 120), { qos });
        await client.publishAsync("factory/c/data", `{"n":${qos}}`, { qos: 1 });
      }
      await until("what is behind them", () => messages.length === 3);
      for (const { settle } of messages) settle?.("committed");
      // A broker of version 5 is told the size, and keeps them.
      const rejected = version === 5 ? 0 : 4;
      const count = ledger.stage("source", "mqtt/plant", "messages");
      expect({ in: count.in, rejected: count.rejected }).toEqual({ in: rejected, rejected });
      expect(log.filter((line) => line.includes("too large"))).toHaveLength(rejected);
      expect(source.state).toBe("on");
    },
  );

  it("over TLS a certificate is checked, and a member of a shared group gets what it did not settle again", async (context) => {
    if (!found) context.skip("mosquitto is not installed");
    if (!hasProgram("openssl")) context.skip("openssl is not installed");
    const dir = mkdtempSync(join(tmpdir(), "weir-tls-"));
    cleanups.push(() => rmSync(dir, { recursive: true, force: true }));
    selfSigned(dir, "b");
    const [cert, key] = [join(dir, "b.pem"), join(dir, "b.key")];
    const port = await freePort();
    await startMosquitto(port, `certfile ${cert}\nkeyfile ${key}\n`);
    const url = `mqtts://127.0.0.1:${port}`;
    const stranger = await startSource(port, { url, clientId: "a" });
    await until("the refusal", () => stranger.source.reason?.includes("self-signed"));
    expect(stranger.source.state).toBe("connecting");
    const friend = { url, clientId: "b", sharedGroup: "g", tls: { ca: cert } };
    const first = await startSource(port, friend);
    await isOn(first.source);
    const client = await mqtt.connectAsync(url, { ca: readFileSync(cert), reconnectPeriod: 0 });
    cleanups.push(() => client.endAsync(true));
    for (const n of [1, 2, 3]) await client.publishAsync("factory/a/data", `{"n":${n}}`, { qos: 1 });
    await until("three messages", () => first.messages.length === 3);
    // The member that is away keeps what it has not acknowledged, and that alone.
    first.messages[0]?.settle?.("committed");
    await first.source.close();
    const second = await startSource(port, friend);
    await until("two messages", () => second.messages.length === 2);
    expect(second.messages.map(text)).toEqual(['{"n":2}', '{"n":3}']);
  });

  it("a whole agent takes in from it, sends to it, and never takes in what it sent", async (context) => {
    if (!found) context.skip("mosquitto is not installed");
    const port = await freePort();
    await startMosquitto(port);
    const client = await join_(port);
    const heard: string[] = [];
    client.on("message", (_topic, payload) => heard.push(String(payload)));
    await client.subscribeAsync("weir/v1/gw/data", { qos: 1 });
    const url = `mqtt://127.0.0.1:${port}`;
    const folder = new AgentFolder({
      sources: {
        kernel: { enabled: false },
        system: { enabled: false },
        mqtt: { plant: { url, rules: [{ topic: "factory/{device}/data" }, { topic: "weir/{device}/#" }] } },
      },
      uplinks: { up: { url, batch: { ageMs: 50 } } },
    });
    cleanups.push(() => folder.remove());
    const agent = await Agent.start(folder);
    cleanups.push(() => agent.stop());
    await until("the source", async () =>
      (await folder.api.status()).parts.some(
        ({ name, state }) => name === "source mqtt/plant" && state === "on",
      ),
    );
    await client.publishAsync("factory/press-1/data", '{"bar":7}', { qos: 1 });
    await until("the batch", () => heard.some((batch) => batch.includes('"press-1"')));
    const line = await until("Weir's own messages to come by", async () => {
      const found = (await folder.api.ledger()).lines.find(({ name }) => name === "mqtt/plant");
      return (found?.also["own"] ?? 0) > 0 && found;
    });
    expect(line).toMatchObject({ in: 1, out: 1 });
    expect(heard).toHaveLength(1);
  });
});

/** A broker that the test speaks for, packet by packet. */
async function startScript(
  answer: (packet: Packet, send: (packet: Packet) => void, socket: Socket) => void,
): Promise<number> {
  const server: Server = createServer((socket) => {
    const reader = parser({ protocolVersion: 5 });
    socket.on("error", () => {}).on("data", (bytes: Buffer) => reader.parse(bytes));
    cleanups.push(() => socket.destroy());
    const send = (packet: Packet): void => {
      socket.write(generate(packet, { protocolVersion: 5 }));
    };
    reader.on("packet", (packet: Packet) => answer(packet, send, socket));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  cleanups.push(() => server.close());
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

const accept: Packet = { cmd: "connack", reasonCode: 0, sessionPresent: false };
const publish = (id: number, qos: 0 | 1 | 2 = 1, dup = false): Packet => ({
  cmd: "publish",
  topic: "factory/a/data",
  payload: `{"n":${id}}`,
  qos,
  retain: false,
  dup,
  messageId: id,
});

describe("at a broker of any behaviour", () => {
  it("it says how long it keeps silent and its session is to be kept", async () => {
    let said: object = {};
    const port = await startScript((packet, send) => {
      if (packet.cmd === "connect") said = packet;
      if (packet.cmd === "connect") send(accept);
    });
    await startSource(port, { keepaliveS: 17, sessionExpiryS: 123 });
    await until("a connection", () => "keepalive" in said);
    expect(said).toMatchObject({ keepalive: 17, clean: false, properties: { sessionExpiryInterval: 123 } });
  });

  it("acknowledgements go out in the order of arrival, whatever the order of commits", async () => {
    const acked: (number | undefined)[] = [];
    const port = await startScript((packet, send) => {
      if (packet.cmd === "connect") send(accept);
      if (packet.cmd === "subscribe") {
        send({ cmd: "suback", messageId: 1, granted: [1] });
        for (const id of [5, 6, 7]) send(publish(id));
      }
      if (packet.cmd === "puback") acked.push(packet.messageId);
    });
    const { messages } = await startSource(port);
    await until("three", () => messages.length === 3);
    messages[2]?.settle?.("committed");
    messages[1]?.settle?.("rejected");
    messages[0]?.settle?.("committed");
    await until("acknowledgements", () => acked.length === 3);
    expect(acked).toEqual([5, 6, 7]);
  });

  it("a broker that says that another client took the session over ends the source at once", async () => {
    const port = await startScript((packet, send) => {
      if (packet.cmd === "connect") send(accept);
      if (packet.cmd === "subscribe") send({ cmd: "disconnect", reasonCode: 0x8e });
    });
    const { source } = await startSource(port);
    await until("the end", () => source.state === "stopped");
    expect(source.reason).toContain('another client connected with the id "weir-gw-plant"');
  });

  it("a QoS 2 message that comes again before its PUBREL is acknowledged again, not taken in again", async () => {
    const seen: string[] = [];
    const port = await startScript((packet, send) => {
      if (packet.cmd === "connect") send(accept);
      if (packet.cmd === "subscribe") {
        send({ cmd: "suback", messageId: 1, granted: [2] });
        send(publish(9, 2));
      }
      if (packet.cmd === "pubrec") {
        seen.push("pubrec");
        send(seen.length === 1 ? publish(9, 2, true) : { cmd: "pubrel", messageId: 9 });
      }
      if (packet.cmd === "pubcomp") seen.push("pubcomp");
    });
    const { messages } = await startSource(port, { qos: 2 });
    await until("the message", () => messages.length === 1);
    messages[0]?.settle?.("committed");
    await until("the end of the handshake", () => seen.includes("pubcomp"));
    expect(seen).toEqual(["pubrec", "pubrec", "pubcomp"]);
    expect(messages).toHaveLength(1);
  });

  it("a subscription that is refused is said with its filter, and the others work", async () => {
    const port = await startScript((packet, send) => {
      if (packet.cmd === "connect") send(accept);
      if (packet.cmd === "subscribe") {
        send({ cmd: "suback", messageId: 1, granted: [0x87, 0] });
        send(publish(1, 0));
      }
    });
    const { source, messages } = await startSource(port, { subscribe: ["secret/#", "factory/#"] });
    await until("the message", () => messages.length === 1);
    expect(source.reason).toContain("refused the subscription secret/#: not authorised");
    expect(source.reason).toContain("gives factory/# with QoS 0 at most");
  });

  it("reading stops while too much is unsettled and goes on afterwards", async () => {
    const count = 6000;
    const port = await startScript((packet, send) => {
      if (packet.cmd === "connect") send(accept);
      if (packet.cmd === "subscribe") {
        send({ cmd: "suback", messageId: 1, granted: [1] });
        for (let id = 1; id <= count; id++) send({ ...publish(id), payload: "x".repeat(4000) } as Packet);
      }
    });
    const { messages } = await startSource(port);
    await until("some", () => messages.length > 500);
    const held = messages.length;
    expect(held).toBeLessThan(1300);
    let settled = 0;
    await until("all", () => {
      for (; settled < messages.length; settled++) messages[settled]?.settle?.("committed");
      return settled === count;
    });
  });

  it("bytes that are no MQTT, an endless packet, or a refusal lead to another try with the reason", async () => {
    const answers = ["HTTP/1.1 400 Bad Request\r\n\r\n", Buffer.from([0x20, 0xff, 0xff, 0xff, 0x7f])];
    let tries = 0;
    const port = await startScript((packet, send, socket) => {
      if (packet.cmd !== "connect") return;
      const bytes = answers[tries++];
      if (bytes !== undefined) socket.write(bytes);
      else send({ cmd: "connack", reasonCode: 0x87, sessionPresent: false });
    });
    const { log } = await startSource(port);
    await until("three tries", () => log.length >= 3);
    expect(log[1]).toContain("a packet is over");
    expect(log[2]).toContain("refused the connection: not authorised");
  });
});
