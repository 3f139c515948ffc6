/** What clients may not send, byte by byte, and how the embedded broker answers it (MQTT 5, 4.13; MQTT 3.1.1, 4.8). */
import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StageCount } from "../../src/core/ledger.ts";
import { EmbeddedBroker } from "../../src/sources/broker.ts";
import { brokerSchema, sourcesSchema } from "../../src/sources/options.ts";

type Part = string | readonly number[];

const text = (value: string | Uint8Array): number[] => {
  const bytes = Buffer.from(value);
  return [bytes.length >> 8, bytes.length & 255, ...bytes];
};
const packet = (first: number, ...parts: readonly Part[]): Buffer => {
  const body = parts.flatMap((part) => (typeof part === "string" ? text(part) : part));
  return Buffer.from([first, body.length, ...body]);
};
interface Connecting {
  readonly level?: number;
  readonly flags?: number;
  readonly properties?: readonly number[];
  readonly rest?: readonly Part[];
}
/** Flags of 2: a clean start. */
const hello = ({ level = 5, flags = 2, properties = [], rest = [] }: Connecting = {}): Buffer => {
  const five = level === 5 ? [properties.length, ...properties] : [];
  return packet(0x10, "MQTT", [level, flags, 0, 0], five, "c", ...rest);
};
const publish = (
  topic: string | Uint8Array,
  properties: readonly number[] = [],
  first = 0x32,
  id = [0, 1],
): Buffer => packet(first, text(topic), id, [properties.length, ...properties], [0x31]);
const T = "devices/d/t";

const FIVE: readonly (readonly [
  what: string,
  bytes: Buffer,
  answer: "connack" | "disconnect",
  reason: number,
])[] = [
  ["a reserved flag of CONNECT [MQTT-3.1.2-3]", hello({ flags: 3 }), "connack", 0x81],
  ["a will of QoS 3", hello({ flags: 0x1e, rest: [[0], T, "x"] }), "connack", 0x81],
  ["a will's QoS without a will", hello({ flags: 0x0a }), "connack", 0x81],
  ["a will on a wildcard", hello({ flags: 6, rest: [[0], "a/+", "x"] }), "connack", 0x90],
  ["Receive Maximum 0", hello({ properties: [0x21, 0, 0] }), "connack", 0x82],
  ["Maximum Packet Size 0", hello({ properties: [0x27, 0, 0, 0, 0] }), "connack", 0x82],
  ["a property twice", hello({ properties: [0x21, 0, 5, 0x21, 0, 5] }), "connack", 0x82],
  ["a property that CONNECT has not", hello({ properties: [0x23, 0, 1] }), "connack", 0x81],
  ["Request Problem Information 2", hello({ properties: [0x17, 2] }), "connack", 0x82],
  ["authentication data without a method", hello({ properties: [0x16, 0, 1, 0x61] }), "connack", 0x82],
  ["an authentication method", hello({ properties: [0x15, 0, 1, 0x61] }), "connack", 0x8c],
  ["bytes after CONNECT's end", packet(0x10, "MQTT", [5, 2, 0, 0, 0], "c", [1]), "connack", 0x81],
  ["a second CONNECT [MQTT-3.1.0-2]", hello(), "disconnect", 0x82],
  ["AUTH", packet(0xf0, [0x18, 0]), "disconnect", 0x82],
  ["a packet that only brokers send", packet(0x20, [0, 0, 0]), "disconnect", 0x82],
  ["QoS 3", publish(T, [], 0x36), "disconnect", 0x81],
  ["DUP with QoS 0", packet(0x38, T, [0]), "disconnect", 0x81],
  ["packet identifier 0", publish(T, [], 0x32, [0, 0]), "disconnect", 0x81],
  ["a topic with a wildcard [MQTT-3.3.2-2]", publish("devices/+/t"), "disconnect", 0x81],
  ["a topic with a NUL [MQTT-1.5.4-2]", publish("a\0b"), "disconnect", 0x81],
  [
    "a topic that is a surrogate [MQTT-1.5.4-1]",
    publish(Uint8Array.of(0xed, 0xa0, 0x80)),
    "disconnect",
    0x81,
  ],
  ["no topic and no alias", publish(""), "disconnect", 0x82],
  ["a topic alias: none was offered [MQTT-3.3.2-9]", publish(T, [0x23, 0, 1]), "disconnect", 0x94],
  ["a subscription identifier [MQTT-3.3.4-6]", publish(T, [0x0b, 1]), "disconnect", 0x82],
  ["a response topic with a wildcard [MQTT-3.3.2-14]", publish(T, [8, ...text("a/#")]), "disconnect", 0x82],
  ["a payload format that is neither 0 nor 1", publish(T, [1, 2]), "disconnect", 0x82],
  ["properties beyond the packet", packet(0x32, T, [0, 1, 0x7f]), "disconnect", 0x81],
  ["a user property that is not UTF-8", publish(T, [0x26, 0, 1, 0xff, 0, 0]), "disconnect", 0x81],
  ["a length of five bytes", Buffer.from([0x30, 255, 255, 255, 255, 1]), "disconnect", 0x81],
  ["a packet that is too large", Buffer.from([0x30, 255, 255, 255, 127]), "disconnect", 0x95],
  ["SUBSCRIBE with flags 0 [MQTT-3.8.1-1]", packet(0x80, [0, 1, 0], "a", [0]), "disconnect", 0x81],
  ["SUBSCRIBE of nothing [MQTT-3.8.3-2]", packet(0x82, [0, 1, 0]), "disconnect", 0x82],
  ["SUBSCRIBE with reserved bits", packet(0x82, [0, 1, 0], "a", [0x40]), "disconnect", 0x81],
  ["retain handling 3", packet(0x82, [0, 1, 0], "a", [0x30]), "disconnect", 0x82],
  ["subscription identifier 0", packet(0x82, [0, 1, 2, 0x0b, 0], "a", [0]), "disconnect", 0x82],
  ["UNSUBSCRIBE of nothing [MQTT-3.10.3-2]", packet(0xa2, [0, 1, 0]), "disconnect", 0x82],
  ["PUBREL with flags 0 [MQTT-3.6.1-1]", packet(0x60, [0, 1]), "disconnect", 0x81],
  ["PINGREQ with a body", packet(0xc0, [0]), "disconnect", 0x81],
  ["a session that is to be kept after all", packet(0xe0, [0, 5, 0x11, 0, 0, 0, 9]), "disconnect", 0x82],
];

/** MQTT 3.1.1 has no words for it: the connection ends [MQTT-4.8.0-1]. */
const FOUR: readonly (readonly [what: string, bytes: Buffer])[] = [
  ["a second CONNECT", hello({ level: 4 })],
  ["a topic with a NUL", packet(0x30, "a\0b")],
  ["an empty topic", packet(0x30, "")],
  ["a topic with a wildcard", packet(0x30, "a/#")],
  ["options of MQTT 5 in SUBSCRIBE [MQTT-3.8.3-4]", packet(0x82, [0, 1], "a", [4])],
  ["a DISCONNECT with a body", packet(0xe0, [0])],
];

describe("what a client may not send", () => {
  const count = new StageCount("source", "devices", "messages");
  const broker = new EmbeddedBroker(
    brokerSchema.parse({ port: 0 }),
    sourcesSchema.parse({}).devices,
    count,
    () => {},
  );
  beforeAll(() =>
    broker.start(
      { message: ({ settle }) => settle?.("committed"), frame: () => true },
      new AbortController().signal,
    ),
  );
  afterAll(() => broker.close());

  /** All that comes until the connection ends. */
  async function answerTo(...packets: readonly Buffer[]): Promise<Buffer> {
    const socket = connect(broker.address?.port ?? 0, "127.0.0.1");
    const parts: Buffer[] = [];
    socket.on("data", (part) => parts.push(Buffer.from(part))).on("error", () => {});
    const closed = once(socket, "close");
    for (const bytes of packets) socket.write(bytes);
    await closed;
    return Buffer.concat(parts);
  }

  it.each(FIVE)("MQTT 5: %s", async (_what, bytes, answer, reason) => {
    const refused = count.also["refused"] ?? 0;
    const got = [...(await answerTo(...(answer === "connack" ? [] : [hello()]), bytes))];
    // What comes before a DISCONNECT is the CONNACK.
    if (answer === "connack") expect(got).toEqual([0x20, 3, 0, reason, 0]);
    else expect(got.slice(2 + (got[1] ?? 0))).toEqual([0xe0, 1, reason]);
    expect(count.also["refused"]).toBe(refused + 1);
  });

  it.each(FOUR)("MQTT 3.1.1: %s", async (_what, bytes) => {
    expect([...(await answerTo(hello({ level: 4 }), bytes))]).toEqual([0x20, 2, 0, 0]);
  });

  it("a first packet that is no CONNECT is answered with the end alone [MQTT-3.1.0-1]", async () => {
    expect(await answerTo(publish(T))).toHaveLength(0);
  });
});
