import { once } from "node:events";
import { connect, type Socket } from "node:net";
import mqtt, { type IConnackPacket, type IPublishPacket, type MqttClient } from "mqtt";
import { generate } from "mqtt-packet";
import { afterEach, describe, expect, it } from "vitest";
import { StageCount } from "../../src/core/ledger.ts";
import { hashPassword } from "../../src/core/password.ts";
import type { DeviceMessage } from "../../src/core/ports.ts";
import { EmbeddedBroker } from "../../src/sources/broker.ts";
import { brokerSchema, sourcesSchema } from "../../src/sources/options.ts";
import { eventually } from "../helpers/eventually.ts";
import { taken } from "../helpers/taken.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A broker on a free port; `settles`: whether it commits messages as they come. */
async function startBroker(options: object = {}, settles = true) {
  const messages: DeviceMessage[] = [];
  const gone: string[] = [];
  const count = new StageCount("source", "devices", "messages");
  const rules = sourcesSchema.parse({}).devices;
  const broker = new EmbeddedBroker(brokerSchema.parse({ port: 0, ...options }), rules, count, () => {});
  const message = (one: DeviceMessage): void => {
    const own = taken(one);
    messages.push(own);
    if (settles) own.settle?.("committed");
  };
  await broker.start({ message, frame: () => true }, new AbortController().signal);
  broker.onDeviceGone((device) => gone.push(device));
  cleanups.push(() => broker.close());
  const port = broker.address?.port ?? 0;
  return { broker, count, messages, gone, port, url: `mqtt://127.0.0.1:${port}` };
}

/** A client whose session is kept, connected; what it is sent from the first byte on, and whether it had a session. */
async function keep(url: string, options: mqtt.IClientOptions = {}) {
  const client = mqtt.connect(url, {
    clientId: "kept",
    clean: false,
    protocolVersion: 5,
    reconnectPeriod: 0,
    ...(options.protocolVersion === 4 ? {} : { properties: { sessionExpiryInterval: 600 } }),
    ...options,
  });
  cleanups.push(() => client.endAsync(true));
  client.on("error", () => {});
  const heard: string[] = [];
  client.on("message", (_topic, payload, { dup }) => heard.push(`${payload}${dup ? " again" : ""}`));
  const connack = await new Promise<IConnackPacket>((done) => client.once("connect", done));
  return { client, heard, present: connack.sessionPresent };
}

async function join(url: string): Promise<MqttClient> {
  const client = await mqtt.connectAsync(url, { protocolVersion: 5, reconnectPeriod: 0 });
  cleanups.push(() => client.endAsync(true));
  return client;
}

/** A bare MQTT 3.1.1 client, let in. */
async function open(port: number, clientId: string): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  cleanups.push(() => socket.destroy());
  const protocol = { protocolId: "MQTT", protocolVersion: 4 } as const;
  socket.write(generate({ cmd: "connect", clientId, ...protocol, clean: false, keepalive: 0 }));
  await once(socket, "data");
  return socket;
}

describe("sessions", () => {
  for (const protocolVersion of [4, 5] as const) {
    it(`QoS 1 and 2 messages wait for a client that is away, QoS 0 do not (version ${protocolVersion})`, async () => {
      const { url } = await startBroker();
      const before = await keep(url, { protocolVersion });
      expect(before.present).toBe(false);
      await before.client.subscribeAsync("x/#", { qos: 2 });
      await before.client.endAsync();
      const other = await join(url);
      for (const qos of [0, 1, 2] as const) await other.publishAsync("x/1", `qos${qos}`, { qos });
      const { heard, present } = await keep(url, { protocolVersion });
      expect(present).toBe(true);
      await eventually(() => expect(heard).toEqual(["qos1", "qos2"]));
    });
  }

  it("what was not acknowledged is sent again, marked as such; a clean start forgets it", async () => {
    const { port, url } = await startBroker();
    const socket = await open(port, "kept");
    socket.write(generate({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic: "x", qos: 1 }] }));
    await once(socket, "data");
    const other = await join(url);
    const sent = once(socket, "data");
    await other.publishAsync("x", "a", { qos: 1 });
    await sent; // and not acknowledged
    socket.destroy();
    const { client, heard } = await keep(url, { protocolVersion: 4 });
    await eventually(() => expect(heard).toEqual(["a again"]));
    await client.endAsync();
    expect((await keep(url, { protocolVersion: 4, clean: true })).present).toBe(false);
  });

  it("a QoS 2 message that is sent again over a new connection is taken in once, and answered there", async () => {
    const { port, messages } = await startBroker({}, false);
    const publish = (dup: boolean): Buffer =>
      generate({
        cmd: "publish",
        topic: "devices/a/b",
        payload: "1",
        qos: 2,
        messageId: 9,
        dup,
        retain: false,
      });
    const first = await open(port, "d");
    first.write(publish(false));
    await eventually(() => expect(messages).toHaveLength(1));
    first.destroy();
    const second = await open(port, "d");
    const pong = once(second, "data");
    second.write(Buffer.concat([publish(true), generate({ cmd: "pingreq" })]));
    expect([...(await pong)[0]]).toEqual([0xd0, 0]); // the message is not committed yet
    const received = once(second, "data");
    messages[0]?.settle?.("committed");
    expect([...(await received)[0]]).toEqual([0x50, 2, 0, 9]);
    expect(messages).toHaveLength(1);
  });

  it("queues and sessions are bounded, the oldest going first, and counted", async () => {
    const { url, count } = await startBroker({ limits: { sessions: 2, queueMessages: 3 } });
    for (const clientId of ["a", "b", "c"]) {
      const { client } = await keep(url, { clientId });
      await client.subscribeAsync("x", { qos: 1 });
      await client.endAsync();
    }
    await eventually(() => expect(count.also["sessions"]).toBe(1));
    const other = await join(url);
    for (const text of ["1", "2", "3", "4"]) await other.publishAsync("x", text, { qos: 1 });
    expect(count.also["shed"]).toBe(2);
    const { heard } = await keep(url, { clientId: "c" });
    await eventually(() => expect(heard).toEqual(["2", "3", "4"]));
    expect((await keep(url, { clientId: "a" })).present).toBe(false);
  });

  it("what waits for all clients together is bounded, and given back when a session ends", async () => {
    const { url, count } = await startBroker({ limits: { queueKiB: 2048, queuesMiB: 1 } });
    const away = async (clientId: string): Promise<void> => {
      const { client } = await keep(url, { clientId, clean: true });
      await client.subscribeAsync(clientId, { qos: 1 });
      await client.endAsync();
    };
    const other = await join(url);
    const fill = (topic: string): Promise<unknown> =>
      other.publishAsync(topic, Buffer.alloc(200_000), { qos: 1 });
    await away("a");
    for (let i = 0; i < 5; i++) await fill("a");
    expect(count.also["shed"] ?? 0).toBe(0);
    await away("b");
    await fill("b");
    expect(count.also["shed"]).toBe(1);
    await away("a"); // a clean start: what waited is gone
    for (let i = 0; i < 5; i++) await fill("b");
    expect(count.also["shed"]).toBe(1);
  });

  it("a subscriber that takes one message at a time gets every one, without a session that is kept", async () => {
    const { url, count } = await startBroker();
    const client = await mqtt.connectAsync(url, {
      protocolVersion: 5,
      reconnectPeriod: 0,
      properties: { receiveMaximum: 1 },
    });
    cleanups.push(() => client.endAsync(true));
    const heard: string[] = [];
    client.on("message", (_topic, payload) => heard.push(String(payload)));
    await client.subscribeAsync("x/#", { qos: 1 });
    const sent = Array.from({ length: 50 }, (_, i) => `${i}`);
    const other = await join(url);
    await Promise.all(sent.map((text) => other.publishAsync("x/1", text, { qos: 1 })));
    await eventually(() => expect(heard).toEqual(sent));
    expect(count.also["shed"] ?? 0).toBe(0);
  });

  it("a will waits for its delay, and is not published when the client is back before", async () => {
    const { url, gone, messages } = await startBroker();
    const willAfter = (willDelayInterval: number) =>
      ({
        topic: "devices/w/state",
        payload: Buffer.from("lost"),
        qos: 1,
        retain: false,
        properties: { willDelayInterval },
      }) as const;
    (await keep(url, { will: willAfter(600) })).client.stream.destroy();
    const { client, present } = await keep(url, { will: willAfter(1) });
    expect(present).toBe(true);
    client.stream.destroy();
    await eventually(() => expect(gone).toEqual(["w"]));
    expect(messages).toHaveLength(1);
  });

  it("a client id is its identity's own: another's client neither takes the place nor the session", async () => {
    const passwordHash = await hashPassword(Buffer.from("p"));
    const { url } = await startBroker({ identities: { a: { passwordHash }, b: { passwordHash } } });
    const first = await keep(url, { username: "a", password: "p" });
    await first.client.subscribeAsync("x", { qos: 1 });
    expect((await keep(url, { username: "b", password: "p" })).present).toBe(false);
    expect(first.client.connected).toBe(true);
    expect((await keep(url, { username: "a", password: "p" })).present).toBe(true);
  });

  it("MQTT 5 properties go with a message to its subscribers, and what has expired does not go at all", async () => {
    const { url } = await startBroker();
    const [a, b] = [await join(url), await join(url)];
    const heard: IPublishPacket[] = [];
    a.on("message", (_topic, _payload, packet) => heard.push(packet));
    const properties = {
      payloadFormatIndicator: true,
      contentType: "text/plain",
      responseTopic: "answer/here",
      correlationData: Buffer.from("7"),
      userProperties: { traceparent: "00-1" },
    };
    const kept = { ...properties, messageExpiryInterval: 600 };
    await b.publishAsync("x/1", "one", { qos: 1, retain: true, properties: kept });
    const spent = { messageExpiryInterval: 0 };
    await b.publishAsync("x/2", "two", { qos: 1, retain: true, properties: spent });
    await a.subscribeAsync("x/#", { qos: 1 });
    await b.publishAsync("x/3", "three", { qos: 0, properties });
    await eventually(() => expect(new Set(heard.map(({ topic }) => topic))).toEqual(new Set(["x/1", "x/3"])));
    for (const packet of heard) expect(packet.properties).toMatchObject(properties);
    const left = heard.find(({ topic }) => topic === "x/1")?.properties?.messageExpiryInterval;
    expect(left).toBeGreaterThan(0);
  });
});

describe("subscriptions", () => {
  it("a filter that is there twice in one SUBSCRIBE gets its retained messages, and what comes after it as well", async () => {
    const { url } = await startBroker();
    const client = await join(url);
    for (const topic of ["x/1", "y/1"]) await client.publishAsync(topic, topic, { retain: true, qos: 1 });
    const socket = connect(Number(new URL(url).port), "127.0.0.1");
    cleanups.push(() => socket.destroy());
    const protocol = { protocolId: "MQTT", protocolVersion: 4 } as const;
    const subscriptions = ["x/#", "x/#", "y/#"].map((topic) => ({ topic, qos: 0 as const }));
    socket.write(generate({ cmd: "connect", clientId: "twice", ...protocol, clean: true, keepalive: 0 }));
    socket.write(generate({ cmd: "subscribe", messageId: 1, subscriptions }));
    let heard = "";
    socket.on("data", (bytes) => {
      heard += bytes.toString("latin1");
    });
    await eventually(() => expect(heard).toMatch(/x\/1x\/1.*y\/1y\/1/s));
    expect(heard.match(/x\/1x\/1/g)).toHaveLength(1);
  });

  it("one that subscribes again and again and reads nothing leaves one task behind, not one each time", async () => {
    const { url, port, broker } = await startBroker();
    const client = await join(url);
    for (let i = 0; i < 200; i++)
      await client.publishAsync(`x/${i}`, Buffer.alloc(50_000), { retain: true, qos: 1 });
    const warnings: Error[] = [];
    const warn = (warning: Error): void => void warnings.push(warning);
    process.on("warning", warn);
    cleanups.push(() => process.off("warning", warn));
    const socket = await open(port, "deaf");
    socket.pause();
    const subscribe = generate({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic: "x/#", qos: 0 }] });
    socket.write(Buffer.concat(Array.from({ length: 2_000 }, () => subscribe)));
    // What was written before has been read once another client is answered that came after it.
    for (let i = 0; i < 20; i++) await client.publishAsync("y", "1", { qos: 1 });
    await broker.publish({
      topic: "z",
      payload: Buffer.from("1"),
      qos: 0,
      retain: false,
      contentType: undefined,
      userProperties: undefined,
    });
    expect(warnings.map(({ name }) => name)).toEqual([]);
    socket.resume();
    await eventually(() => expect(socket.bytesRead).toBeGreaterThan(200 * 50_000));
  });

  it("one that asks and reads no answer is no longer read, until it reads", async () => {
    const { port, url } = await startBroker();
    const socket = await open(port, "deaf");
    socket.pause();
    // Some of it fits into the system's buffers, which are megabytes on both sides.
    const pings = Buffer.alloc(64 * 1024 * 1024);
    for (let at = 0; at < pings.length; at += 2) pings[at] = 0xc0;
    socket.write(pings);
    const client = await join(url);
    let before = -1;
    await eventually(async () => {
      await client.publishAsync("y", "1", { qos: 1 });
      const now = socket.bytesWritten - socket.writableLength;
      const isStill = now === before;
      before = now;
      expect(isStill).toBe(true);
    }, 500);
    expect(socket.writableLength).toBeGreaterThan(16 * 1024 * 1024);
    socket.resume();
    await eventually(() => expect(socket.writableLength).toBe(0));
  });

  it("what Weir publishes waits for a client that is away, also for one that does not want its own messages back", async () => {
    const { url, broker } = await startBroker();
    const before = await keep(url);
    await before.client.subscribeAsync("weir/#", { qos: 1, nl: true });
    await before.client.endAsync();
    await broker.publish({
      topic: "weir/v1/gw/data",
      payload: Buffer.from("batch"),
      qos: 1,
      retain: false,
      contentType: undefined,
      userProperties: undefined,
    });
    const { heard } = await keep(url);
    await eventually(() => expect(heard).toEqual(["batch"]));
  });
});

describe.skipIf(process.env["WEIR_LONG"] !== "1")("what takes long (WEIR_LONG=1)", () => {
  it("a client that drips its CONNECT is closed after 10 s, and counted", async () => {
    const { port, count } = await startBroker();
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => {});
    const bytes = [0x10, 12, 0, 4, 77, 81, 84, 84, 4, 2, 0, 0, 0];
    const drip = setInterval(() => socket.write(Buffer.from([bytes.shift() ?? 0])), 2000);
    await once(socket, "close");
    clearInterval(drip);
    expect(count.also["refused"]).toBe(1);
  });

  it("one that asks and never reads an answer is disconnected within two minutes", {
    timeout: 200_000,
  }, async () => {
    const { port, count } = await startBroker();
    const socket = await open(port, "deaf");
    socket.pause();
    const closed = new Promise((done) => socket.once("close", done));
    const pings = Buffer.alloc(64 * 1024 * 1024);
    for (let at = 0; at < pings.length; at += 2) pings[at] = 0xc0;
    socket.write(pings);
    await eventually(() => expect(count.also["refused"]).toBe(1));
    await closed;
  });

  it("a subscriber that never reads misses messages, and is disconnected within two minutes", {
    timeout: 200_000,
  }, async () => {
    const { broker, port, count } = await startBroker();
    const socket = await open(port, "slow");
    socket.write(generate({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic: "x", qos: 0 }] }));
    await once(socket, "data");
    socket.pause();
    // Publishing waits for it, a second each time, and after a minute it is given up: before, it has to miss something.
    const payload = Buffer.alloc(192 * 1024);
    const message = {
      topic: "x",
      payload,
      qos: 0,
      retain: false,
      contentType: undefined,
      userProperties: undefined,
    } as const;
    await eventually(async () => {
      await broker.publish(message);
      expect(count.also["shed"]).toBeGreaterThan(0);
    }, 1);
    await eventually(() => expect(count.also["refused"]).toBe(1));
    socket.resume();
    await once(socket, "close");
  });
});
