import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt, { type MqttClient } from "mqtt";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { StageCount } from "../../src/core/ledger.ts";
import { hashPassword } from "../../src/core/password.ts";
import type { DeviceMessage } from "../../src/core/ports.ts";
import { EmbeddedBroker } from "../../src/sources/broker.ts";
import { covers, readPasswords } from "../../src/sources/broker-access.ts";
import { brokerSchema, sourcesSchema } from "../../src/sources/options.ts";
import { eventually } from "../helpers/eventually.ts";
import { taken } from "../helpers/taken.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function startBroker(options: object = {}) {
  const messages: DeviceMessage[] = [];
  const gone: string[] = [];
  const log: string[] = [];
  const count = new StageCount("source", "devices", "messages");
  const broker = new EmbeddedBroker(
    brokerSchema.parse({ port: 0, ...options }),
    sourcesSchema.parse({}).devices,
    count,
    (_level, text) => log.push(text),
  );
  const message = (one: DeviceMessage): void => {
    const own = taken(one);
    messages.push(own);
    own.settle?.("committed");
  };
  await broker.start({ message, frame: () => true }, new AbortController().signal);
  broker.onDeviceGone((device) => gone.push(device));
  cleanups.push(() => broker.close());
  const ports = { port: broker.address?.port ?? 0, tls: broker.tlsAddress?.port ?? 0 };
  return { broker, messages, gone, log, count, ...ports };
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
    await eventually(() => expect(heard).toEqual(["other0 300", "other1 300", "other2 300"]));
    await expect(a.subscribeAsync("$share/g/x")).rejects.toThrow();
  });

  it("what is refused is counted, and said with what it was about", async () => {
    const { port, log, count } = await startBroker();
    const client = await join_(`mqtt://127.0.0.1:${port}`, { clientId: "curious" });
    await expect(client.subscribeAsync("$share/g/x")).rejects.toThrow();
    await expect(client.publishAsync("weir/x", "1", { qos: 1 })).rejects.toThrow();
    expect(count.also["refused"]).toBe(2);
    expect(log[0]).toMatch(/"curious": there are no shared subscriptions here: "\$share\/g\/x"$/);
    expect(log).toHaveLength(1);
  });
});

describe("identities", () => {
  it("a user is let in by a password alone, and does what the rules say", async () => {
    const passwordHash = await hashPassword(Buffer.from("right"));
    const { port, messages } = await startBroker({
      identities: {
        "pump-1": { passwordHash, publish: ["devices/{identity}/#"], subscribe: ["cmd/{identity}/#"] },
      },
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

  it("identities from a file have the common rules; {clientid} and {identity} stand for one level", async () => {
    const dir = mkdtempSync(join(tmpdir(), "weir-identities-"));
    cleanups.push(() => rmSync(dir, { recursive: true }));
    const path = join(dir, "identities");
    writeFileSync(path, `# a comment\n\nfleet:${await hashPassword(Buffer.from("p:w"))}\n`);
    const { port } = await startBroker({
      identitiesFile: path,
      rules: { publish: ["devices/{clientid}/#", "log/{identity}", "weir/v1/gw/in/#"], subscribe: ["#"] },
    });
    const url = `mqtt://127.0.0.1:${port}`;
    const login = { username: "fleet", password: "p:w" };
    await expect(join_(url)).rejects.toThrow();
    const client = await join_(url, { ...login, clientId: "c1" });
    for (const topic of ["devices/c1/t", "log/fleet", "weir/v1/gw/in/cmd"])
      await client.publishAsync(topic, "1", { qos: 1 });
    for (const topic of ["devices/c2/t", "log/other", "weir/v1/gw/data", "weir/v1/gw/in"])
      await expect(client.publishAsync(topic, "1", { qos: 1 })).rejects.toMatchObject({ code: 0x87 });
    const wide = await join_(url, { ...login, clientId: "+" });
    await expect(wide.publishAsync("devices/x/t", "1", { qos: 1 })).rejects.toMatchObject({ code: 0x87 });
    writeFileSync(path, "fleet:secret\n");
    await expect(startBroker({ identitiesFile: path })).rejects.toMatchObject({
      code: "broker.identities",
      message: expect.stringContaining("line 1"),
    });
  });

  it("what is sent to Weir is closed to clients without a name", async () => {
    const { port } = await startBroker();
    const client = await join_(`mqtt://127.0.0.1:${port}`);
    const sent = client.publishAsync("weir/v1/gw/in/cmd", "1", { qos: 1 });
    await expect(sent).rejects.toMatchObject({ code: 0x87 });
  });

  it("weir passwd prints what is checked, and nothing of the password", () => {
    const run = spawnSync("bin/weir", ["passwd", "--name", "fleet"], { input: "secret\n", encoding: "utf8" });
    for (const name of ["a:b", "#a", " a", "a\nb", ""])
      expect(spawnSync("bin/weir", ["passwd", "--name", name], { input: "secret\n" }).status).toBe(2);
    expect(run.stdout).toMatch(/^fleet:scrypt\$16384\$8\$1\$[^$]+\$[^$]+\n$/);
    expect(readPasswords(run.stdout)).toBeInstanceOf(Map);
  });

  it("an address that can't be listened on is said with the reason, each its own", async () => {
    const away = {
      host: "192.0.2.1",
      identities: { a: { passwordHash: await hashPassword(Buffer.from("x")) } },
    };
    await expect(startBroker(away)).rejects.toMatchObject({ code: "broker.address-unavailable" });
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
    expect(problem({ host: "0.0.0.0" })).toContain("add broker.identities");
    expect(problem({ host: "192.168.1.4", anonymous: true })).toContain("on the loopback only");
    expect(problem({ anonymous: false })).toContain("nobody could connect");
    expect(problem({ identities: { a: { passwordHash: "secret" } } })).toContain("weir passwd");
    expect(problem({ identities: { a: {} } })).toContain("passwordHash or a certificate");
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
    await eventually(() =>
      expect([...gone].sort((a, b) => a.localeCompare(b))).toEqual(["a", "b", "bridge"]),
    );
  });

  it("limits of connections, packets, topics, retained messages and sessions are what weir.yaml says", async () => {
    const { port } = await startBroker({
      limits: { connections: 2, packetKiB: 100, topicLevels: 3, retainedMiB: 1, sessionExpiryS: 7 },
    });
    const url = `mqtt://127.0.0.1:${port}`;
    const first = await join_(url, {
      properties: { sessionExpiryInterval: 600 },
      clientId: "first",
      clean: false,
    });
    const connack = await new Promise<mqtt.IConnackPacket>((done) => {
      const second = mqtt.connect(url, {
        protocolVersion: 5,
        reconnectPeriod: 0,
        properties: { sessionExpiryInterval: 600 },
      });
      cleanups.push(() => second.endAsync(true));
      second.on("error", () => {}).once("connect", done);
    });
    expect(connack.properties).toMatchObject({ maximumPacketSize: 100 * 1024, sessionExpiryInterval: 7 });
    await expect(join_(url)).rejects.toThrow();

    await expect(first.publishAsync("a/b/c/d", "1", { qos: 1 })).rejects.toMatchObject({ code: 0x87 });
    const heavy = (i: number) => first.publishAsync(`r/${i}`, Buffer.alloc(90_000), { qos: 1, retain: true });
    for (let i = 0; i < 15; i++) await heavy(i);
    const kept: string[] = [];
    first.on("message", (topic, _payload, { retain }) => retain && kept.push(topic));
    await first.subscribeAsync("r/#");
    await eventually(() => expect(kept.at(-1)).toBe("r/14"));
    expect(kept.length).toBe(11);
    const gone = new Promise((done) => first.once("close", () => done(undefined)));
    first.publish("devices/a/b", Buffer.alloc(101 * 1024), { qos: 1 }, () => {});
    await gone;
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
      identities: { fleet: { certificate: "*", publish: ["devices/{identity}/#"], subscribe: [] } },
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

  it("where one is optional, one that is not good is no certificate of nobody's: its client is refused, and the log says why", async () => {
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    ssl("req", "-x509", ...key, "-keyout", "own.key", "-out", "own.pem", "-subj", "/CN=pump-7", "-days", "2");
    const { tls, log } = await startBroker({
      anonymous: true,
      identities: { fleet: { certificate: "*" } },
      tls: {
        host: "127.0.0.1",
        port: 0,
        cert: file("localhost.pem"),
        key: file("localhost.key"),
        ca: file("ca.pem"),
        clients: "optional",
      },
    });
    const url = `mqtts://127.0.0.1:${tls}`;
    const ca = readFileSync(file("ca.pem"));
    await join_(url, { ca });
    const own = { ca, cert: readFileSync(file("own.pem")), key: readFileSync(file("own.key")) };
    await expect(join_(url, own)).rejects.toMatchObject({ code: 0x87 });
    expect(log.join()).toContain("its certificate is not good");
  });

  it("files that can't be used are said as such", async () => {
    const broken = { host: "127.0.0.1", port: 0, cert: file("none"), key: file("localhost.key") };
    await expect(startBroker({ tls: broken })).rejects.toMatchObject({ code: "broker.tls" });
  });
});
