/** A message on its way to subscribers. */
import type { Outgoing } from "../core/ports.ts";
import { Property } from "./mqtt-wire.ts";
import { encodePropertyList, type Written } from "./mqtt-write.ts";

/** What a subscriber is to get. */
export interface Delivery {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: 0 | 1 | 2;
  readonly retain: boolean;
  /** MQTT 5 properties that go along unaltered, without their length */
  readonly properties: Buffer;
  /** milliseconds since the Unix epoch when it is of no use any more; infinite: never */
  readonly expiresMs: number;
}

/** No properties. */
export const NOTHING: Buffer = Buffer.alloc(0);

/** When a message expires that does so in so many seconds. */
export const expiry = (seconds: number | undefined): number =>
  seconds === undefined ? Number.POSITIVE_INFINITY : Date.now() + seconds * 1000;

/** What Weir itself publishes. */
export function ownDelivery({
  topic,
  payload,
  qos,
  retain,
  contentType,
  userProperties,
}: Outgoing): Delivery {
  const written: Written[] = [];
  if (contentType !== undefined) written.push({ id: Property.contentType, text: contentType });
  for (const pair of Object.entries(userProperties ?? {})) written.push({ id: Property.userProperty, pair });
  const properties = written.length === 0 ? NOTHING : encodePropertyList(written);
  return { topic, payload, qos, retain, properties, expiresMs: Number.POSITIVE_INFINITY };
}
