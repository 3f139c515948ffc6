/** Retained messages of the embedded broker (3.3.1.3), bounded; they last until Weir restarts. */
import { setImmediate as nextTurn } from "node:timers/promises";
import type { Delivery } from "./delivery.ts";
import { TopicTree } from "./topic-tree.ts";

/** Bounds of what is kept. */
export interface RetainedLimits {
  readonly topics: number;
  readonly bytes: number;
}

/** Weir's own and everybody else's are apart, so that no device can use up Weir's. */
const OWN: RetainedLimits = { topics: 131_072, bytes: 128 * 1024 * 1024 };
/** Topics looked at before others get a turn. */
const SCAN = 4096;

/** Retained messages of one owner, the longest unchanged first. */
class Shelf {
  readonly messages = new Map<string, Delivery>();
  readonly #limit: RetainedLimits;
  #bytes = 0;

  constructor(limit: RetainedLimits) {
    this.#limit = limit;
  }

  /** Keeps or, with an empty payload, forgets. Answers how many messages had to go for it, itself among them. */
  put(message: Delivery): number {
    this.#forget(message.topic);
    if (message.payload.byteLength === 0) return 0;
    const bytes = size(message);
    if (bytes > this.#limit.bytes || this.#limit.topics === 0) return 1;
    let gone = 0;
    for (const [topic, { expiresMs }] of this.messages) {
      if (this.#bytes + bytes <= this.#limit.bytes && this.messages.size < this.#limit.topics) break;
      this.#forget(topic);
      if (expiresMs > Date.now()) gone += 1;
    }
    this.#bytes += bytes;
    // A copy: the payload may be a small part of a big buffer that would stay alive with it.
    this.messages.set(message.topic, { ...message, payload: Uint8Array.from(message.payload) });
    return gone;
  }

  #forget(topic: string): void {
    const before = this.messages.get(topic);
    if (before === undefined) return;
    this.#bytes -= size(before);
    this.messages.delete(topic);
  }
}

const size = ({ payload, topic, properties }: Delivery): number =>
  payload.byteLength + 2 * topic.length + properties.byteLength;

/** All of them. */
export class RetainedMessages {
  readonly #own = new Shelf(OWN);
  readonly #others: Shelf;
  readonly #isOwn: (topic: string) => boolean;

  /** `others`: bounds of what is not Weir's own. */
  constructor(isOwn: (topic: string) => boolean, others: RetainedLimits) {
    this.#isOwn = isOwn;
    this.#others = new Shelf(others);
  }

  /** Keeps a message, or forgets its topic's when its payload is empty. Answers how many are not kept for want of room. */
  put(message: Delivery): number {
    return (this.#isOwn(message.topic) ? this.#own : this.#others).put(message);
  }

  /** Those that match a filter. A filter that begins with a wildcard does not match `$…` [MQTT-4.7.2-1]. */
  async *matching(filter: string): AsyncGenerator<Delivery> {
    let looked = 0;
    const tree = new TopicTree<true>();
    tree.add(filter, true);
    const wild = /^[+#]/.test(filter);
    for (const { messages } of [this.#own, this.#others]) {
      if (!/[+#]/.test(filter)) {
        const exact = messages.get(filter);
        if (exact !== undefined && exact.expiresMs > Date.now()) yield exact;
        continue;
      }
      // What is put meanwhile goes to the end, and is delivered as it comes: without a count this would never catch up with it.
      let left = messages.size;
      for (const [topic, message] of messages) {
        if (left-- === 0) break;
        if (++looked % SCAN === 0) await nextTurn();
        if (tree.match(topic).length === 0 || (wild && topic.startsWith("$"))) continue;
        if (message.expiresMs > Date.now()) yield message; // [5: MQTT-3.3.2-5]
      }
    }
  }
}
