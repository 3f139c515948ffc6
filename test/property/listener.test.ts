import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import fc from "fast-check";
import { generate, type IPublishPacket, parser } from "mqtt-packet";
import { afterEach, describe, expect, it, vi } from "vitest";
import { StageCount } from "../../src/core/ledger.ts";
import type { DeviceMessage } from "../../src/core/ports.ts";
import { EmbeddedBroker } from "../../src/sources/broker.ts";
import { AckQueue } from "../../src/sources/listener-acks.ts";
import { ClientOutput } from "../../src/sources/listener-output.ts";
import {
  readAck,
  readConnect,
  readDisconnect,
  readPublishProperties,
  readSubscribe,
  readUnsubscribe,
} from "../../src/sources/mqtt-read.ts";
import { brokerSchema, sourcesSchema } from "../../src/sources/options.ts";
import { taken } from "../helpers/taken.ts";

const RUNS = process.env["WEIR_LONG"] === "1" ? 5000 : 60;
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A broker that settles each message at once. */
async function startBroker() {
  const messages: DeviceMessage[] = [];
  const count = new StageCount("source", "devices", "messages");
  const broker = new EmbeddedBroker(
    brokerSchema.parse({ port: 0 }),
    sourcesSchema.parse({}).devices,
    count,
    () => {},
  );
  const message = (one: DeviceMessage): void => {
    const own = taken(one);
    messages.push(own);
    own.settle?.("committed");
  };
  await broker.start({ message, frame: () => true }, new AbortController().signal);
  cleanups.push(() => broker.close());
  return { broker, count, messages, port: broker.address?.port ?? 0 };
}

async function open(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  socket.setNoDelay(true);
  socket.on("error", () => {});
  await once(socket, "connect");
  return socket;
}

/** Writes bytes in pieces cut at `cuts`, each a segment of its own as far as the system lets it. */
async function writeCut(socket: Socket, bytes: Buffer, cuts: readonly number[]): Promise<void> {
  const places = [...new Set(cuts.map((cut) => cut % bytes.length)), bytes.length].sort((a, b) => a - b);
  let from = 0;
  for (const to of places) {
    if (to > from) await new Promise<void>((done) => socket.write(bytes.subarray(from, to), () => done()));
    from = to;
  }
}

const publish = fc.record({
  device: fc.constantFrom("a", "pump-1", "é"),
  qos: fc.constantFrom<(0 | 1 | 2)[]>(0, 1, 2),
  payload: fc.uint8Array({ maxLength: 300 }),
});

describe("the listener", () => {
  it("takes every message and answers each in order, however its bytes are cut, in MQTT 3.1.1 and 5", async () => {
    const { messages, port } = await startBroker();
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom<(4 | 5)[]>(4, 5),
        fc.array(publish, { minLength: 1, maxLength: 20 }),
        fc.array(fc.nat(8000), { maxLength: 30 }),
        async (protocolVersion, wanted, cuts) => {
          messages.length = 0;
          const socket = await open(port);
          const parse = parser({ protocolVersion });
          const answers: string[] = [];
          parse.on("packet", (packet) => answers.push(`${packet.cmd} ${packet.messageId ?? ""}`));
          socket.on("data", (data) => parse.parse(Buffer.from(data)));
          const packets = wanted.map(
            ({ device, qos, payload }, i): IPublishPacket => ({
              cmd: "publish",
              topic: `devices/${device}/t`,
              payload: Buffer.from(payload),
              qos,
              dup: false,
              retain: false,
              messageId: i + 1,
            }),
          );
          const bytes = Buffer.concat([
            generate({
              cmd: "connect",
              clientId: "c",
              protocolId: "MQTT",
              protocolVersion,
              clean: true,
              keepalive: 0,
            }),
            ...packets.map((packet) => generate(packet, { protocolVersion })),
            generate({ cmd: "pingreq" }),
          ]);
          await writeCut(socket, bytes, cuts);
          const acks = packets.flatMap(({ qos, messageId }) =>
            qos === 0 ? [] : [`${qos === 1 ? "puback" : "pubrec"} ${messageId}`],
          );
          const closed = once(socket, "close");
          await Promise.race([
            closed,
            (async () => {
              while (answers.length < acks.length + 2) await once(socket, "data");
            })(),
          ]);
          socket.destroy();
          await closed;
          // Acknowledgements in order; the answer to the ping may stand anywhere among them.
          expect(answers.filter((answer) => answer.startsWith("pub"))).toEqual(acks);
          expect(messages.map(({ payload }) => Buffer.from(payload).toString("hex"))).toEqual(
            wanted.map(({ payload }) => Buffer.from(payload).toString("hex")),
          );
        },
      ),
      { numRuns: RUNS },
    );
  });

  it("outlives whatever it is sent, and goes on serving others", async () => {
    const { messages, port } = await startBroker();
    const hello = generate({
      cmd: "connect",
      clientId: "h",
      protocolId: "MQTT",
      protocolVersion: 5,
      clean: true,
      keepalive: 0,
    });
    const header = fc.tuple(fc.nat(255), fc.array(fc.nat(255), { maxLength: 5 })).map(([a, b]) => [a, ...b]);
    const body = fc.oneof(
      fc.uint8Array({ maxLength: 200 }).map((bytes) => [...bytes]),
      fc.array(header, { maxLength: 10 }).map((headers) => headers.flat()),
    );
    await fc.assert(
      fc.asyncProperty(fc.boolean(), body, async (greets, bytes) => {
        const socket = await open(port);
        socket.resume();
        socket.end(Buffer.concat([greets ? hello : Buffer.alloc(0), Buffer.from(bytes)]));
        await once(socket, "close");
      }),
      { numRuns: RUNS * 3 },
    );
    messages.length = 0;
    const socket = await open(port);
    socket.write(
      generate({
        cmd: "connect",
        clientId: "ok",
        protocolId: "MQTT",
        protocolVersion: 4,
        clean: true,
        keepalive: 0,
      }),
    );
    await once(socket, "data");
    socket.write(
      generate({
        cmd: "publish",
        topic: "devices/a/b",
        payload: "1",
        qos: 1,
        messageId: 7,
        dup: false,
        retain: false,
      }),
    );
    const [ack]: Buffer[] = await once(socket, "data");
    expect([...(ack ?? [])]).toEqual([0x40, 2, 0, 7]);
    socket.destroy();
  });
});

/** Packets of a client, whole and valid, with all that version 5 has. */
const about = {
  messageExpiryInterval: 9,
  contentType: "t",
  userProperties: { a: "b" },
  correlationData: Buffer.from("c"),
};
const valid = (five: boolean): Buffer[] => {
  const options = { protocolVersion: five ? 5 : 4 };
  const hello = {
    cmd: "connect",
    protocolId: "MQTT",
    protocolVersion: five ? 5 : 4,
    clean: true,
    keepalive: 0,
  } as const;
  const will = { topic: "devices/w/t", payload: Buffer.from("w"), qos: 1, retain: false } as const;
  const publish = { cmd: "publish", topic: "devices/a/b", payload: "1", dup: false, retain: false } as const;
  return [
    generate({
      ...hello,
      clientId: "f",
      username: "u",
      password: Buffer.from("p"),
      will,
      ...(five
        ? { properties: { sessionExpiryInterval: 5, receiveMaximum: 7, userProperties: { x: "y" } } }
        : {}),
    }),
    generate({ ...publish, qos: 1, messageId: 3, ...(five ? { properties: about } : {}) }, options),
    generate({ ...publish, qos: 2, messageId: 4 }, options),
    generate(
      { cmd: "pubrel", messageId: 4, ...(five ? { reasonCode: 0, properties: { reasonString: "r" } } : {}) },
      options,
    ),
    generate(
      {
        cmd: "subscribe",
        messageId: 5,
        subscriptions: [{ topic: "x/+/#", qos: 1, nl: false, rap: true, rh: 1 }],
        ...(five ? { properties: { subscriptionIdentifier: 8 } } : {}),
      },
      options,
    ),
    generate(
      {
        cmd: "unsubscribe",
        messageId: 6,
        unsubscriptions: ["x/+/#"],
        ...(five ? { properties: { userProperties: { a: "b" } } } : {}),
      },
      options,
    ),
    generate({ cmd: "pingreq" }, options),
    generate(
      { cmd: "disconnect", ...(five ? { reasonCode: 4, properties: { sessionExpiryInterval: 0 } } : {}) },
      options,
    ),
  ];
};

describe("packets that were valid before some of their bytes were changed", () => {
  for (const five of [false, true]) {
    it(`end at most their own connection, counted, while another's messages are acknowledged (MQTT ${five ? 5 : 3})`, async () => {
      const { broker, port, count } = await startBroker();
      const packets = valid(five);
      const { length } = Buffer.concat(packets);
      const healthy = await open(port);
      healthy.write(
        generate({
          cmd: "connect",
          clientId: "h",
          protocolId: "MQTT",
          protocolVersion: 4,
          clean: true,
          keepalive: 0,
        }),
      );
      await once(healthy, "data");
      const whole = await open(port);
      whole.resume();
      whole.write(Buffer.concat(packets));
      await once(whole, "close");
      expect(count.also["refused"] ?? 0).toBe(0);
      let id = 0;
      const edit = fc.record({
        at: fc.nat(length - 1),
        byte: fc.nat(255),
        how: fc.constantFrom("set", "cut", "add"),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 3 }), async (edits) => {
          let bytes = Buffer.concat(packets);
          for (const { at, byte, how } of edits) {
            const rest = bytes.subarray(how === "add" ? at : at + 1);
            bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(how === "cut" ? [] : [byte]), rest]);
          }
          const socket = await open(port);
          socket.resume();
          socket.end(bytes);
          await once(socket, "close");
          id = (id % 65_535) + 1;
          healthy.write(
            generate({
              cmd: "publish",
              topic: "devices/h/t",
              payload: "1",
              qos: 1,
              messageId: id,
              dup: false,
              retain: false,
            }),
          );
          const [ack]: Buffer[] = await once(healthy, "data");
          expect([...(ack ?? [])]).toEqual([0x40, 2, id >> 8, id & 255]);
        }),
        { numRuns: RUNS * 2 },
      );
      expect(count.also["refused"]).toBeGreaterThan(0);
      expect(broker.address?.port).toBe(port);
    });
  }
});

describe("packets", () => {
  it("reading them never throws and never looks past their end", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 120 }),
        fc.nat(120),
        fc.constantFrom<(4 | 5)[]>(4, 5),
        (raw, cut, version) => {
          const bytes = Buffer.from(raw);
          const to = Math.min(cut, bytes.length);
          const alone = Buffer.from(bytes.subarray(0, to));
          expect(readConnect(bytes, 0, to)).toEqual(readConnect(alone, 0, to));
          expect(readSubscribe(bytes, 0, to, version)).toEqual(readSubscribe(alone, 0, to, version));
          expect(readUnsubscribe(bytes, 0, to, version)).toEqual(readUnsubscribe(alone, 0, to, version));
          expect(readAck(bytes, 0, to, version)).toEqual(readAck(alone, 0, to, version));
          expect(readDisconnect(bytes, 0, to, version)).toEqual(readDisconnect(alone, 0, to, version));
          expect(readPublishProperties(bytes, 0, to)).toEqual(readPublishProperties(alone, 0, to));
        },
      ),
      { numRuns: 3000 },
    );
  });

  it("acknowledgements go out in the order of their messages, each once, in whatever order they are settled", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(), { minLength: 1, maxLength: 200 }), fc.nat(7), (order, every) => {
        const queue = new AckQueue();
        const places = order.map((_, i) => queue.push(i + 1, 0x40));
        const shuffled = places
          .map((place, i) => [order[i] ?? 0, place] as const)
          .sort((a, b) => a[0] - b[0]);
        const written: number[] = [];
        const take = (): void => {
          const bytes = queue.take(false) ?? Buffer.alloc(0);
          for (let at = 0; at < bytes.length; at += 4) written.push(bytes.readUInt16BE(at + 2));
        };
        for (const [i, [, place]] of shuffled.entries()) {
          queue.settle(place, 0);
          if (i % (every + 1) === 0) take();
        }
        take();
        expect(written).toEqual(order.map((_, i) => i + 1));
        expect(queue.size).toBe(0);
      }),
    );
  });
});

it("small answers are written together, in order with what is large: two bytes that nobody reads must not cost a hundred", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  cleanups.push(() => server.close());
  await once(server, "listening");
  const address = server.address();
  const accepted = once(server, "connection");
  const client = await open(typeof address === "object" ? (address?.port ?? 0) : 0);
  cleanups.push(() => client.destroy());
  const [socket]: Socket[] = await accepted;
  if (socket === undefined) throw new Error("nobody came");
  const writes = vi.spyOn(socket, "write");
  const output = new ClientOutput(socket, () => {});
  const wanted: Uint8Array[] = [];
  for (let i = 0; i < 100_000; i++) {
    const part = i % 50_000 === 7 ? Buffer.alloc(9000, i) : Buffer.from([i & 255, i >> 8]);
    wanted.push(part);
    output.write([part]);
  }
  output.flush(undefined);
  expect(writes.mock.calls.length).toBeLessThan(30);
  output.close();
  const heard: Buffer[] = [];
  for await (const part of client) heard.push(part);
  expect(Buffer.concat(heard).equals(Buffer.concat(wanted))).toBe(true);
});
