/**
 * What the broker keeps, all of it bounded: retained messages, wills, and the packet identifiers of QoS 2 handshakes. No
 * session outlives its connection (the broker makes every session a clean one), so nothing is queued for absent clients.
 */
import { Readable } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { Aedes, AedesPublishPacket, Client } from "aedes";
import { TopicTree } from "./topic-tree.ts";

type ClientId = Pick<Client, "id">;
type Will = AedesPublishPacket & { brokerId?: string; clientId?: string };

/** Bounds of retained messages; Weir's own and everybody else's are apart, so that no device can use up Weir's. */
const OWN = { topics: 131_072, bytes: 128 * 1024 * 1024 };
const OTHERS = { topics: 16_384, bytes: 64 * 1024 * 1024 };
/** Topics looked at before others get a turn. */
const SCAN = 4096;
const DONE = Promise.resolve();
const NOBODY: Promise<readonly never[]> = Promise.resolve([]);

/** Retained messages of one owner. */
class Shelf {
  readonly messages = new Map<string, AedesPublishPacket>();
  readonly #limit: typeof OWN;
  #bytes = 0;

  constructor(limit: typeof OWN) {
    this.#limit = limit;
  }

  /** Keeps or, with an empty payload, forgets. False when there is no room. */
  put(packet: AedesPublishPacket): boolean {
    const before = this.messages.get(packet.topic);
    if (before !== undefined) this.#bytes -= size(before);
    if (packet.payload.length === 0) {
      this.messages.delete(packet.topic);
      return true;
    }
    const bytes = this.#bytes + size(packet);
    if (bytes > this.#limit.bytes || (before === undefined && this.messages.size >= this.#limit.topics)) {
      this.messages.delete(packet.topic);
      return false;
    }
    this.#bytes = bytes;
    // A copy: the payload may be a small part of a big buffer that would stay alive with it.
    this.messages.set(packet.topic, { ...packet, payload: Buffer.from(packet.payload) });
    return true;
  }
}

const size = (packet: AedesPublishPacket): number => packet.payload.length + 2 * packet.topic.length;

/** The persistence of an Aedes broker (the interface of its `aedes-persistence`, as far as clean sessions use it). */
export class SessionStore {
  readonly #own = new Shelf(OWN);
  readonly #others = new Shelf(OTHERS);
  readonly #isOwn: (topic: string) => boolean;
  readonly #onFull: () => void;
  readonly #wills = new Map<string, Will>();
  readonly #incoming = new Map<string, Set<number | undefined>>();
  #brokerId = "";

  /** `onFull` is called for each retained message that is passed on and not kept. */
  constructor(isOwn: (topic: string) => boolean, onFull: () => void) {
    this.#isOwn = isOwn;
    this.#onFull = onFull;
  }

  /** Aedes insists on an async function here. */
  async setup(broker: Aedes): Promise<void> {
    this.#brokerId = broker.id;
  }

  storeRetained(packet: AedesPublishPacket): Promise<void> {
    const shelf = this.#isOwn(packet.topic) ? this.#own : this.#others;
    if (!shelf.put(packet)) this.#onFull();
    return DONE;
  }

  /** Retained messages by filters, those of each filter once. */
  createRetainedStreamCombi(filters: readonly string[]): Readable {
    return Readable.from(this.#retained(filters));
  }

  async *#retained(filters: readonly string[]): AsyncGenerator<AedesPublishPacket> {
    let looked = 0;
    for (const filter of filters) {
      const tree = new TopicTree<true>();
      tree.add(filter, true);
      for (const { messages } of [this.#own, this.#others]) {
        if (!/[+#]/.test(filter)) {
          const exact = messages.get(filter);
          if (exact !== undefined) yield exact;
          continue;
        }
        for (const [topic, packet] of messages) {
          if (++looked % SCAN === 0) await nextTurn();
          if (tree.match(topic).length > 0) yield packet;
        }
      }
    }
  }

  subscriptionsByTopic(): Promise<readonly never[]> {
    return NOBODY;
  }
  subscriptionsByClient(): Promise<readonly never[]> {
    return NOBODY;
  }
  addSubscriptions(): Promise<void> {
    return DONE;
  }
  removeSubscriptions(): Promise<void> {
    return DONE;
  }
  cleanSubscriptions(): Promise<void> {
    return DONE;
  }
  outgoingEnqueue(): Promise<void> {
    return DONE;
  }
  outgoingEnqueueCombi(): Promise<void> {
    return DONE;
  }
  outgoingUpdate(): Promise<void> {
    return DONE;
  }
  outgoingClearMessageId(): Promise<void> {
    return DONE;
  }
  outgoingStream(): Readable {
    return Readable.from([]);
  }

  /** Notes that a QoS 2 message was passed on [MQTT-4.3.3-2]; Aedes bounds how many a client may have open. */
  async incomingStorePacket(client: ClientId, packet: { readonly messageId?: number }): Promise<void> {
    const open = this.#incoming.get(client.id) ?? new Set();
    this.#incoming.set(client.id, open.add(packet.messageId));
  }

  /** Resolves when the message was noted, rejects when not. */
  async incomingGetPacket(client: ClientId, packet: { readonly messageId?: number }): Promise<object> {
    if (this.#incoming.get(client.id)?.has(packet.messageId) !== true) throw new Error("no such packet");
    return packet;
  }

  async incomingDelPacket(client: ClientId, packet: { readonly messageId?: number }): Promise<void> {
    this.#incoming.get(client.id)?.delete(packet.messageId);
  }

  async cleanIncoming(client: ClientId): Promise<void> {
    this.#incoming.delete(client.id);
  }

  async putWill(client: ClientId, packet: Will): Promise<void> {
    packet.brokerId = this.#brokerId;
    packet.clientId = client.id;
    this.#wills.set(client.id, packet);
  }

  async getWill(client: ClientId): Promise<Will | undefined> {
    return this.#wills.get(client.id);
  }

  async delWill(client: ClientId): Promise<Will | undefined> {
    const will = this.#wills.get(client.id);
    this.#wills.delete(client.id);
    return will;
  }

  /** Wills of other brokers on the same store: there are none. */
  streamWill(): Readable {
    return Readable.from([]);
  }

  async destroy(): Promise<void> {}
}
