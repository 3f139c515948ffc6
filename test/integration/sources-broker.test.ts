import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { type Socket, connect as tcp } from "node:net";
import mqtt, { type MqttClient } from "mqtt";
import { afterEach, describe, expect, it, vi } from "vitest";
import { WeirError } from "../../src/core/errors.ts";
import { StageCount } from "../../src/core/ledger.ts";
import type { DeviceMessage, Intake, Outgoing } from "../../src/core/ports.ts";
import { EmbeddedBroker } from "../../src/sources/broker.ts";
import { brokerSchema, sourcesSchema } from "../../src/sources/options.ts";
import { eventually } from "../helpers/eventually.ts";
import { taken } from "../helpers/taken.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A broker on a free port, whose messages wait in `messages` for the test to settle them. */
async function startBroker(port = 0) {
  const messages: DeviceMessage[] = [];
  const intake: Intake = { message: (message) => messages.push(taken(message)), frame: () => true };
  const count = new StageCount("source", "devices", "messages");
  const log: string[] = [];
  const broker = new EmbeddedBroker(
    brokerSchema.parse({ port }),
    sourcesSchema.parse({}).devices,
    count,
    (_level, message) => log.push(message),
  );
  await broker.start(intake, new AbortController().signal);
  cleanups.push(() => broker.close());
  const arrived = (least: number) =>
    eventually(() => expect(messages.length).toBeGreaterThanOrEqual(least), 2);
  return { broker, messages, count, log, arrived, port: broker.address?.port ?? 0 };
}

async function join(port: number, options: mqtt.IClientOptions = {}): Promise<MqttClient> {
  const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, {
    protocolVersion: 4,
    reconnectPeriod: 0,
    ...options,
  });
  client.on("error", () => {});
  cleanups.push(() => client.endAsync(true));
  return client;
}

const packet = (type: number, ...parts: (Buffer | string)[]): Buffer => {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part)));
  const length: number[] = [];
  for (let left = body.length; length.length === 0 || left > 0; left = Math.floor(left / 128)) {
    length.push((left % 128) | (left > 127 ? 128 : 0));
  }
  return Buffer.concat([Buffer.from([type, ...length]), body]);
};
const field = (text: string): Buffer => {
  const bytes = Buffer.from(text);
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes]);
};
const publish1 = (topic: string, id: number, payload: string): Buffer =>
  packet(0x32, field(topic), Buffer.from([id >> 8, id & 255]), payload);

/** A bare connection that has been accepted by the broker. */
async function rawClient(port: number, clientId: string): Promise<Socket> {
  const socket = tcp(port, "127.0.0.1");
  socket.on("error", () => {});
  cleanups.push(() => socket.destroy());
  socket.write(packet(0x10, field("MQTT"), Buffer.from([4, 2, 0, 0]), field(clientId)));
  await once(socket, "data");
  return socket;
}

const nextMessage = (client: MqttClient): Promise<[topic: string, payload: string]> =>
  new Promise((resolve) => client.once("message", (topic, payload) => resolve([topic, String(payload)])));

/** Settles messages as they come, until there were so many. */
async function settleAll(messages: readonly DeviceMessage[], count: number): Promise<void> {
  let settled = 0;
  await eventually(() => {
    for (; settled < messages.length; settled++) messages[settled]?.settle?.("committed");
    expect(settled).toBe(count);
  }, 1);
}

const outgoing = (topic: string, payload: string | Uint8Array, retain = false): Outgoing => ({
  topic,
  payload: typeof payload === "string" ? Buffer.from(payload) : payload,
  qos: 1,
  retain,
  contentType: undefined,
  userProperties: undefined,
});

describe("acknowledgements", () => {
  for (const qos of [1, 2] as const) {
    it(`a QoS ${qos} message is acknowledged once it is committed, not before`, async () => {
      const { port, messages, arrived } = await startBroker();
      const client = await join(port);
      let acked = false;
      const done = client.publishAsync("devices/pump-1/telemetry", '{"t":1}', { qos }).then(() => {
        acked = true;
      });
      await arrived(1);
      // Another client's whole exchange fits in between: the acknowledgement had its chance.
      await (await join(port)).publishAsync("elsewhere", "x", { qos: 1 });
      expect(acked).toBe(false);
      const [message] = messages;
      expect(message?.route).toMatchObject({ device: "pump-1", channel: "telemetry", plugin: undefined });
      expect(Buffer.from(message?.payload ?? []).toString()).toBe('{"t":1}');
      expect(message?.qos).toBe(qos);
      message?.settle?.("committed");
      await done;
      expect(acked).toBe(true);
    });
  }

  it("a rejected message is acknowledged, for sending it again would not help", async () => {
    const { port, messages, arrived } = await startBroker();
    const client = await join(port);
    const done = client.publishAsync("devices/a/b", "{", { qos: 1 });
    await arrived(1);
    messages[0]?.settle?.("rejected");
    await done;
  });

  it("a QoS 1 message that was not taken in ends the connection without an acknowledgement", async () => {
    const { port, messages, arrived } = await startBroker();
    const socket = await rawClient(port, "c");
    const received: Buffer[] = [];
    socket.on("data", (bytes: Buffer) => received.push(bytes));
    socket.write(publish1("devices/a/b", 1, "1"));
    await arrived(1);
    messages[0]?.settle?.("dropped");
    await once(socket, "close");
    expect(Buffer.concat(received)).toHaveLength(0);
  });

  it("a QoS 0 message is handed on at once and needs no settling", async () => {
    const { port, messages, arrived } = await startBroker();
    await (await join(port)).publishAsync("devices/a/b", "21.5");
    await arrived(1);
    expect(messages[0]?.qos).toBe(0);
    expect(messages[0]?.settle).toBeUndefined();
  });

  it("a message that is settled after its client has gone harms nobody", async () => {
    const { port, messages, arrived } = await startBroker();
    const socket = await rawClient(port, "c");
    socket.write(publish1("devices/a/b", 1, "1"));
    await arrived(1);
    socket.destroy();
    const other = await join(port);
    messages[0]?.settle?.("committed");
    const done = other.publishAsync("devices/a/b", "2", { qos: 1 });
    await arrived(2);
    messages[1]?.settle?.("committed");
    await done;
  });

  it("mosquitto_pub gets its acknowledgement", async (context) => {
    if (spawnSync("mosquitto_pub", ["--help"]).error !== undefined)
      context.skip("mosquitto_pub is not installed");
    const { port, messages, arrived } = await startBroker();
    const child = spawn("mosquitto_pub", [
      "-p",
      String(port),
      "-q",
      "1",
      "-t",
      "devices/pump-1/telemetry",
      "-m",
      '{"rpm":1480}',
    ]);
    const exit = once(child, "exit");
    await arrived(1);
    messages[0]?.settle?.("committed");
    expect(await exit).toEqual([0, null]);
  });
});

describe("topics", () => {
  for (const [topic, why] of [
    ["weir/v1/gw/data", "only Weir publishes there"],
    ["$SYS/x", "it is the broker's"],
    [`devices/${"x".repeat(60_000)}/t`, "it is too long"],
    ["devices/a\0b/t", "it has a NUL"],
    ["devices/".repeat(200), "it has too many levels"],
  ]) {
    it(`a publish on ${JSON.stringify(topic?.slice(0, 24))} ends the connection, because ${why}`, async () => {
      const { port, messages } = await startBroker();
      const socket = await rawClient(port, "c");
      socket.write(publish1(topic ?? "", 7, "x"));
      await once(socket, "close");
      expect(messages).toHaveLength(0);
      await (await join(port)).publishAsync("other", "still there", { qos: 1 });
    });
  }

  it("a refusal is counted, and said with the client's id", async () => {
    const { port, count, log } = await startBroker();
    const socket = await rawClient(port, "mallory");
    socket.write(publish1("weir/v1/gw/data", 7, "x"));
    await once(socket, "close");
    expect(count.also).toEqual({ refused: 1 });
    expect(log.join()).toContain("mallory");
  });

  it("a message that no rule matches goes to subscribers alone and is counted apart", async () => {
    const { port, messages, count } = await startBroker();
    const listener = await join(port);
    await listener.subscribeAsync("home/#", { qos: 1 });
    const heard = nextMessage(listener);
    await (await join(port)).publishAsync("home/lamp", "on", { qos: 1 });
    expect(await heard).toEqual(["home/lamp", "on"]);
    expect(messages).toHaveLength(0);
    expect(count.also).toEqual({ unmatched: 1 });
    expect(count.in).toBe(0);
  });

  it("messages published together all arrive, once each, whatever overtakes what on the way", async () => {
    const { broker, port } = await startBroker();
    const got: string[] = [];
    for (const qos of [0, 1] as const) {
      const client = await join(port);
      client.on("message", (topic) => got.push(`${qos} ${topic}`));
      await client.subscribeAsync(["weir/#", "weir/v1/+/data"], { qos });
    }
    const topics = ["weir/v1/g/data", "weir/v1/g/last/a", "weir/v1/g/alarm", "weir/v1/g/alarm/a/high"];
    for (let round = 0; round < 3; round++) {
      await Promise.all(
        topics.map((topic, i) =>
          broker.publish({ ...outgoing(topic, "x", i % 2 === 1), qos: i === 1 ? 0 : 1 }),
        ),
      );
    }
    await broker.publish(outgoing("weir/end", "x"));
    await eventually(() => expect(got.filter((one) => one.endsWith("weir/end"))).toHaveLength(2));
    const expected = [0, 1].flatMap((qos) => topics.flatMap((topic) => Array(3).fill(`${qos} ${topic}`)));
    const inOrder = (list: readonly string[]): string[] => list.toSorted((a, b) => a.localeCompare(b));
    expect(inOrder(got.filter((one) => !one.endsWith("weir/end")))).toEqual(inOrder(expected));
  });

  it("what Weir publishes reaches subscribers, and is never taken in, even where a rule matches", async () => {
    const { broker, port, messages } = await startBroker();
    const listener = await join(port);
    await listener.subscribeAsync(["weir/#", "devices/#"]);
    const heard: string[] = [];
    listener.on("message", (topic) => heard.push(topic));
    await broker.publish(outgoing("devices/pump-1/cmd", "go"));
    await broker.publish(outgoing("weir/v1/gw/data", "{}"));
    await eventually(() => expect(heard).toEqual(["devices/pump-1/cmd", "weir/v1/gw/data"]));
    expect(messages).toHaveLength(0);
  });

  it("a retained message meets later subscribers, until an empty one clears it", async () => {
    const { broker, port } = await startBroker();
    await broker.publish(outgoing("weir/v1/gw/status", "online", true));
    await broker.publish(outgoing("weir/v1/gw/last/a", "gone", true));
    await broker.publish(outgoing("weir/v1/gw/last/a", "", true));
    const listener = await join(port);
    const heard: string[] = [];
    listener.on("message", (topic, payload, { retain }) => heard.push(`${topic} ${payload} ${retain}`));
    await listener.subscribeAsync("weir/#");
    await broker.publish(outgoing("weir/end", "x"));
    await eventually(() => expect(heard).toContain("weir/end x false"));
    await eventually(() => expect(heard).toContain("weir/v1/gw/status online true"));
    expect(heard).toHaveLength(2);
  });

  it("a will on a mapped topic is taken in when its client is lost", async () => {
    const { port, messages, arrived } = await startBroker();
    const client = await join(port, {
      will: { topic: "devices/a/state", payload: Buffer.from("offline"), qos: 1, retain: false },
    });
    client.stream.destroy();
    await arrived(1);
    expect(Buffer.from(messages[0]?.payload ?? []).toString()).toBe("offline");
    messages[0]?.settle?.("committed");
  });
});

describe("bounds", () => {
  it("a packet that says it is too long ends the connection before its bytes arrive", async () => {
    const { port, count } = await startBroker();
    const socket = await rawClient(port, "c");
    socket.write(Buffer.from([0x30, 0xff, 0xff, 0xff, 0x7f]));
    await once(socket, "close");
    expect(count.also["refused"]).toBe(1);
  });

  it("a client that keeps publishing while nothing is committed is read from no further", async () => {
    const { port, messages } = await startBroker();
    const socket = await rawClient(port, "c");
    const payload = "x".repeat(1000);
    let sent = 0;
    // One message a segment, each sent when the one before has been read: the way to have the most of them read.
    for (let read = true; read && sent < 2000; sent++) {
      socket.write(publish1("devices/a/b", sent + 1, payload));
      read = await vi
        .waitFor(() => expect(messages.length).toBe(sent + 1), { timeout: 5_000, interval: 1 })
        .then(
          () => true,
          () => false,
        );
    }
    expect(messages.length).toBeGreaterThan(100);
    expect(messages.length).toBeLessThan(300);
    // Settled, the rest comes by itself.
    await settleAll(messages, sent);
  });

  it("many clients that publish while nothing is committed are bounded together", async () => {
    const { port, messages } = await startBroker();
    const payload = "x".repeat(250_000);
    const clients = await Promise.all(Array.from({ length: 160 }, (_, i) => rawClient(port, `c${i}`)));
    for (const client of clients) client.write(publish1("devices/a/b", 1, payload));
    await eventually(() => expect(messages.length).toBeGreaterThan(130));
    expect(messages.length).toBeLessThanOrEqual(136);
    await settleAll(messages, clients.length);
  });

  it("a subscriber that does not read stops neither devices nor Weir", async () => {
    const { broker, port, count, messages } = await startBroker();
    const socket = await rawClient(port, "deaf");
    socket.write(packet(0x82, Buffer.from([0, 1]), field("#"), Buffer.from([0])));
    await once(socket, "data");
    socket.pause();
    const device = await join(port);
    const big = Buffer.alloc(100_000, "x");
    await eventually(async () => {
      await device.publishAsync("devices/a/b", big, { qos: 0 });
      await device.publishAsync("not/mapped", big, { qos: 1 });
      expect(count.also["shed"] ?? 0).toBeGreaterThan(10);
    }, 0);
    const before = messages.length;
    await broker.publish(outgoing("weir/v1/gw/data", "x"));
    // Nor did that wait until it was given up.
    expect(count.also["refused"] ?? 0).toBe(0);
    await device.publishAsync("devices/a/b", "1");
    await eventually(() => expect(messages.length).toBeGreaterThan(before));
  });

  it("a silent client is closed after one and a half times its keep-alive, one that waits for a commit is not", async () => {
    const { port, messages, arrived } = await startBroker();
    const clientOf = (id: string): Socket => {
      const socket = tcp(port, "127.0.0.1");
      cleanups.push(() => socket.destroy());
      socket.on("error", () => {}).on("data", () => {});
      socket.write(packet(0x10, field("MQTT"), Buffer.from([4, 2, 0, 1]), field(id)));
      return socket;
    };
    const [silent, waiting] = [clientOf("silent"), clientOf("waiting")];
    waiting.write(publish1("devices/a/b", 1, "1"));
    await arrived(1);
    await once(silent, "close");
    expect(waiting.destroyed).toBe(false);
    messages[0]?.settle?.("committed");
    await once(waiting, "close");
  });

  it("a second client with the same id takes the first one's place", async () => {
    const { port } = await startBroker();
    const first = await rawClient(port, "same");
    const closed = once(first, "close");
    await rawClient(port, "same");
    await closed;
  });

  it("a client has at most 256 subscriptions", async () => {
    const { port } = await startBroker();
    const client = await join(port);
    await client.subscribeAsync(Array.from({ length: 256 }, (_, i) => `t/${i}`));
    await expect(client.subscribeAsync("one/more")).rejects.toThrow();
    await client.unsubscribeAsync("t/0");
    await client.subscribeAsync("one/more");
  });
});

describe("life", () => {
  it("a port in use is said as such, with the address", async () => {
    const { port } = await startBroker();
    const failure = await startBroker(port).catch((thrown: unknown) => thrown);
    expect(failure).toBeInstanceOf(WeirError);
    expect(failure).toMatchObject({
      code: "broker.port-in-use",
      message: expect.stringContaining(String(port)),
    });
  });

  it("publishing while it is not running is worth a retry", async () => {
    const { broker } = await startBroker();
    await broker.close();
    await expect(broker.publish(outgoing("a", "b"))).rejects.toMatchObject({
      code: "uplink.unavailable",
      disposition: "retry",
    });
  });

  it("after stop nothing more is taken in, what is held is still acknowledged, and the last word is delivered", async () => {
    const { broker, port, messages, arrived } = await startBroker();
    const listener = await join(port);
    await listener.subscribeAsync("weir/#");
    const device = await join(port);
    const first = device.publishAsync("devices/a/b", "1", { qos: 1 });
    await arrived(1);
    await broker.stop();
    device.publishAsync("devices/a/b", "2", { qos: 1 }).catch(() => {});
    messages[0]?.settle?.("committed");
    await first;
    const heard = nextMessage(listener);
    await broker.publish(outgoing("weir/v1/gw/status", "offline"));
    await broker.close();
    expect(await heard).toEqual(["weir/v1/gw/status", "offline"]);
    expect(messages).toHaveLength(1);
  });
});
