/**
 * Delivery to subscribers. Publishers are not made to wait: a subscriber that does not read must not stop devices. What it
 * can't take is bounded where it is written.
 */
import type { RetainedMessages } from "./broker-retained.ts";
import type { Delivery } from "./delivery.ts";
import type { Session } from "./listener-session.ts";
import { TopicTree } from "./topic-tree.ts";

/** One client's wish for the topics that match a filter. */
export interface Subscription {
  readonly session: Session;
  readonly filter: string;
  readonly qos: 0 | 1 | 2;
  readonly noLocal: boolean;
  readonly asPublished: boolean;
  /** the subscription identifier that the client gave [5: 3.8.2.1.2] */
  readonly id: number | undefined;
}

/** Hands each message to every client with a matching subscription, once. */
export class FanOut {
  readonly retained: RetainedMessages;
  readonly #tree = new TopicTree<Subscription>();
  /** Changes with every subscription: what was found for a topic before is out of date. */
  generation = 0;

  constructor(retained: RetainedMessages) {
    this.retained = retained;
  }

  add(subscription: Subscription): void {
    this.generation += 1;
    this.#tree.add(subscription.filter, subscription);
  }

  remove(subscription: Subscription): void {
    this.generation += 1;
    this.#tree.remove(subscription.filter, subscription);
  }

  /** Whether anybody wants messages of the topic. */
  isWanted(topic: string): boolean {
    return this.#match(topic).length > 0;
  }

  /** Writes the message to everybody who wants it; `from`: the client that published it. */
  deliver(message: Delivery, from: object | undefined): void {
    const found = this.#match(message.topic);
    if (found.length === 1 && found[0] !== undefined) deliver(found[0].session, found, message, from);
    else if (found.length > 1) {
      const clients = Map.groupBy(found, ({ session }) => session);
      for (const [session, subscriptions] of clients) deliver(session, subscriptions, message, from);
    }
  }

  /** A filter that begins with a wildcard does not match topics that begin with `$` [MQTT-4.7.2-1]. */
  #match(topic: string): Subscription[] {
    const found = this.#tree.match(topic);
    return topic.startsWith("$") ? found.filter(({ filter }) => !/^[+#]/.test(filter)) : found;
  }
}

/** Subscriptions of one client that overlap get one message, with the greatest of their QoS [MQTT-3.3.5-1]. */
function deliver(
  session: Session,
  subscriptions: readonly Subscription[],
  message: Delivery,
  from: object | undefined,
): void {
  let most: 0 | 1 | 2 = 0;
  let any = false;
  let asPublished = false;
  const ids: number[] = [];
  for (const { qos, noLocal, asPublished: kept, id } of subscriptions) {
    // Nobody's own is what Weir publishes, also where the client is away. [5: MQTT-3.8.3-3]
    if (noLocal && from !== undefined && from === session.connection) continue;
    any = true;
    if (qos > most) most = qos;
    asPublished ||= kept;
    if (id !== undefined) ids.push(id);
  }
  if (any) session.deliver(message, most, asPublished && message.retain, ids); // [MQTT-3.3.1-9]
}
