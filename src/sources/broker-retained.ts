/** Retained messages of the embedded broker (3.3.1.3), bounded; they last until Weir restarts. */
import { setImmediate as nextTurn } from "node:timers/promises";
import { TopicTree } from "./topic-tree.ts";

/** A message that later subscribers get. */
export interface RetainedMessage {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: 0 | 1 | 2;
  readonly contentType: string | undefined;
  readonly userProperties: Readonly<Record<string, string>> | undefined;
}

/** Bounds of what is kept. */
export interface RetainedLimits {
  readonly topics: number;
  readonly bytes: number;
}

/** Weir's own and everybody else's are apart, so that no device can use up Weir's. */
const OWN: RetainedLimits = { topics: 131_072, bytes: 128 * 1024 * 1024 };
/** Topics looked at before others get a turn. */
const SCAN = 4096;

/** Retained messages of one owner. */
class Shelf {
  readonly messages = new Map<string, RetainedMessage>();
  readonly #limit: RetainedLimits;
  #bytes = 0;

  constructor(limit: RetainedLimits) {
    this.#limit = limit;
  }

  /** Keeps or, with an empty payload, forgets. False when there is no room. */
  put(message: RetainedMessage): boolean {
    const before = this.messages.get(message.topic);
    if (before !== undefined) this.#bytes -= size(before);
    if (message.payload.byteLength === 0) {
      this.messages.delete(message.topic);
      return true;
    }
    const bytes = this.#bytes + size(message);
    if (bytes > this.#limit.bytes || (before === undefined && this.messages.size >= this.#limit.topics)) {
      this.messages.delete(message.topic);
      return false;
    }
    this.#bytes = bytes;
    // A copy: the payload may be a small part of a big buffer that would stay alive with it.
    this.messages.set(message.topic, { ...message, payload: Uint8Array.from(message.payload) });
    return true;
  }
}

const size = ({ payload, topic, contentType = "", userProperties = {} }: RetainedMessage): number =>
  payload.byteLength +
  2 * (topic.length + contentType.length) +
  2 * Object.entries(userProperties).reduce((sum, [key, value]) => sum + key.length + value.length, 0);

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

  /** Keeps a message, or forgets its topic's when its payload is empty. False when there is no room for it. */
  put(message: RetainedMessage): boolean {
    return (this.#isOwn(message.topic) ? this.#own : this.#others).put(message);
  }

  /** Those that match a filter. A filter that begins with a wildcard does not match `$…` [MQTT-4.7.2-1]. */
  async *matching(filter: string): AsyncGenerator<RetainedMessage> {
    let looked = 0;
    const tree = new TopicTree<true>();
    tree.add(filter, true);
    const wild = /^[+#]/.test(filter);
    for (const { messages } of [this.#own, this.#others]) {
      if (!/[+#]/.test(filter)) {
        const exact = messages.get(filter);
        if (exact !== undefined) yield exact;
        continue;
      }
      for (const [topic, message] of messages) {
        if (++looked % SCAN === 0) await nextTurn();
        if (tree.match(topic).length > 0 && !(wild && topic.startsWith("$"))) yield message;
      }
    }
  }
}
