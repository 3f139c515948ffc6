/** The packets that MQTT clients are sent, as bytes; clauses are cited as in mqtt-wire.ts. */
import { Reason, Type, type Version } from "./mqtt-wire.ts";

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

/**
 * CONNACK: the client is accepted, `present` says whether its session was there, and `properties` (MQTT 5) what this broker does and
 * doesn't.
 */
export function encodeAccept(version: Version, present: boolean, properties: readonly Written[]): Buffer {
  const flags = present ? 1 : 0;
  if (version !== 5) return Buffer.from([Type.connack << 4, 2, flags, 0]);
  const list = encodeProperties(encodePropertyList(properties));
  return encodePacket(Type.connack << 4, [flags, Reason.success], list);
}

/** CONNACK: the client is refused. MQTT 3.1.1 gets the return code that comes nearest to the reason. */
export function encodeRefusal(version: Version, reason: number): Buffer {
  if (version === 5) return encodePacket(Type.connack << 4, [0, reason], [0]);
  return Buffer.from([Type.connack << 4, 2, 0, RETURN_CODES.get(reason) ?? 5]);
}

/** MQTT 3.1.1's return codes (3.2.2.3) for reasons; what is not here is 5, not authorised. */
const RETURN_CODES = new Map<number, number>([
  [Reason.unsupportedVersion, 1],
  [Reason.clientId, 2],
  [Reason.busy, 3],
  [Reason.quota, 3],
  [Reason.badLogin, 4],
]);
