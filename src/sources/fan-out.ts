/**
 * Delivery to subscribers: the message bus of an Aedes broker (the interface of its `mqemitter`). Unlike that, it does not
 * make publishers wait: a subscriber that does not read must not stop devices.
 */
import type { AedesPublishPacket } from "aedes";
import { TopicTree } from "./topic-tree.ts";

type Deliver = (packet: AedesPublishPacket, done: () => void) => void;

/** Hands each message to every matching subscription. What a subscriber can't take is bounded where it is written. */
export class FanOut {
  readonly #tree = new TopicTree<Deliver>();
  #delivered = 0;
  /** Read by Aedes: how many messages are being delivered. */
  readonly current = 0;
  readonly concurrency = 0;

  on(filter: string, deliver: Deliver, done?: () => void): this {
    this.#tree.add(filter, deliver);
    if (done !== undefined) setImmediate(done);
    return this;
  }

  removeListener(filter: string, deliver: Deliver, done?: () => void): this {
    this.#tree.remove(filter, deliver);
    if (done !== undefined) setImmediate(done);
    return this;
  }

  emit(packet: AedesPublishPacket, done: (error: null) => void): this {
    // A client takes a message whose number is not above the last one's for a second copy. Aedes numbers messages when they
    // are published, and one that is retained or QoS 1 is overtaken on its way here: it would be lost without a word.
    this.#delivered += 1;
    Reflect.set(packet, "brokerCounter", this.#delivered);
    for (const deliver of this.#tree.match(packet.topic)) deliver(packet, nothing);
    done(null);
    return this;
  }

  close(done: () => void): this {
    setImmediate(done);
    return this;
  }
}

const nothing = (): void => {};
