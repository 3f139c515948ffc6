/** The packets that MQTT clients send, read from bytes; clauses are cited as in mqtt-wire.ts. Nothing here throws. */
import { readTraceparent } from "../core/trace.ts";
import { isTopicName, NO_PROPERTIES, numberOf, Property, Reader, Reason, type Version } from "./mqtt-wire.ts";

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
const FOR_EVER_S: number = 2 ** 32 - 1;

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
  if (reader.bad || reader.left > 0) return reader.reason;
  if (will !== undefined && !isTopicName(will.topic)) return Reason.topicInvalid;
  const clean = (flags & 2) !== 0;
  const receiveMaximum = numberOf(properties, Property.receiveMaximum) ?? 65_535;
  const maximumPacketSize = numberOf(properties, Property.maximumPacketSize) ?? 2 ** 32 - 1;
  if (receiveMaximum === 0 || maximumPacketSize === 0) return Reason.protocolError; // [5: 3.1.2.11.3, .4]
  if (properties.values.has(Property.authMethod)) return Reason.badMethod; // [5: 4.12]
  if (properties.values.has(Property.authData)) return Reason.protocolError; // [5: 3.1.2.11.10]
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

/** Reads the body of a SUBSCRIBE packet. A number is the reason code that its sender is to be disconnected with. */
export function readSubscribe(bytes: Buffer, from: number, to: number, version: Version): Subscribe | number {
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
    if (qos === 3 || (options & (version === 5 ? 0xc0 : 0xfc)) !== 0) return Reason.malformed;
    if (handling === 3) reader.breach(); // [5: 3.8.3.1]
    wanted.push({
      filter,
      qos: qos === 0 ? 0 : qos === 1 ? 1 : 2,
      noLocal: (options & 4) !== 0,
      asPublished: (options & 8) !== 0,
      handling: handling === 0 ? 0 : handling === 1 ? 1 : 2,
    });
  }
  if (wanted.length === 0 || subscriptionId === 0) reader.breach(); // [MQTT-3.8.3-3]; [5: 3.8.2.1.2, 3.8.3]
  if (id === 0) return Reason.malformed; // [MQTT-2.3.1-1]
  if (reader.bad) return reader.reason;
  return { id, wanted, subscriptionId };
}

/** Reads the body of an UNSUBSCRIBE packet. A number is the reason code that its sender is to be disconnected with. */
export function readUnsubscribe(
  bytes: Buffer,
  from: number,
  to: number,
  version: Version,
): { readonly id: number; readonly filters: readonly string[] } | number {
  const reader = new Reader(bytes, from, to);
  const id = reader.two();
  if (version === 5) reader.properties("unsubscribe");
  const filters: string[] = [];
  while (!reader.bad && reader.left > 0) filters.push(reader.text());
  if (filters.length === 0) reader.breach(); // [MQTT-3.10.3-2]
  if (id === 0) return Reason.malformed;
  return reader.bad ? reader.reason : { id, filters };
}

/** What stands between a PUBLISH's topic and its payload in MQTT 5. */
export interface PublishAbout {
  /** where the payload begins */
  readonly end: number;
  readonly expiryS: number | undefined;
  readonly forwarded: Buffer;
  /** W3C trace context, where there is a valid one */
  readonly trace: string | undefined;
}

/** Reads the properties of a PUBLISH. A number is the reason code that its sender is to be disconnected with. */
export function readPublishProperties(bytes: Buffer, from: number, to: number): PublishAbout | number {
  const reader = new Reader(bytes, from, to);
  const properties = reader.properties("publish");
  if (reader.bad) return reader.reason;
  // CONNACK said that there are none [5: MQTT-3.3.2-9].
  if (properties.values.has(Property.topicAlias)) return Reason.topicAlias;
  // Only the broker sends it [5: MQTT-3.3.4-6].
  if (properties.values.has(Property.subscriptionId)) return Reason.protocolError;
  const expiryS = numberOf(properties, Property.messageExpiry);
  const { forwarded, traceparent } = properties;
  const trace = traceparent === undefined ? undefined : readTraceparent(traceparent);
  return { end: reader.at, expiryS, forwarded, trace };
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
