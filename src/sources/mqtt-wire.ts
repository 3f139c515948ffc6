/**
 * The words of MQTT on the wire, as far as a broker needs them: 3.1, 3.1.1 (protocol levels 3, 4) and 5. Clauses of 3.1.1 are
 * cited as [MQTT-…], those of MQTT 5.0 as [5: …]. Reading never throws: what is malformed sets {@link Reader.bad}. Packets made
 * of them are in mqtt-read.ts (what clients send) and mqtt-write.ts (what they are sent).
 * [5: 4.13] tells malformed packets from protocol errors: {@link Reader.reason}.
 */
import { isUtf8 } from "node:buffer";

/** Protocol level of a connection; 3 is treated as 4. */
export type Version = 3 | 4 | 5;

/** Packet types, as in the high half of the first byte (2.2.1). */
export const Type = {
  connect: 1,
  connack: 2,
  publish: 3,
  puback: 4,
  pubrec: 5,
  pubrel: 6,
  pubcomp: 7,
  subscribe: 8,
  suback: 9,
  unsubscribe: 10,
  unsuback: 11,
  pingreq: 12,
  pingresp: 13,
  disconnect: 14,
} as const;

/** Reason codes [5: 2.4]. */
export const Reason = {
  success: 0x00,
  withWill: 0x04,
  noSubscription: 0x11,
  malformed: 0x81,
  protocolError: 0x82,
  unspecified: 0x80,
  unsupportedVersion: 0x84,
  clientId: 0x85,
  badLogin: 0x86,
  notAuthorized: 0x87,
  busy: 0x89,
  shuttingDown: 0x8b,
  badMethod: 0x8c,
  keepAlive: 0x8d,
  takenOver: 0x8e,
  filterInvalid: 0x8f,
  topicInvalid: 0x90,
  unknownId: 0x92,
  receiveMaximum: 0x93,
  topicAlias: 0x94,
  packetTooLarge: 0x95,
  quota: 0x97,
  payloadInvalid: 0x99,
  noSharing: 0x9e,
  noSubscriptionIds: 0xa1,
} as const;

/** Properties that carry meaning here [5: 2.2.2.2]. */
export const Property = {
  messageExpiry: 0x02,
  willDelay: 0x18,
  sessionExpiry: 0x11,
  assignedClientId: 0x12,
  authMethod: 0x15,
  authData: 0x16,
  subscriptionId: 0x0b,
  receiveMaximum: 0x21,
  topicAlias: 0x23,
  topicAliasMaximum: 0x22,
  maximumPacketSize: 0x27,
  contentType: 0x03,
  responseTopic: 0x08,
  userProperty: 0x26,
  sharedAvailable: 0x2a,
} as const;

type Layout = "byte" | "two" | "four" | "varint" | "text" | "binary" | "pair";
/** How a property's value is laid out [5: Table 2-4]; what is not here is malformed. */
const LAYOUT = new Map<number, Layout>([
  [0x01, "byte"],
  [0x02, "four"],
  [0x03, "text"],
  [0x08, "text"],
  [0x09, "binary"],
  [0x0b, "varint"],
  [0x11, "four"],
  [0x12, "text"],
  [0x13, "two"],
  [0x15, "text"],
  [0x16, "binary"],
  [0x17, "byte"],
  [0x18, "four"],
  [0x19, "byte"],
  [0x1a, "text"],
  [0x1c, "text"],
  [0x1f, "text"],
  [0x21, "two"],
  [0x22, "two"],
  [0x23, "two"],
  [0x24, "byte"],
  [0x25, "byte"],
  [0x26, "pair"],
  [0x27, "four"],
  [0x28, "byte"],
  [0x29, "byte"],
  [0x2a, "byte"],
]);

/** Which properties a packet may have [5: Table 2-4]. Clients send no others. */
const ALLOWED = {
  connect: new Set([0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27]),
  will: new Set([0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26]),
  publish: new Set([0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26]),
  subscribe: new Set([0x0b, 0x26]),
  unsubscribe: new Set([0x26]),
  ack: new Set([0x1f, 0x26]),
  disconnect: new Set([0x11, 0x1f, 0x26]),
} as const;
/** What goes with a message to its subscribers, unaltered [5: MQTT-3.3.2-4, -15 to -18, -20]. */
const FORWARDED = new Set([0x01, 0x03, 0x08, 0x09, 0x26]);

/** Properties of a packet. */
export interface Properties {
  /** by identifier, numbers and texts alone */
  readonly values: ReadonlyMap<number, number | string>;
  /** those that go with a message to its subscribers, as bytes of their own */
  readonly forwarded: Buffer;
  /** user property `traceparent`, the last one there is */
  readonly traceparent: string | undefined;
}

/** Reads fields of a packet's body. Past its end, or on malformed fields, it answers nothing and stays `bad`. */
export class Reader {
  readonly #bytes: Buffer;
  readonly #end: number;
  at: number;
  bad = false;
  /** of what is bad: `malformed`, or `protocolError` for what can be read and may not be said */
  reason: number = Reason.malformed;

  constructor(bytes: Buffer, from: number, to: number) {
    this.#bytes = bytes;
    this.at = from;
    this.#end = to;
  }

  get left(): number {
    return this.#end - this.at;
  }

  byte(): number {
    return this.#take(1) ? (this.#bytes[this.at - 1] ?? 0) : 0;
  }

  two(): number {
    return this.#take(2) ? this.#bytes.readUInt16BE(this.at - 2) : 0;
  }

  four(): number {
    return this.#take(4) ? this.#bytes.readUInt32BE(this.at - 4) : 0;
  }

  /** A variable byte integer (2.2.3; [5: 1.5.5]). */
  varint(): number {
    let value = 0;
    for (let place = 0; place < 4; place++) {
      const byte = this.byte();
      value += (byte & 127) * 128 ** place;
      if (byte < 128) return value;
    }
    this.bad = true;
    return 0;
  }

  /** Binary data: two bytes of length, then so many. */
  binary(): Buffer {
    const length = this.two();
    return this.#take(length) ? this.#bytes.subarray(this.at - length, this.at) : EMPTY;
  }

  /** A UTF-8 string without NUL [MQTT-1.5.3-1, -2]. */
  text(): string {
    const bytes = this.binary();
    if (!isUtf8(bytes) || bytes.includes(0)) this.bad = true;
    return this.bad ? "" : bytes.toString();
  }

  /** Properties with their length before them. One that may not be there is malformed, one that is there twice a breach [5: 2.2.2.2]. */
  properties(packet: keyof typeof ALLOWED): Properties {
    const length = this.varint();
    if (!this.bad && length === 0) return NO_PROPERTIES;
    if (length > this.left) this.bad = true;
    const values = new Map<number, number | string>();
    const forwarded: Buffer[] = [];
    let traceparent: string | undefined;
    const end = this.at + length;
    while (!this.bad && this.at < end) {
      const from = this.at;
      const id = this.byte();
      if (!ALLOWED[packet].has(id)) this.bad = true;
      else if (values.has(id)) this.breach(); // [5: 2.2.2.2]
      const value = this.#property(LAYOUT.get(id));
      if (id === Property.responseTopic && !isTopicName(String(value))) this.breach(); // [5: MQTT-3.3.2-14]
      if (id !== Property.userProperty) values.set(id, value);
      else if (value !== "") traceparent = String(value);
      if (FORWARDED.has(id)) forwarded.push(this.#bytes.subarray(from, this.at));
    }
    if (this.at !== end) this.bad = true;
    return { values, forwarded: Buffer.concat(forwarded), traceparent };
  }

  #property(layout: Layout | undefined): number | string {
    switch (layout) {
      case "byte": {
        const value = this.byte();
        if (value > 1) this.breach(); // all that clients send are flags
        return value;
      }
      case "two":
        return this.two();
      case "four":
        return this.four();
      case "varint":
        return this.varint();
      case "text":
        return this.text();
      case "binary":
        this.binary();
        return "";
      case "pair": {
        const name = this.text();
        const value = this.text();
        return name === "traceparent" ? value : "";
      }
      default:
        this.bad = true;
        return 0;
    }
  }

  /** What was read may not be said. */
  breach(): void {
    if (!this.bad) this.reason = Reason.protocolError;
    this.bad = true;
  }

  #take(bytes: number): boolean {
    if (this.bad || bytes > this.#end - this.at) {
      this.bad = true;
      return false;
    }
    this.at += bytes;
    return true;
  }
}

/** Whether text can be a topic's name: not empty, no wildcard [MQTT-4.7.3-1, 3.3.2-2]; it is UTF-8 without NUL. */
export const isTopicName = (text: string): boolean => text !== "" && !/[+#]/.test(text);

const EMPTY = Buffer.alloc(0);
/** None. */
export const NO_PROPERTIES: Properties = { values: new Map(), forwarded: EMPTY, traceparent: undefined };
/** A property that is a number, where it is there. */
export const numberOf = ({ values }: Properties, id: number): number | undefined => {
  const value = values.get(id);
  return typeof value === "number" ? value : undefined;
};
