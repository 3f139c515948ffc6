/**
 * MQTT packets as bytes, as far as a broker needs them: 3.1, 3.1.1 (protocol levels 3, 4) and 5. Clauses of 3.1.1 are
 * cited as [MQTT-…], those of MQTT 5.0 as [5: …]. Reading never throws: what is malformed sets {@link Reader.bad}.
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
  subscriptionId: 0x0b,
  receiveMaximum: 0x21,
  topicAlias: 0x23,
  topicAliasMaximum: 0x22,
  maximumPacketSize: 0x27,
  contentType: 0x03,
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
}

/** Reads fields of a packet's body. Past its end, or on malformed fields, it answers nothing and stays `bad`. */
export class Reader {
  readonly #bytes: Buffer;
  readonly #end: number;
  at: number;
  bad = false;

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

  /** Properties with their length before them. One that may not be there, or is there twice, is malformed [5: 2.2.2.2]. */
  properties(packet: keyof typeof ALLOWED): Properties {
    const length = this.varint();
    if (!this.bad && length === 0) return NO_PROPERTIES;
    if (length > this.left) this.bad = true;
    const values = new Map<number, number | string>();
    const forwarded: Buffer[] = [];
    const end = this.at + length;
    while (!this.bad && this.at < end) {
      const from = this.at;
      const id = this.byte();
      if (!ALLOWED[packet].has(id) || values.has(id)) this.bad = true;
      const value = this.#property(LAYOUT.get(id));
      if (id !== Property.userProperty) values.set(id, value);
      if (FORWARDED.has(id)) forwarded.push(this.#bytes.subarray(from, this.at));
    }
    if (this.at !== end) this.bad = true;
    return { values, forwarded: Buffer.concat(forwarded) };
  }

  #property(layout: Layout | undefined): number | string {
    switch (layout) {
      case "byte": {
        const value = this.byte();
        if (value > 1) this.bad = true; // all that clients send are flags
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
      case "pair":
        this.text();
        this.text();
        return "";
      default:
        this.bad = true;
        return 0;
    }
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

const EMPTY = Buffer.alloc(0);
const NO_PROPERTIES: Properties = { values: new Map(), forwarded: EMPTY };
const numberOf = ({ values }: Properties, id: number): number | undefined => {
  const value = values.get(id);
  return typeof value === "number" ? value : undefined;
};

/** A will, as CONNECT brings it. */
export interface Will {
  readonly topic: string;
  readonly payload: Buffer;
  readonly qos: 0 | 1 | 2;
  readonly retain: boolean;
  /** seconds that it waits for the client to come back [5: 3.1.3.2.2] */
  readonly delayS: number;
  /** seconds after which it is of no use any more, from when it is published */
  readonly expiryS: number | undefined;
  /** what goes with it to subscribers */
  readonly properties: Buffer;
}

/** What a CONNECT says. */
export interface Connect {
  readonly version: Version;
  readonly clean: boolean;
  readonly keepAliveS: number;
  readonly clientId: string;
  readonly will: Will | undefined;
  readonly username: string | undefined;
  readonly password: Buffer | undefined;
  /** QoS 1 and 2 messages that may be on the way to the client at a time */
  readonly receiveMaximum: number;
  /** greatest whole packet that the client takes, in bytes */
  readonly maximumPacketSize: number;
  /** seconds for which its session is to be kept once the connection is gone */
  readonly sessionExpiryS: number;
}

/** A session that is kept for as long as the broker keeps any [5: 3.1.2.11.2]; what `clean session: 0` of 3.1.1 means. */
export const FOR_EVER_S: number = 2 ** 32 - 1;

/**
 * Reads the body of a CONNECT packet, all of it. The will's payload is copied.
 * @returns the reason code when it is to be refused: `malformed` (no answer but the end), or one that a CONNACK carries
 */
export function readConnect(bytes: Buffer, from: number, to: number): Connect | number {
  const reader = new Reader(bytes, from, to);
  const name = reader.text();
  const level = reader.byte();
  if (reader.bad || (name !== "MQTT" && name !== "MQIsdp")) return Reason.malformed; // [MQTT-3.1.2-1]
  if (level !== (name === "MQTT" ? (level === 5 ? 5 : 4) : 3)) return Reason.unsupportedVersion; // [MQTT-3.1.2-2]
  const version: Version = level === 5 ? 5 : level === 4 ? 4 : 3;
  const flags = reader.byte();
  const keepAliveS = reader.two();
  const hasWill = (flags & 4) !== 0;
  const qos = (flags >> 3) & 3;
  const hasName = (flags & 128) !== 0;
  const hasPassword = (flags & 64) !== 0;
  if ((flags & 1) !== 0) return Reason.malformed; // [MQTT-3.1.2-3]
  if (qos === 3 || (!hasWill && (flags & 0x38) !== 0)) return Reason.malformed; // [MQTT-3.1.2-13 to -15]
  if (version < 5 && hasPassword && !hasName) return Reason.malformed; // [MQTT-3.1.2-22]
  const properties = version === 5 ? reader.properties("connect") : NO_PROPERTIES;
  const clientId = reader.text();
  let will: Will | undefined;
  if (hasWill) {
    const about = version === 5 ? reader.properties("will") : NO_PROPERTIES;
    const topic = reader.text();
    const payload = Buffer.from(reader.binary());
    will = {
      topic,
      payload,
      qos: qos === 0 ? 0 : qos === 1 ? 1 : 2,
      retain: (flags & 32) !== 0,
      delayS: numberOf(about, Property.willDelay) ?? 0,
      expiryS: numberOf(about, Property.messageExpiry),
      properties: about.forwarded,
    };
  }
  const username = hasName ? reader.text() : undefined;
  const password = hasPassword ? reader.binary() : undefined;
  if (reader.bad || reader.left > 0) return Reason.malformed;
  const clean = (flags & 2) !== 0;
  const receiveMaximum = numberOf(properties, Property.receiveMaximum) ?? 65_535;
  const maximumPacketSize = numberOf(properties, Property.maximumPacketSize) ?? 2 ** 32 - 1;
  if (receiveMaximum === 0 || maximumPacketSize === 0) return Reason.protocolError; // [5: 3.1.2.11.3, .4]
  if (properties.values.has(Property.authMethod)) return Reason.badMethod; // [5: 4.12]
  const kept = version === 5 ? (numberOf(properties, Property.sessionExpiry) ?? 0) : clean ? 0 : FOR_EVER_S;
  return {
    version,
    clean,
    keepAliveS,
    clientId,
    will,
    username,
    password,
    receiveMaximum,
    maximumPacketSize,
    sessionExpiryS: kept,
  };
}

/** One subscription of a SUBSCRIBE packet. */
export interface Wanted {
  readonly filter: string;
  readonly qos: 0 | 1 | 2;
  /** MQTT 5: not what the client itself publishes; retain flag as published; 0 send retained, 1 only when new, 2 never */
  readonly noLocal: boolean;
  readonly asPublished: boolean;
  readonly handling: 0 | 1 | 2;
}

/** A SUBSCRIBE packet. */
export interface Subscribe {
  readonly id: number;
  readonly wanted: readonly Wanted[];
  readonly subscriptionId: number | undefined;
}

/** Reads the body of a SUBSCRIBE packet, or answers undefined when it is malformed. */
export function readSubscribe(
  bytes: Buffer,
  from: number,
  to: number,
  version: Version,
): Subscribe | undefined {
  const reader = new Reader(bytes, from, to);
  const id = reader.two();
  const subscriptionId =
    version === 5 ? numberOf(reader.properties("subscribe"), Property.subscriptionId) : undefined;
  const wanted: Wanted[] = [];
  while (!reader.bad && reader.left > 0) {
    const filter = reader.text();
    const options = reader.byte();
    const qos = options & 3;
    const handling = (options >> 4) & 3;
    // [MQTT-3.8.3-4]; [5: MQTT-3.8.3-5]
    if (qos === 3 || handling === 3 || (options & (version === 5 ? 0xc0 : 0xfc)) !== 0) return undefined;
    wanted.push({
      filter,
      qos: qos === 0 ? 0 : qos === 1 ? 1 : 2,
      noLocal: (options & 4) !== 0,
      asPublished: (options & 8) !== 0,
      handling: handling === 0 ? 0 : handling === 1 ? 1 : 2,
    });
  }
  // [MQTT-2.3.1-1, 3.8.3-3]; [5: 3.8.2.1.2]
  if (reader.bad || id === 0 || wanted.length === 0 || subscriptionId === 0) return undefined;
  return { id, wanted, subscriptionId };
}

/** Reads the body of an UNSUBSCRIBE packet, or answers undefined when it is malformed. */
export function readUnsubscribe(
  bytes: Buffer,
  from: number,
  to: number,
  version: Version,
): { readonly id: number; readonly filters: readonly string[] } | undefined {
  const reader = new Reader(bytes, from, to);
  const id = reader.two();
  if (version === 5) reader.properties("unsubscribe");
  const filters: string[] = [];
  while (!reader.bad && reader.left > 0) filters.push(reader.text());
  return reader.bad || id === 0 || filters.length === 0 ? undefined : { id, filters }; // [MQTT-3.10.3-2]
}

/** What stands between a PUBLISH's topic and its payload in MQTT 5. */
export interface PublishAbout {
  /** where the payload begins */
  readonly end: number;
  readonly expiryS: number | undefined;
  readonly forwarded: Buffer;
}

/** Reads the properties of a PUBLISH. A number is the reason code that its sender is to be disconnected with. */
export function readPublishProperties(bytes: Buffer, from: number, to: number): PublishAbout | number {
  const reader = new Reader(bytes, from, to);
  const properties = reader.properties("publish");
  if (reader.bad) return Reason.malformed;
  // CONNACK said that there are none [5: MQTT-3.3.2-9].
  if (properties.values.has(Property.topicAlias)) return Reason.topicAlias;
  // Only the broker sends it [5: MQTT-3.3.4-6].
  if (properties.values.has(Property.subscriptionId)) return Reason.protocolError;
  const expiryS = numberOf(properties, Property.messageExpiry);
  return { end: reader.at, expiryS, forwarded: properties.forwarded };
}

/** Reads PUBACK, PUBREC, PUBREL or PUBCOMP: identifier and reason code, or undefined when it is malformed. */
export function readAck(
  bytes: Buffer,
  from: number,
  to: number,
  version: Version,
): { readonly id: number; readonly reason: number } | undefined {
  const reader = new Reader(bytes, from, to);
  const id = reader.two();
  const reason = version === 5 && reader.left > 0 ? reader.byte() : Reason.success;
  if (version === 5 && reader.left > 0) reader.properties("ack");
  return reader.bad || reader.left > 0 || id === 0 ? undefined : { id, reason };
}

/** Reads a DISCONNECT: its reason code, and the session's expiry if it changes that; undefined when it is malformed. */
export function readDisconnect(
  bytes: Buffer,
  from: number,
  to: number,
  version: Version,
): { readonly reason: number; readonly sessionExpiryS: number | undefined } | undefined {
  const reader = new Reader(bytes, from, to);
  const reason = version === 5 && reader.left > 0 ? reader.byte() : Reason.success;
  const properties = version === 5 && reader.left > 0 ? reader.properties("disconnect") : NO_PROPERTIES;
  if (reader.bad || reader.left > 0) return undefined;
  return { reason, sessionExpiryS: numberOf(properties, Property.sessionExpiry) };
}

/** Why `filter` is no topic filter (4.7.1), or undefined when it is one. */
export function filterProblem(filter: string): string | undefined {
  if (filter === "") return "is empty"; // [MQTT-4.7.3-1]
  const levels = filter.split("/");
  if (levels.some((level) => level.length > 1 && /[+#]/.test(level))) return "has + or # inside a level";
  return levels.indexOf("#") === -1 || levels.indexOf("#") === levels.length - 1
    ? undefined
    : "has # before its end";
}

/** A property to be written. */
export type Written =
  | { readonly id: number; readonly byte: number }
  | { readonly id: number; readonly two: number }
  | { readonly id: number; readonly four: number }
  | { readonly id: number; readonly varint: number }
  | { readonly id: number; readonly text: string }
  | { readonly id: number; readonly pair: readonly [string, string] };

function varint(value: number): number[] {
  const bytes: number[] = [];
  let left = value;
  do {
    bytes.push((left & 127) | (left > 127 ? 128 : 0));
    left >>>= 7;
  } while (left > 0);
  return bytes;
}

function field(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes]);
}

/** Properties without their length before them [5: 2.2.2]. */
export function encodePropertyList(properties: readonly Written[]): Buffer {
  return Buffer.concat(
    properties.flatMap((property) => {
      const parts: (Buffer | number[])[] = [[property.id]];
      if ("byte" in property) parts.push([property.byte]);
      else if ("two" in property) parts.push([property.two >> 8, property.two & 255]);
      else if ("four" in property) {
        const four = Buffer.alloc(4);
        four.writeUInt32BE(property.four);
        parts.push(four);
      } else if ("varint" in property) parts.push(varint(property.varint));
      else if ("text" in property) parts.push(field(property.text));
      else parts.push(field(property.pair[0]), field(property.pair[1]));
      return parts.map((part) => Buffer.from(part));
    }),
  );
}

/** Lists of properties as one, with its length before it. */
export function encodeProperties(...lists: readonly Buffer[]): Buffer {
  const bytes = lists.reduce((sum, { length }) => sum + length, 0);
  return Buffer.concat([Buffer.from(varint(bytes)), ...lists]);
}

/** A whole packet: first byte, remaining length, parts. */
export function encodePacket(first: number, ...parts: readonly (Uint8Array | readonly number[])[]): Buffer {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part)));
  return Buffer.concat([Buffer.from([first, ...varint(body.length)]), body]);
}

/** What stands before a PUBLISH's payload (3.3), and where in it the packet identifier is. */
export function encodePublishHead(
  topic: Buffer,
  payloadBytes: number,
  qos: number,
  retain: boolean,
  properties: Buffer | undefined,
): { readonly head: Buffer; readonly idAt: number } {
  const rest = 2 + topic.length + (qos > 0 ? 2 : 0) + (properties?.length ?? 0);
  const fixed = [(Type.publish << 4) | (qos << 1) | (retain ? 1 : 0), ...varint(rest + payloadBytes)];
  const head = Buffer.allocUnsafe(fixed.length + rest);
  head.set(fixed);
  let at = head.writeUInt16BE(topic.length, fixed.length);
  head.set(topic, at);
  at += topic.length;
  const idAt = at;
  if (qos > 0) at += 2;
  if (properties !== undefined) head.set(properties, at);
  return { head, idAt };
}
