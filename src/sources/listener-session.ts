/**
 * A client's session: its subscriptions, and what is on its way to it. It ends with the connection, or is kept for a while
 * (3.1.2.4; [5: 3.1.2.11.2]): then messages of QoS 1 and 2 wait for the client, bounded, the oldest going first, and what it has
 * not acknowledged is sent again. Everything is in memory: sessions end with Weir.
 */
import type { Identity } from "./broker-access.ts";
import type { Delivery } from "./delivery.ts";
import type { FanOut, Subscription } from "./fan-out.ts";
import type { ClientConnection } from "./listener-connection.ts";
import { readSubscribe, readUnsubscribe, type Wanted, type Will } from "./mqtt-read.ts";
import { Property, Reason, Type } from "./mqtt-wire.ts";
import {
  encodePacket,
  encodeProperties,
  encodePropertyList,
  encodePublishHead,
  type Written,
} from "./mqtt-write.ts";
import { filterProblem } from "./topic-tree.ts";

/** Bytes written to a client and not yet taken, at which it is slow: Weir's own publishing waits for it. */
export const SLOW_BYTES = 256 * 1024;
/** Longest topic filter, in characters, and its levels. */
const FILTER_LENGTH = 1024;
const FILTER_LEVELS = 64;
/** Payloads up to this are copied behind their header: one write instead of two, and nothing else is kept alive by them. */
const COPIED_BYTES = 4096;
/** What a message costs in memory beside its payload. */
const ENTRY_BYTES = 256;
/** Why there is no subscription, by reason code, beside that the client may not have it. */
const REFUSALS = new Map<number, string>([
  [Reason.noSharing, "there are no shared subscriptions here:"],
  [Reason.filterInvalid, "not a topic filter:"],
  [Reason.quota, "it has as many subscriptions as it may, without"],
]);
/** Packet identifiers that may be in use, so that a free one is found soon. */
const MOST_IDS = 65_000;

/** What a session asks of the broker. */
export interface SessionHost {
  readonly fanOut: FanOut;
  /** subscriptions of one client, at most */
  readonly subscriptions: number;
  /** messages that wait for one client, at most, and their bytes */
  readonly queueMessages: number;
  readonly queueBytes: number;
  /** bytes of all sessions, what waits and what would be sent again, and the most that they may be */
  readonly waiting: { bytes: number; readonly most: number };
  /** Why a client may not have a subscription, as a reason code, or undefined. */
  maySubscribe(session: Session, filter: string): number | undefined;
  /** bytes written to a client and not yet taken, at which messages are no longer written to it */
  shedBytes(): number;
  /** A message that the client should have got is given up. */
  shed(): void;
  /** The client has not taken what was written. */
  slow(connection: ClientConnection): void;
  /** Something the client sent or asked for is refused. */
  refused(connection: ClientConnection, why: string): void;
}

/** A message that the client has not acknowledged. */
interface Sent {
  /** undefined once it has been received (PUBREC), or where nothing is sent again */
  delivery: Queued | undefined;
  received: boolean;
}

interface Queued {
  readonly message: Delivery;
  readonly qos: number;
  readonly retain: boolean;
  readonly ids: readonly number[];
}

/** With bytes of its own, to be kept: the payload may be a small part of much that was read. */
const own = (queued: Queued): Queued => ({
  ...queued,
  message: { ...queued.message, payload: Uint8Array.from(queued.message.payload) },
});

const sizeOf = ({ message }: Queued): number => message.payload.byteLength + ENTRY_BYTES;

/** The state of one client, over its connections. */
export class Session {
  readonly clientId: string;
  readonly identity: Identity;
  /** the client's, while it is here */
  connection: ClientConnection | undefined;
  /** seconds for which this is kept without a connection */
  expiryS = 0;
  /** milliseconds on the monotonic clock at which it ends; the client is away */
  endsMs = 0;
  /** what is published at `willMs`, or at its end, unless the client is back before [5: 3.1.3.2.2] */
  will: { readonly will: Will; readonly atMs: number; readonly devices: ReadonlySet<string> } | undefined;
  /** QoS 2 messages from the client between PUBLISH and PUBREL: the connection that is owed a PUBREC, true once it is due */
  readonly open: Map<number, ClientConnection | true> = new Map();
  readonly #host: SessionHost;
  readonly #filters = new Map<string, Subscription>();
  /** by packet identifier, in the order in which they were sent [MQTT-4.6.0-1, -6] */
  readonly #sent = new Map<number, Sent>();
  /** of them, those that this connection has not been sent yet, the next one last */
  #again: number[] = [];
  #queue: Queued[] = [];
  #queueBytes = 0;
  /** new subscriptions whose retained messages this connection has not got yet, one after the other; undefined: none */
  #fresh: Set<Subscription> | undefined;
  /** of what would be sent again */
  #sentBytes = 0;
  #lastId = 0;

  constructor(clientId: string, identity: Identity, host: SessionHost) {
    this.clientId = clientId;
    this.identity = identity;
    this.#host = host;
  }

  /** Whether the client has subscriptions. */
  get subscribes(): boolean {
    return this.#filters.size > 0;
  }

  /** The client is here, and has been told so: what it has not acknowledged is sent again, then what has waited for it. */
  attach(connection: ClientConnection, expiryS: number): void {
    this.connection = connection;
    this.expiryS = expiryS;
    this.will = undefined;
    this.#again = [...this.#sent.keys()].reverse();
    this.#fresh = undefined;
    this.#pump();
  }

  /** The client has gone. */
  detach(): void {
    this.connection = undefined;
  }

  /** Ends it: nothing is kept. */
  end(): void {
    for (const subscription of this.#filters.values()) this.#host.fanOut.remove(subscription);
    this.#filters.clear();
    this.#sent.clear();
    this.#queue = [];
    this.#queued(-this.#queueBytes);
    this.#kept(-this.#sentBytes);
    this.open.clear();
  }

  /** Takes a SUBSCRIBE's body. Answers the reason code when it is malformed or a breach. */
  subscribe(connection: ClientConnection, bytes: Buffer, from: number, to: number): number | undefined {
    const packet = readSubscribe(bytes, from, to, connection.version);
    if (typeof packet === "number") return packet;
    const five = connection.version === 5;
    const fresh: Subscription[] = [];
    const answers = packet.wanted.map((wanted) => {
      const refusal = this.#refuse(wanted.filter);
      if (refusal !== undefined) {
        const what = REFUSALS.get(refusal) ?? "may not subscribe to";
        this.#host.refused(connection, `${what} ${JSON.stringify(wanted.filter.slice(0, 128))}`);
        return five ? refusal : 0x80; // [MQTT-3.9.3-1]: all that 3.1.1 can say
      }
      const before = this.#filters.get(wanted.filter);
      const next = this.#add(wanted, packet.subscriptionId);
      if (wanted.handling === 0 || (wanted.handling === 1 && before === undefined)) fresh.push(next);
      return wanted.qos;
    });
    const { id } = packet;
    connection.write(encodePacket(Type.suback << 4, [id >> 8, id & 255], five ? [0] : [], answers));
    if (fresh.length > 0) this.#introduce(connection, fresh);
    return undefined;
  }

  /** Takes an UNSUBSCRIBE's body. Answers the reason code when it is malformed or a breach. */
  unsubscribe(connection: ClientConnection, bytes: Buffer, from: number, to: number): number | undefined {
    const packet = readUnsubscribe(bytes, from, to, connection.version);
    if (typeof packet === "number") return packet;
    const answers = packet.filters.map((filter) => {
      const known = this.#filters.get(filter);
      if (known === undefined) return Reason.noSubscription;
      this.#filters.delete(filter);
      this.#fresh?.delete(known);
      this.#host.fanOut.remove(known);
      return Reason.success;
    });
    const { id } = packet;
    const rest = connection.version === 5 ? [0, ...answers] : [];
    connection.write(encodePacket(Type.unsuback << 4, [id >> 8, id & 255], rest));
    return undefined;
  }

  /** PUBACK, PUBREC or PUBCOMP of the client; `failed`: its reason code is an error's. */
  acknowledged(type: number, id: number, failed: boolean): void {
    const sent = this.#sent.get(id);
    if (type === Type.pubrec && !failed) {
      if (sent !== undefined) {
        this.#settled(sent);
        sent.received = true;
      }
      this.#release(id);
      return;
    }
    if (sent === undefined) return;
    this.#settled(sent);
    this.#sent.delete(id);
    if (this.#queue.length > 0 || this.#again.length > 0) this.#pump();
  }

  /**
   * Sends a message, or lets it wait when the client is away or has as much as it takes; what can't wait is given up.
   * @param ids subscription identifiers of all subscriptions that match [5: MQTT-3.3.4-3]
   */
  deliver(message: Delivery, most: 0 | 1 | 2, retain: boolean, ids: readonly number[]): void {
    const qos = Math.min(message.qos, most);
    const { connection } = this;
    const isKept = qos > 0 && this.expiryS > 0;
    if (connection === undefined || connection.ended) {
      if (isKept) this.#wait(own({ message, qos, retain, ids }));
      return;
    }
    const unread = connection.socket.writableLength;
    if (unread > SLOW_BYTES) this.#host.slow(connection);
    if (qos === 0) {
      if (unread > this.#host.shedBytes()) this.#host.shed();
      else this.#write({ message, qos, retain, ids }, 0, false);
      return;
    }
    // However few the client takes at a time, what is on its way to it is not given up for that [5: 4.9].
    const waits = this.#again.length > 0 || this.#queue.length > 0 || !this.#hasRoom(connection);
    const queued = { message, qos, retain, ids };
    if (waits) this.#wait(own(queued));
    else this.#send(isKept ? own(queued) : queued);
  }

  /** The client has taken what was written: what waits is sent. */
  drained(): void {
    if (this.#queue.length > 0 || this.#again.length > 0) this.#pump();
  }

  #hasRoom(connection: ClientConnection): boolean {
    // What is to be sent again is not on the way yet.
    const onTheWay = this.#sent.size - this.#again.length;
    return (
      onTheWay < Math.min(connection.takes.receiveMaximum, MOST_IDS) &&
      (this.#sentBytes === 0 || (this.#sentBytes <= this.#host.queueBytes && !this.#isTooMuch())) &&
      connection.socket.writableLength <= this.#host.shedBytes()
    );
  }

  #pump(): void {
    const { connection } = this;
    if (connection === undefined || connection.ended) return;
    while (this.#again.length > 0 && this.#hasRoom(connection)) {
      const id = this.#again.pop() ?? 0;
      const sent = this.#sent.get(id);
      // [MQTT-4.4.0-1], [MQTT-3.3.1-1]
      if (sent?.received === true) this.#release(id);
      else if (sent?.delivery !== undefined && !this.#write(sent.delivery, id, true)) {
        this.#settled(sent);
        this.#sent.delete(id);
      }
    }
    let taken = 0;
    for (; taken < this.#queue.length && this.#hasRoom(connection); taken++) {
      const next = this.#queue[taken];
      if (next === undefined) break;
      this.#queued(-sizeOf(next));
      this.#send(next);
    }
    if (taken > 0) this.#queue.splice(0, taken);
  }

  #wait(queued: Queued): void {
    const { queueMessages, queueBytes } = this.#host;
    this.#queue.push(queued);
    this.#queued(sizeOf(queued));
    while (this.#queue.length > queueMessages || this.#queueBytes > queueBytes || this.#isTooMuch()) {
      const oldest = this.#queue.shift();
      if (oldest === undefined) break;
      this.#queued(-sizeOf(oldest));
      this.#host.shed();
    }
  }

  /** Sends under a new identifier. */
  #send(queued: Queued): void {
    let id = this.#lastId;
    do id = (id % 65_535) + 1;
    while (this.#sent.has(id));
    this.#lastId = id;
    if (!this.#write(queued, id, false)) return;
    const isKept = this.expiryS > 0;
    if (isKept) this.#kept(sizeOf(queued));
    this.#sent.set(id, { delivery: isKept ? queued : undefined, received: false });
  }

  /** It will not be sent again. */
  #settled(sent: Sent): void {
    if (sent.delivery !== undefined) this.#kept(-sizeOf(sent.delivery));
    sent.delivery = undefined;
  }

  #queued(bytes: number): void {
    this.#queueBytes += bytes;
    this.#host.waiting.bytes += bytes;
  }

  #kept(bytes: number): void {
    this.#sentBytes += bytes;
    this.#host.waiting.bytes += bytes;
  }

  /** All sessions together hold more than they may. */
  #isTooMuch(): boolean {
    return this.#host.waiting.bytes > this.#host.waiting.most;
  }

  #release(id: number): void {
    this.connection?.write(Buffer.from([(Type.pubrel << 4) | 2, 2, id >> 8, id & 255]));
  }

  /** Writes a PUBLISH. False when it can't be, or is not worth it any more: then the client misses it. */
  #write({ message, qos, retain, ids }: Queued, id: number, again: boolean): boolean {
    const { connection } = this;
    if (connection === undefined) return false;
    const now = message.expiresMs === Number.POSITIVE_INFINITY ? 0 : Date.now();
    const { payload } = message;
    const properties = connection.version === 5 ? propertiesOf(message, ids, now) : undefined;
    const topic = Buffer.from(message.topic);
    const { head, idAt } = encodePublishHead(topic, payload.byteLength, qos, retain, properties);
    // [5: MQTT-3.1.2-24], [5: MQTT-3.3.2-5]
    if (head.length + payload.byteLength > connection.takes.packetBytes || now > message.expiresMs) {
      this.#host.shed();
      return false;
    }
    if (qos > 0) head.writeUInt16BE(id, idAt);
    if (again) head[0] = (head[0] ?? 0) | 8;
    if (payload.byteLength <= COPIED_BYTES) connection.write(Buffer.concat([head, payload]));
    else connection.write(head, payload);
    return true;
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
    return this.#host.maySubscribe(this, filter);
  }

  /** Adds a subscription, in the place of one with the same filter [MQTT-3.8.4-3]. */
  #add({ filter, qos, noLocal, asPublished }: Wanted, id: number | undefined): Subscription {
    const before = this.#filters.get(filter);
    if (before !== undefined) {
      this.#fresh?.delete(before);
      this.#host.fanOut.remove(before);
    }
    const subscription = { session: this, filter, qos, noLocal, asPublished, id };
    this.#filters.set(filter, subscription);
    this.#host.fanOut.add(subscription);
    return subscription;
  }

  /** Has retained messages sent for new subscriptions: by one task, however many subscriptions come while the client reads nothing. */
  #introduce(connection: ClientConnection, subscriptions: readonly Subscription[]): void {
    // One that the same packet has replaced has no place any more.
    const lasting = subscriptions.filter((one) => this.#filters.get(one.filter) === one);
    if (this.#fresh !== undefined) {
      for (const subscription of lasting) this.#fresh.add(subscription);
      return;
    }
    const fresh = new Set(lasting);
    this.#fresh = fresh;
    void this.#sendRetained(connection, fresh).finally(() => {
      if (this.#fresh === fresh) this.#fresh = undefined;
    });
  }

  /** Retained messages for the subscriptions of a set that may still grow, at the pace at which the client takes them. */
  async #sendRetained(connection: ClientConnection, fresh: Set<Subscription>): Promise<void> {
    for (const subscription of fresh) {
      const { filter, qos, id } = subscription;
      for await (const message of this.#host.fanOut.retained.matching(filter)) {
        if (connection.socket.writableLength > SLOW_BYTES) await taken(connection);
        if (connection.ended) return;
        // Another has taken its place, or it is given up.
        if (!fresh.has(subscription)) break;
        this.deliver(message, qos, true, id === undefined ? [] : [id]);
      }
      fresh.delete(subscription);
    }
  }
}

function propertiesOf({ properties, expiresMs }: Delivery, ids: readonly number[], now: number): Buffer {
  if (ids.length === 0 && expiresMs === Number.POSITIVE_INFINITY) return encodeProperties(properties);
  const written: Written[] = ids.map((varint) => ({ id: Property.subscriptionId, varint }));
  // What is left of its time [5: MQTT-3.3.2-6].
  if (expiresMs !== Number.POSITIVE_INFINITY)
    written.push({ id: Property.messageExpiry, four: Math.max(0, Math.ceil((expiresMs - now) / 1000)) });
  return encodeProperties(encodePropertyList(written), properties);
}

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
