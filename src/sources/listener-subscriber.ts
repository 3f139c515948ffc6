/**
 * A client's subscriptions, and what is on its way to it. Sessions end with their connection, so nothing is sent twice and
 * nothing is queued: a message is written, or missed and counted.
 */

import type { RetainedMessage } from "./broker-retained.ts";
import type { FanOut, Subscription } from "./fan-out.ts";
import type { ClientConnection } from "./listener-connection.ts";
import {
  encodePacket,
  encodeProperties,
  encodePublishHead,
  filterProblem,
  Property,
  Reason,
  readSubscribe,
  readUnsubscribe,
  Type,
  type Wanted,
  type Written,
} from "./mqtt-wire.ts";

/** Bytes written to a subscriber and not yet taken, at which Weir's own publishing waits for it … */
export const SLOW_BYTES = 256 * 1024;
/** … and at which messages are no longer written to it. */
const SHED_BYTES = 4 * 1024 * 1024;
/** Longest topic filter, in characters, and its levels. */
const FILTER_LENGTH = 1024;
const FILTER_LEVELS = 64;
/** Payloads up to this are copied behind their header: one write instead of two, and nothing else is kept alive by them. */
const COPIED_BYTES = 4096;

/** What a subscriber asks of the broker. */
export interface SubscriberHost {
  readonly fanOut: FanOut;
  /** subscriptions of one client, at most */
  readonly subscriptions: number;
  /** Why a client may not have a subscription, as a reason code, or undefined. */
  maySubscribe(connection: ClientConnection, filter: string): number | undefined;
  /** A message was not written to it. */
  shed(): void;
  /** It has not taken what was written. */
  slow(connection: ClientConnection): void;
}

/** A message on its way to subscribers. */
export interface Delivery {
  readonly topic: string;
  readonly topicBytes: Buffer;
  readonly payload: Uint8Array;
  readonly qos: 0 | 1 | 2;
  readonly retain: boolean;
  /** for MQTT 5 */
  readonly contentType: string | undefined;
  readonly userProperties: Readonly<Record<string, string>> | undefined;
}

/** The way to one client. */
export class Subscriber {
  readonly connection: ClientConnection;
  readonly #host: SubscriberHost;
  readonly #filters = new Map<string, Subscription>();
  /** a bit for each packet identifier that is on the way */
  #onTheWay: Uint8Array | undefined;
  #count = 0;
  #lastId = 0;

  constructor(connection: ClientConnection, host: SubscriberHost) {
    this.connection = connection;
    this.#host = host;
  }

  /** Takes a SUBSCRIBE's body. False when it is malformed. */
  subscribe(bytes: Buffer, from: number, to: number): boolean {
    const { connection } = this;
    const packet = readSubscribe(bytes, from, to, connection.version);
    if (packet === undefined) return false;
    const five = connection.version === 5;
    const fresh: Subscription[] = [];
    const answers = packet.wanted.map((wanted) => {
      const refusal = this.#refuse(wanted.filter);
      // [MQTT-3.9.3-1]: 0x80 is all that 3.1.1 can say.
      if (refusal !== undefined) return five ? refusal : 0x80;
      const before = this.#filters.get(wanted.filter);
      const next = this.#add(wanted, packet.subscriptionId);
      if (wanted.handling === 0 || (wanted.handling === 1 && before === undefined)) fresh.push(next);
      return wanted.qos;
    });
    const { id } = packet;
    connection.write(encodePacket(Type.suback << 4, [id >> 8, id & 255], five ? [0] : [], answers));
    if (fresh.length > 0) void this.#sendRetained(fresh);
    return true;
  }

  /** Takes an UNSUBSCRIBE's body. False when it is malformed. */
  unsubscribe(bytes: Buffer, from: number, to: number): boolean {
    const { connection } = this;
    const packet = readUnsubscribe(bytes, from, to, connection.version);
    if (packet === undefined) return false;
    const answers = packet.filters.map((filter) => {
      const known = this.#filters.get(filter);
      if (known === undefined) return Reason.noSubscription;
      this.#filters.delete(filter);
      this.#host.fanOut.remove(known);
      return Reason.success;
    });
    const { id } = packet;
    const rest = connection.version === 5 ? [0, ...answers] : [];
    connection.write(encodePacket(Type.unsuback << 4, [id >> 8, id & 255], rest));
    return true;
  }

  /** PUBACK, PUBREC or PUBCOMP of the client; `failed`: its reason code is an error's. */
  acknowledged(type: number, id: number, failed: boolean): void {
    const bits = this.#onTheWay?.[id >> 3] ?? 0;
    const known = (bits & (1 << (id & 7))) !== 0;
    if (type === Type.pubrec && !failed) {
      this.connection.write(Buffer.from([(Type.pubrel << 4) | 2, 2, id >> 8, id & 255]));
      return;
    }
    if (!known || this.#onTheWay === undefined) return;
    this.#onTheWay[id >> 3] = bits & ~(1 << (id & 7));
    this.#count -= 1;
  }

  /**
   * Writes a message, unless the client does not take what is written: then it misses it.
   * @param ids subscription identifiers of all subscriptions that match [5: MQTT-3.3.4-3]
   */
  deliver(message: Delivery, most: 0 | 1 | 2, retain: boolean, ids: readonly number[]): void {
    const { connection } = this;
    const { socket, subscriberLimits } = connection;
    if (connection.ended) return;
    if (socket.writableLength > SLOW_BYTES) this.#host.slow(connection);
    const qos = Math.min(message.qos, most);
    const id =
      qos > 0 && socket.writableLength <= SHED_BYTES ? this.#takeId(subscriberLimits.receiveMaximum) : 1;
    if (id === 0 || socket.writableLength > SHED_BYTES) {
      this.#host.shed();
      return;
    }
    const properties = connection.version === 5 ? propertiesOf(message, ids) : undefined;
    const { payload } = message;
    const { head, idAt } = encodePublishHead(message.topicBytes, payload.byteLength, qos, retain, properties);
    if (head.length + payload.byteLength > subscriberLimits.packetBytes) {
      // Not to be sent to it [5: MQTT-3.1.2-24].
      if (qos > 0) this.acknowledged(Type.puback, id, false);
      this.#host.shed();
      return;
    }
    if (qos > 0) head.writeUInt16BE(id, idAt);
    if (payload.byteLength <= COPIED_BYTES) connection.write(Buffer.concat([head, payload]));
    else connection.write(head, payload);
  }

  /** Takes every subscription away. */
  close(): void {
    for (const subscription of this.#filters.values()) this.#host.fanOut.remove(subscription);
    this.#filters.clear();
  }

  #refuse(filter: string): number | undefined {
    if (filter.startsWith("$share/")) return Reason.noSharing;
    if (
      filter.length > FILTER_LENGTH ||
      filter.split("/").length > FILTER_LEVELS ||
      filterProblem(filter) !== undefined
    )
      return Reason.filterInvalid;
    if (!this.#filters.has(filter) && this.#filters.size >= this.#host.subscriptions) return Reason.quota;
    return this.#host.maySubscribe(this.connection, filter);
  }

  /** Adds a subscription, in the place of one with the same filter [MQTT-3.8.4-3]. */
  #add({ filter, qos, noLocal, asPublished }: Wanted, id: number | undefined): Subscription {
    const before = this.#filters.get(filter);
    if (before !== undefined) this.#host.fanOut.remove(before);
    const subscription = { subscriber: this, filter, qos, noLocal, asPublished, id };
    this.#filters.set(filter, subscription);
    this.#host.fanOut.add(subscription);
    return subscription;
  }

  /** Retained messages for new subscriptions, at the pace at which the client takes them. */
  async #sendRetained(subscriptions: readonly Subscription[]): Promise<void> {
    const { connection } = this;
    for (const subscription of subscriptions) {
      const messages = this.#host.fanOut.retained.matching(subscription.filter);
      for await (const message of messages) {
        if (connection.socket.writableLength > SLOW_BYTES) await taken(connection);
        if (connection.ended || this.#filters.get(subscription.filter) !== subscription) return;
        this.#deliverRetained(message, subscription);
      }
    }
  }

  #deliverRetained(message: RetainedMessage, { qos, id }: Subscription): void {
    // Its topic may have been given another message meanwhile, or none: what is kept now is what counts.
    this.deliver(
      { ...message, topicBytes: Buffer.from(message.topic), retain: true },
      qos,
      true,
      id === undefined ? [] : [id],
    );
  }

  /** A packet identifier that is not on the way, or 0 when there are as many as the client takes. */
  #takeId(most: number): number {
    if (this.#count >= Math.min(most, 65_000)) return 0;
    this.#onTheWay ??= new Uint8Array(8192);
    let id = this.#lastId;
    do id = (id % 65_535) + 1;
    while (((this.#onTheWay[id >> 3] ?? 0) & (1 << (id & 7))) !== 0);
    this.#onTheWay[id >> 3] = (this.#onTheWay[id >> 3] ?? 0) | (1 << (id & 7));
    this.#count += 1;
    this.#lastId = id;
    return id;
  }
}

function propertiesOf({ contentType, userProperties }: Delivery, ids: readonly number[]): Buffer {
  if (contentType === undefined && userProperties === undefined && ids.length === 0) return NO_PROPERTIES;
  const written: Written[] = ids.map((varint) => ({ id: Property.subscriptionId, varint }));
  if (contentType !== undefined) written.push({ id: Property.contentType, text: contentType });
  for (const pair of Object.entries(userProperties ?? {})) written.push({ id: Property.userProperty, pair });
  return encodeProperties(written);
}

const NO_PROPERTIES = Buffer.from([0]);

/** Resolves when the client has taken what was written, or is gone. */
async function taken({ socket }: ClientConnection): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = (): void => {
      socket.off("drain", done).off("close", done);
      resolve();
    };
    socket.once("drain", done).once("close", done);
    if (socket.destroyed) done();
  });
}
