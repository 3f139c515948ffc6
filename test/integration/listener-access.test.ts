import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt, { type MqttClient } from "mqtt";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { StageCount } from "../../src/core/ledger.ts";
import type { DeviceMessage } from "../../src/core/ports.ts";
import { EmbeddedBroker } from "../../src/sources/broker.ts";
import { covers, hashPassword } from "../../src/sources/broker-access.ts";
import { brokerSchema, sourcesSchema } from "../../src/sources/options.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function startBroker(options: object = {}) {
  const messages: DeviceMessage[] = [];
  const gone: string[] = [];
  const broker = new EmbeddedBroker(
    brokerSchema.parse({ port: 0, ...options }),
    sourcesSchema.parse({}).devices,
    new StageCount("source", "devices", "messages"),
    () => {},
  );
  const message = (one: DeviceMessage): void => {
    messages.push(one);
    one.settle?.("committed");
  };
  await broker.start({ message, frame: () => true }, new AbortController().signal);
  broker.onGone((device) => gone.push(device));
  cleanups.push(() => broker.close());
  return { broker, messages, gone, port: broker.address?.port ?? 0, tls: broker.tlsAddress?.port ?? 0 };
}

async function join_(url: string, options: mqtt.IClientOptions = {}): Promise<MqttClient> {
  const client = await mqtt.connectAsync(url, { reconnectPeriod: 0, protocolVersion: 5, ...options }, false);
  client.on("error", () => {});
  cleanups.push(() => client.endAsync(true));
  return client;
}

describe("MQTT 5", () => {
  it("CONNACK says what the broker does, and gives a nameless client its id", async () => {
    const { port } = await startBroker();
    const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
      protocolVersion: 5,
      clientId: "",
      reconnectPeriod: 0,
    });
    cleanups.push(() => client.endAsync(true));
    const connack = await new Promise<mqtt.IConnackPacket>((done) => client.once("connect", done));
    expect(connack.properties).toMatchObject({
      receiveMaximum: 4096,
      topicAliasMaximum: 0,
      sharedSubscriptionAvailable: false,
      assignedClientIdentifier: expect.stringMatching(/^auto-/),
    });
  });

  it("a publish that is refused is answered with the reason, and the connection goes on", async () => {
    const { port, messages } = await startBroker();
    const client = await join_(`mqtt://127.0.0.1:${port}`);
    await expect(client.publishAsync("weir/x", "1", { qos: 1 })).rejects.toMatchObject({ code: 0x87 });
    await client.publishAsync("devices/a/b", "1", { qos: 1 });
    await client.publishAsync("devices/a/b", "2", { qos: 2 });
    expect(messages).toHaveLength(2);
  });

  it("subscriptions carry their identifier, and leave out what the client itself publishes if it says so", async () => {
    const { port } = await startBroker();
    const [a, b] = [await join_(`mqtt://127.0.0.1:${port}`), await join_(`mqtt://127.0.0.1:${port}`)];
    const heard: string[] = [];
    a.on("message", (_topic, payload, { properties }) =>
      heard.push(`${payload} ${String(properties?.subscriptionIdentifier)}`),
    );
    await a.subscribeAsync("x/#", { qos: 2, nl: true, properties: { subscriptionIdentifier: 300 } });
    await a.publishAsync("x/1", "own", { qos: 1 });
    for (const qos of [0, 1, 2] as const) await b.publishAsync("x/1", `other${qos}`, { qos });
    await vi.waitFor(() => expect(heard).toEqual(["other0 300", "other1 300", "other2 300"]));
    await expect(a.subscribeAsync("$share/g/x")).rejects.toThrow();
  });
});

describe("identities", () => {
  it("a user is let in by a password alone, and does what the rules say", async () => {
    const passwordHash = await hashPassword("right");
    const { port, messages } = await startBroker({
      users: { "pump-1": { passwordHash, publish: ["devices/{user}/#"], subscribe: ["cmd/{user}/#"] } },
    });
    const url = `mqtt://127.0.0.1:${port}`;
    for (const login of [
      {},
      { username: "pump-1", password: "wrong" },
      { username: "nobody", password: "right" },
    ])
      for (const protocolVersion of [4, 5] as const)
        await expect(join_(url, { ...login, protocolVersion })).rejects.toThrow();
    const client = await join_(url, { username: "pump-1", password: "right" });
    await client.publishAsync("devices/pump-1/t", "1", { qos: 1 });
    await expect(client.publishAsync("devices/pump-2/t", "1", { qos: 1 })).rejects.toMatchObject({
      code: 0x87,
    });
    await client.subscribeAsync("cmd/pump-1/+");
    await expect(client.subscribeAsync("cmd/#")).rejects.toThrow();
    expect(messages.map(({ route }) => route.device)).toEqual(["pump-1"]);
    const will = { topic: "devices/pump-2/t", payload: Buffer.from("x"), qos: 0 as const, retain: false };
    await expect(join_(url, { username: "pump-1", password: "right", will })).rejects.toThrow();
  });

  it("a rule covers a filter only when it covers every topic of it", () => {
    expect(["a/#", "a/+", "+/b", "#", "a/b"].map((rule) => covers(rule, "a/b"))).toEqual([
      true,
      true,
      true,
      true,
      true,
    ]);
    expect([
      covers("a/+", "a/#"),
      covers("a/b", "a/+"),
      covers("a/+", "a/b/c"),
      covers("a/b/c", "a/b"),
    ]).toEqual([false, false, false, false]);
    expect([covers("a/#", "a"), covers("a/#", "a/+/c/#"), covers("#", "$SYS/x")]).toEqual([
      true,
      true,
      false,
    ]);
  });

  it("anonymous clients beyond the loopback are refused in the configuration, with the remedy", () => {
    const problem = (options: object): string => brokerSchema.safeParse(options).error?.message ?? "";
    expect(problem({ host: "0.0.0.0" })).toContain("add broker.users");
    expect(problem({ host: "192.168.1.4", anonymous: true })).toContain("on the loopback only");
    expect(problem({ anonymous: false })).toContain("nobody could connect");
    expect(problem({ users: { a: { passwordHash: "secret" } } })).toContain("scrypt");
    expect(problem({ users: { a: {} } })).toContain("passwordHash or a certificate");
    expect(problem({ host: "::1" })).toBe("");
  });

  it("a client with a will that is lost is told of, with every device it spoke for; one that says goodbye is not", async () => {
    const { port, gone } = await startBroker();
    const will = {
      topic: "devices/bridge/state",
      payload: Buffer.from("offline"),
      qos: 1 as const,
      retain: false,
    };
    const url = `mqtt://127.0.0.1:${port}`;
    const polite = await join_(url, { will });
    await polite.publishAsync("devices/x/t", "1", { qos: 1 });
    await polite.endAsync();
    const client = await join_(url, { will });
    for (const device of ["a", "b", "a"]) await client.publishAsync(`devices/${device}/t`, "1", { qos: 1 });
    client.stream.destroy();
    await vi.waitFor(() =>
      expect([...gone].sort((a, b) => a.localeCompare(b))).toEqual(["a", "b", "bridge"]),
    );
  });

  it("a client that is too fast is slowed down, and loses nothing", async () => {
    const { port, messages } = await startBroker({ limits: { messagesPerSecond: 50 } });
    const client = await join_(`mqtt://127.0.0.1:${port}`);
    const from = performance.now();
    await Promise.all(
      Array.from({ length: 75 }, (_, i) => client.publishAsync("devices/a/b", `${i}`, { qos: 1 })),
    );
    expect(performance.now() - from).toBeGreaterThan(400);
    expect(messages.map(({ payload }) => Number(Buffer.from(payload).toString()))).toEqual(
      Array.from({ length: 75 }, (_, i) => i),
    );
  });
});

const openssl = spawnSync("openssl", ["version"]).status === 0;

describe.skipIf(!openssl)("TLS (needs openssl to make certificates)", () => {
  const dir = mkdtempSync(join(tmpdir(), "weir-tls-"));
  const file = (name: string): string => join(dir, name);
  const ssl = (...args: string[]): void => {
    const run = spawnSync("openssl", args, { cwd: dir, encoding: "utf8" });
    if (run.status !== 0) throw new Error(run.stderr);
  };
  beforeAll(() => {
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    ssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2");
    for (const name of ["localhost", "pump-7"]) {
      ssl("req", ...key, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${name}`);
      writeFileSync(file("ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1");
      ssl(
        "x509",
        "-req",
        "-in",
        `${name}.csr`,
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        `${name}.pem`,
        "-days",
        "2",
        "-extfile",
        "ext",
      );
    }
    return () => rmSync(dir, { recursive: true });
  });

  it("a certificate that the authority signed is an identity; without one nobody comes in", async () => {
    const { tls, messages } = await startBroker({
      users: { fleet: { certificate: "*", publish: ["devices/{user}/#"], subscribe: [] } },
      tls: {
        host: "127.0.0.1",
        port: 0,
        cert: file("localhost.pem"),
        key: file("localhost.key"),
        ca: file("ca.pem"),
        clients: "required",
      },
    });
    const url = `mqtts://127.0.0.1:${tls}`;
    const ca = readFileSync(file("ca.pem"));
    await expect(join_(url, { ca })).rejects.toThrow();
    const client = await join_(url, {
      ca,
      cert: readFileSync(file("pump-7.pem")),
      key: readFileSync(file("pump-7.key")),
    });
    await client.publishAsync("devices/pump-7/t", "1", { qos: 1 });
    await expect(client.publishAsync("devices/other/t", "1", { qos: 1 })).rejects.toMatchObject({
      code: 0x87,
    });
    expect(messages.map(({ route }) => route.device)).toEqual(["pump-7"]);
  });

  it("files that can't be used are said as such", async () => {
    const broken = { host: "127.0.0.1", port: 0, cert: file("none"), key: file("localhost.key") };
    await expect(startBroker({ tls: broken })).rejects.toMatchObject({ code: "broker.tls" });
  });
});
