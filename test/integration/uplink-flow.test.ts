/** The forward loop, the real outbox and the MQTT uplink, against a broker that does what it is told. */
import mqtt from "mqtt";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { batchIn } from "../../src/batch-tools.ts";
import { Kind } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { Ledger } from "../../src/core/ledger.ts";
import type { Stream } from "../../src/core/ports.ts";
import { WorkerOutbox } from "../../src/outbox/outbox.ts";
import { uplinkStatus } from "../../src/parts.ts";
import { Forward } from "../../src/pipeline/forward.ts";
import { MqttUplink } from "../../src/uplink/mqtt.ts";
import { type UplinkOptions, uplinkSchema } from "../../src/uplink/options.ts";
import { storeUncopied } from "../../src/uplink/uncopied.ts";
import { freePort } from "../helpers/free-port.ts";
import {
  frameOf,
  newPath,
  planFor,
  uplink as planOf,
  range,
  removeDatabases,
  workerUrl,
} from "../helpers/outbox.ts";
import { ScriptedBroker } from "../helpers/scripted-broker.ts";
import { until } from "../helpers/until.ts";

afterAll(removeDatabases);

let broker: ScriptedBroker;
const stops: (() => Promise<unknown>)[] = [];
beforeEach(async () => {
  broker = await ScriptedBroker.start();
});
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
  await broker.stop();
});

interface Running {
  readonly outbox: WorkerOutbox;
  readonly uplink: MqttUplink;
  readonly forward: Forward;
  readonly logs: string[];
  readonly append: (from: number, to: number, stream?: Stream) => Promise<void>;
}

/** An uplink `up` to the broker. */
async function run(
  changes: Partial<Record<keyof UplinkOptions, unknown>> = {},
  kept = new Map<string, string>(),
): Promise<Running> {
  const options = uplinkSchema.parse({ url: broker.url, ...changes });
  const { qos, appAck } = options;
  const plan = planOf("up", { batch: { samples: 10, bytes: 1e6, ageMs: 0 }, qos });
  const outbox = new WorkerOutbox(workerUrl, planFor(newPath(), { uplinks: [plan] }));
  await outbox.start();
  stops.push(() => outbox.stop());
  const logs: string[] = [];
  const log = (level: string, text: string): void => void logs.push(`${level} ${text}`);
  const message = (topic: string) => ({
    topic,
    payload: Buffer.from("{}"),
    qos: 1 as const,
    retain: false,
    contentType: undefined,
    userProperties: undefined,
  });
  const uplink = new MqttUplink("up", options, { gateway: "gw", status: () => message("w/gw/status"), log });
  const forward = new Forward({
    uplink,
    outbox,
    ledger: new Ledger(),
    log,
    gapMessage: () => message("w/gw/gap"),
    limits: options,
    memory: { load: async () => kept.get("used"), save: async (text) => void kept.set("used", text) },
    appAck: appAck === undefined ? undefined : { timeoutMs: appAck.timeout, batches: appAck.batches },
  });
  const controller = new AbortController();
  await uplink.start(controller.signal);
  forward.start();
  stops.push(async () => {
    await forward.stop(0);
    controller.abort();
    await uplink.stop();
  });
  const append = (from: number, to: number, stream: Stream = "data"): Promise<void> =>
    outbox.append({ stream, frame: frameOf(range(from, to)), state: [], effects: [] });
  return { outbox, uplink, forward, logs, append };
}

const numbersIn = (payload: string | Buffer): number[] =>
  (batchIn(Buffer.from(payload))?.samples ?? []).map(({ values }) => Number(values["n"]));
const came = (): number[] => broker.batches.flatMap(({ payload }) => numbersIn(payload));

/** The account of stream data, in samples. */
async function account({ outbox }: Running): Promise<{ acked: number; rejected: number; held: number }> {
  const count = (await outbox.counts()).find(({ stream }) => stream === "data");
  return { acked: count?.acked ?? 0, rejected: count?.rejected ?? 0, held: count?.held ?? 0 };
}
const settled = (running: Running, acked: number, rejected = 0, held = 0): Promise<unknown> =>
  until(
    `${acked} acknowledged, ${rejected} rejected, ${held} held`,
    async () => JSON.stringify(await account(running)) === JSON.stringify({ acked, rejected, held }),
  );

test("a broker whose packet has no end is left, and tried again later", async () => {
  const endless = Buffer.concat([Buffer.from([0x30, 0xff, 0xff, 0xff, 0x7f]), Buffer.alloc(2 * 1024 * 1024)]);
  broker.script = {
    after: ({ cmd }, connection) => {
      if (cmd === "publish") connection.write(endless);
    },
  };
  const { uplink, logs } = await run();
  await until("the connection is given up", () => /packet of over 1048576 bytes/.test(logs.join()), 60_000);
  broker.script = {};
  await until("there is another one", () => uplink.connected, 60_000);
});

test("mqtt.js keeps what it has sent as it is, not a copy", async () => {
  broker.script = { puback: () => undefined };
  const client = await mqtt.connectAsync(broker.url, { reconnectPeriod: 0 });
  expect(storeUncopied(client)).toBe(true);
  const payload = Buffer.from("as it is");
  client.publish("t", payload, { qos: 1 });
  const messageId = client.getLastMessageId();
  const stored = Promise.withResolvers<unknown>();
  client.outgoingStore.get({ messageId }, (_, packet) => stored.resolve(packet));
  expect(await stored.promise).toMatchObject({ messageId, topic: "t" });
  expect(Reflect.get(Object(await stored.promise), "payload")).toBe(payload);
  await client.endAsync(true);
});

test("a payload is freed once the broker has acknowledged it, and kept when it has to be sent again", async () => {
  const { uplink } = await run();
  await until("it is connected", () => uplink.connected);
  const message = {
    topic: "t",
    payload: new TextEncoder().encode("all of it"),
    qos: 1 as const,
    retain: false,
    contentType: undefined,
    userProperties: undefined,
  };
  broker.script = { puback: () => 0x97 };
  await expect(uplink.publish(message)).rejects.toMatchObject({ code: "uplink.unavailable" });
  expect(message.payload.byteLength).toBe(9);
  broker.script = {};
  await uplink.publish(message, true);
  expect(message.payload.byteLength).toBe(0);
  expect(broker.batches.map(({ payload }) => payload.toString())).toEqual(["all of it", "all of it"]);
});

describe("what the broker allows", () => {
  test.each([
    [2, 1],
    [1, 0],
  ])("is kept to where QoS %i is set and it takes %i at most, and said", async (qos, maximumQoS) => {
    broker.script = { connack: () => ({ properties: { maximumQoS } }) };
    const running = await run({ qos });
    await running.append(0, 10);
    await settled(running, 10);
    await until("the batch", () => came().length === 10);
    expect(broker.published.every((packet) => packet.qos <= maximumQoS)).toBe(true);
    expect(running.logs.join()).toContain(`the broker takes QoS ${maximumQoS} at most`);
  });

  test("is said where it does not let the uplink hear the consumer's word", async () => {
    broker.script = { suback: () => 0x87 };
    const running = await run({ appAck: {} });
    await until("a line in the log", () =>
      running.logs.some((text) => text.includes("nothing is confirmed")),
    );
  });

  test("is kept to by everything of QoS 1, not by batches alone, and nothing waits for ever when it goes", async () => {
    let out = 0;
    let most = 0;
    let answers = true;
    broker.script = {
      connack: () => ({ properties: { receiveMaximum: 3 } }),
      puback: () => undefined,
      after: (packet, connection) => {
        if (packet.cmd !== "publish") return;
        most = Math.max(most, ++out);
        const { messageId = 0 } = packet;
        if (!answers) return;
        setTimeout(() => {
          out -= 1;
          connection.send({ cmd: "puback", messageId, reasonCode: 0 });
        }, 5);
      },
    };
    const { uplink } = await run();
    await until("the connection", () => uplink.connected);
    const send = (n: number): Promise<void> =>
      uplink.publish({
        topic: `w/gw/last/${n}`,
        payload: Buffer.from("{}"),
        qos: 1,
        retain: true,
        contentType: undefined,
        userProperties: undefined,
      });
    await Promise.all(range(0, 40).map(send));
    expect(most).toBe(3);
    expect(broker.published.map(({ topic }) => topic).slice(-40)).toEqual(
      range(0, 40).map((n) => `w/gw/last/${n}`),
    );
    answers = false;
    const left = range(0, 10).map(send);
    await until("three to be out", () => out === 3);
    broker.connections.at(-1)?.end();
    for (const result of await Promise.allSettled(left))
      expect(result).toMatchObject({ status: "rejected", reason: { code: "uplink.unavailable" } });
  });

  test.each([
    ["no more unacknowledged than its receive maximum", { receiveMaximum: 3 }, {}],
    ["nor than the uplink's own window", { receiveMaximum: 100 }, { window: 3 }],
  ])("is kept to: %s", async (_, properties, own) => {
    const waiting: (() => void)[] = [];
    let most = 0;
    let answer: NodeJS.Timeout | undefined;
    broker.script = {
      connack: () => ({ properties }),
      puback: ({ topic }) => (topic.endsWith("/status") ? 0 : undefined),
      after: (packet, connection) => {
        if (packet.cmd !== "publish" || packet.topic.endsWith("/status")) return;
        waiting.push(() =>
          connection.send({ cmd: "puback", messageId: packet.messageId ?? 0, reasonCode: 0 }),
        );
        most = Math.max(most, waiting.length);
        // Answered in one go: a moment after the third, for a fourth that should not come; or when no third comes.
        clearTimeout(answer);
        answer = setTimeout(
          () => {
            for (const send of waiting.splice(0)) send();
          },
          waiting.length < 3 ? 1_000 : 20,
        );
      },
    };
    const running = await run(own);
    for (let i = 0; i < 12; i++) await running.append(10 * i, 10 * i + 10);
    await settled(running, 120);
    expect(came()).toEqual(range(0, 120));
    expect(most).toBe(3);
  });

  test.each([
    ["its largest packet", { maximumPacketSize: 1_200 }, {}],
    ["the uplink's own", {}, { maxPacketBytes: 1_200 }],
  ])("is kept to in parts: a batch above %s comes in several messages", async (_, properties, own) => {
    broker.script = { connack: () => ({ properties }) };
    const running = await run(own);
    await running.append(0, 60);
    await settled(running, 60);
    expect(broker.batches.length).toBeGreaterThan(3);
    expect(came()).toEqual(range(0, 60));
  });

  test("sets a sample aside that is larger by itself, announces it, and goes on", async () => {
    broker.script = { connack: () => ({ properties: { maximumPacketSize: 1_200 } }) };
    const running = await run();
    await running.append(0, 10);
    const builder = new FrameBuilder(1);
    const [device, metric] = [builder.device("pump-1"), builder.metric("n")];
    builder.add(device, metric, 1_763_640_000_000_000, Kind.text, 0, builder.text("x".repeat(2_000)));
    await running.outbox.append({ stream: "data", frame: builder.build(), state: [], effects: [] });
    await running.append(10, 20);
    await settled(running, 20, 1);
    expect(came()).toEqual(range(0, 20));
    await until("the announcement", () => broker.published.some(({ topic }) => topic === "w/gw/gap"));
    expect(running.logs).toContain(
      "warn uplink up: data 10 to 10 set aside: `weir outbox export --rejected` says why",
    );
  });
});

describe("a reason code", () => {
  test.each([0x90, 0x99])(
    "%i of a PUBACK is final: the batch is set aside, the next goes on",
    async (code) => {
      broker.script = { puback: ({ payload }) => (numbersIn(payload).includes(15) ? code : 0) };
      const running = await run();
      for (let i = 0; i < 3; i++) await running.append(10 * i, 10 * i + 10);
      await settled(running, 20, 10);
      expect(came().filter((n) => n === 15).length).toBe(1);
    },
  );

  test.each([0x80, 0x83])(
    "%i is tried five times, then the batch is set aside and the head is free",
    async (code) => {
      broker.script = { puback: ({ payload }) => (numbersIn(payload).includes(5) ? code : 0) };
      const running = await run();
      await running.append(0, 10);
      await running.append(10, 20);
      await settled(running, 10, 10);
      expect(came().filter((n) => n === 5).length).toBe(5);
    },
    90_000,
  );

  test("0x95 of a DISCONNECT halves what is sent at once, until it fits", async () => {
    broker.script = {
      after: (packet, connection) => {
        if (packet.cmd === "publish" && packet.payload.length > 2_000) connection.disconnect(0x95);
      },
      puback: ({ payload }) => (payload.length > 2_000 ? undefined : 0),
    };
    const running = await run();
    await running.append(0, 200);
    await settled(running, 200);
    expect(new Set(came())).toEqual(new Set(range(0, 200)));
  });

  test("0x87 of a PUBACK is the account's state: the batch is tried as long as it lasts", async () => {
    let refusals = 0;
    broker.script = { puback: ({ topic }) => (topic.endsWith("/data") && refusals++ < 3 ? 0x87 : 0) };
    const running = await run();
    await running.append(0, 10);
    await settled(running, 10);
    expect(refusals).toBe(4);
    expect(broker.connections.length).toBe(1);
  });

  test("0x97 of a PUBACK pauses the uplink and loses nothing", async () => {
    let over = true;
    broker.script = {
      puback: ({ topic }) => {
        if (topic.endsWith("/status") || !over) return 0;
        over = false;
        return 0x97;
      },
    };
    const running = await run();
    await running.append(0, 10);
    await until("the pause", () => broker.batches.length === 1 && running.uplink.window === 0);
    expect(running.uplink.connected).toBe(true);
    await settled(running, 10);
    expect(came().length).toBe(20);
  });

  test("0x8e of DISCONNECT three times means another client of that name: it stops and says so", async () => {
    broker.script = {
      after: (packet, connection) => {
        if (packet.cmd === "publish") connection.disconnect(0x8e);
      },
    };
    const running = await run();
    await until("the explanation", () =>
      running.uplink.lastError?.includes("another client uses the client id weir-gw"),
    );
    expect(broker.connections.length).toBe(3);
    expect(running.logs.some((line) => line.startsWith("error") && line.includes("clientId"))).toBe(true);
  });

  test("0x97 of a CONNACK keeps it away for longer than another refusal", async () => {
    const other = await ScriptedBroker.start({ connack: () => ({ reasonCode: 0x88 }) });
    stops.push(() => other.stop());
    broker.script = { connack: () => ({ reasonCode: 0x97 }) };
    const crowded = await run();
    await run({ url: other.url });
    await until("tries at the other", () => other.connections.length >= 3);
    expect(broker.connections.length).toBe(1);
    expect(crowded.uplink.lastError).toContain("quota exceeded");
  });

  test("of a CONNACK is shown in words", async () => {
    broker.script = { connack: () => ({ reasonCode: 0x86 }) };
    const running = await run();
    await until("the reason", () =>
      running.uplink.lastError?.includes("bad user name or password (reason 0x86)"),
    );
  });
});

test("a broker that takes and never acknowledges is left; the batch comes again with the same key and bytes, one alone on trial", async () => {
  let silent = true;
  broker.script = { puback: ({ topic }) => (topic.endsWith("/status") || !silent ? 0 : undefined) };
  const running = await run({ ackTimeoutMs: 300 });
  for (let i = 0; i < 4; i++) await running.append(10 * i, 10 * i + 10);
  await until("a trial on a second connection", () => broker.connections.length >= 2 && came().length >= 20);
  expect(running.forward.circuit).not.toBe("closed");
  await until("it to be said", () => uplinkStatus(running).reason?.startsWith("up: "));
  expect(uplinkStatus(running).state).toBe("failed");
  silent = false;
  await settled(running, 40);
  expect(running.forward.circuit).toBe("closed");
  expect(uplinkStatus(running).state).toBe("on");
  const first = broker.batches.filter(({ properties }) => properties?.userProperties?.["seq"] === "0");
  expect(first.length).toBeGreaterThan(1);
  for (const { payload } of first) expect(payload).toEqual(first[0]?.payload);
  expect(first.map(({ dup }) => dup)).toEqual(first.map((_, i) => i > 0));
});

describe("limits of the uplink's own", () => {
  test("hold the rate: messages a second", async () => {
    const running = await run({ messagesPerSecond: 20 });
    const start = performance.now();
    for (let i = 0; i < 60; i++) await running.append(10 * i, 10 * i + 10);
    await settled(running, 600);
    // A second's worth at once, then 20 a second: 60 messages take two seconds at the least.
    expect(performance.now() - start).toBeGreaterThan(1_900);
    expect(came()).toEqual(range(0, 600));
  });

  test("hold the rate: the parts of one batch, too", async () => {
    broker.script = { connack: () => ({ properties: { maximumPacketSize: 1_200 } }) };
    const running = await run({ messagesPerSecond: 20 });
    const start = performance.now();
    await running.append(0, 400);
    await settled(running, 400);
    const parts = broker.batches.length;
    expect(parts).toBeGreaterThan(30);
    expect(performance.now() - start).toBeGreaterThan((parts / 20 - 1) * 1_000 - 100);
    expect(came()).toEqual(range(0, 400));
  });

  test("hold the rate: bytes a second", async () => {
    const running = await run({ bytesPerSecond: 4_000 });
    const start = performance.now();
    for (let i = 0; i < 20; i++) await running.append(10 * i, 10 * i + 10);
    await settled(running, 200);
    const bytes = broker.batches.reduce((sum, { payload }) => sum + payload.length, 0);
    // A second's worth at once, and the last one may be owed.
    expect(performance.now() - start).toBeGreaterThan((bytes / 4_000 - 2) * 1_000);
    expect(bytes).toBeGreaterThan(10_000);
    expect(came()).toEqual(range(0, 200));
  });

  test("count the month's bytes over a restart of the agent", async () => {
    const kept = new Map<string, string>();
    const first = await run({ bytesPerMonth: 600 }, kept);
    await first.append(0, 10);
    await settled(first, 10);
    await stops.pop()?.();
    const second = await run({ bytesPerMonth: 600 }, kept);
    await until("the budget to be remembered", () => second.forward.exhausted);
  });

  test("let only alarms go once the month's bytes are used up", async () => {
    const kept = new Map<string, string>();
    const running = await run({ bytesPerMonth: 600 }, kept);
    await running.append(0, 10);
    await until("the budget to be used up", () => running.forward.exhausted);
    // At once: a crash is not to forget that.
    await until("that to be kept", () => Number(kept.get("used")?.split(" ")[1]) >= 600);
    expect(uplinkStatus(running).reason).toContain("the month's bytes are used up");
    await settled(running, 10);
    await running.append(10, 20);
    await running.append(0, 1, "alarm");
    await until("the alarm", () => broker.batches.some(({ topic }) => topic === "w/gw/alarm"));
    expect(came().includes(10)).toBe(false);
    expect(await account(running)).toEqual({ acked: 10, rejected: 0, held: 10 });
  });
});

test("several brokers are tried in turn, and the first one is gone back to", async () => {
  const other = await ScriptedBroker.start();
  stops.push(() => other.stop());
  // At a port that nobody else is given while it is away.
  const port = await freePort();
  const url = `mqtt://127.0.0.1:${port}`;
  await broker.stop();
  const running = await run({ url, fallback: [other.url], failback: "2s" });
  await running.append(0, 10);
  await until("the other broker", () => other.batches.length === 1);
  await settled(running, 10);
  expect(running.uplink.broker).toBe(other.url);
  broker = await ScriptedBroker.start({}, port);
  await until("the first broker", () => running.uplink.broker === url);
  await running.append(10, 20);
  await settled(running, 20);
  expect(came()).toEqual(range(10, 20));
});

describe("the consumer's word", () => {
  const say = (payload: string): void =>
    broker.connections
      .at(-1)
      ?.send({ cmd: "publish", topic: "weir/v1/gw/in/ack", payload, qos: 0, retain: false, dup: false });
  const confirm = ({ outbox }: Running, upto: number, also: number[][] = []): void =>
    say(JSON.stringify({ epoch: outbox.epoch, stream: "data", upto, also }));

  test("is waited for: a batch that only the broker has is kept", async () => {
    const running = await run({ appAck: {} });
    for (let i = 0; i < 4; i++) {
      await running.append(10 * i, 10 * i + 10);
      await until("the batch", () => running.forward.unconfirmed === i + 1);
    }
    expect(await account(running)).toEqual({ acked: 0, rejected: 0, held: 40 });
    confirm(running, 9, [[20, 29]]);
    await settled(running, 20, 0, 20);
    confirm(running, 25, [[26, 39]]);
    await settled(running, 40);
    expect(came()).toEqual(range(0, 40));
  });

  test("that does not come in time has the batch sent again; nonsense is not taken for it", async () => {
    const running = await run({ appAck: { timeout: "1s" } });
    await running.append(0, 10);
    await until("the batch", () => running.forward.unconfirmed === 1);
    for (const payload of ["{", '{"epoch":"x"}', '{"epoch":"00000000","stream":"data","upto":1000}'])
      say(payload);
    await until("it again", () => came().length === 20);
    expect(running.logs.filter((text) => text.includes("not a confirmation"))).toHaveLength(1);
    expect(await account(running)).toEqual({ acked: 0, rejected: 0, held: 10 });
    await until("its delivery to the broker", () => running.forward.unconfirmed === 1);
    confirm(running, 9);
    await settled(running, 10);
  });
});

test("its client id and user name have the gateway and the broker's host filled in", async () => {
  await run({ clientId: "dev-{gateway}", username: "{host}/{gateway}/?v=1" });
  const { connect } = await until("the connection", () => broker.connections[0]);
  expect(connect).toMatchObject({ clientId: "dev-gw", username: "127.0.0.1/gw/?v=1" });
});

test.each([0, 2])(
  "QoS %i batches are delivered once they are handed over, or their handshake is done",
  async (qos) => {
    const running = await run({ qos });
    await running.append(0, 10);
    await settled(running, 10);
    await until("the batch", () => broker.batches.length === 1);
    expect(broker.batches[0]).toMatchObject({ qos, dup: false });
  },
);
