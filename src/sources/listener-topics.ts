/** Topics as they stand in packets, found again without making strings of them. */
import { isUtf8 } from "node:buffer";
import type { Identity } from "./broker-access.ts";
import { Doorkeeper } from "./doorkeeper.ts";
import { isTopicName } from "./mqtt-wire.ts";
import type { Verdict } from "./router.ts";

/** What is known of a topic for one identity. */
export interface KnownTopic {
  readonly bytes: Uint8Array;
  readonly topic: string;
  /** whose verdict this is */
  readonly owner: Identity;
  readonly verdict: Verdict;
  /** the state of subscriptions that `wanted` was found in */
  generation: number;
  wanted: boolean;
}

/** Slots of the table. */
const SLOTS = 8192;
/** Longer topics are not kept: so the table stays below 8 MiB whatever comes in. */
const KEPT_BYTES = 256;

/** Whether bytes of a packet are this topic. */
export function isTopic(known: KnownTopic, bytes: Uint8Array, from: number, to: number): boolean {
  const own = known.bytes;
  const length = to - from;
  if (own.length !== length) return false;
  // From the end: topics of one gateway begin alike.
  for (let i = length - 1; i >= 0; i--) if (own[i] !== bytes[from + i]) return false;
  return true;
}

/**
 * A table of topics by a hash of their bytes (FNV-1a, seeded). Each slot holds the latest of its topics: no flood and no
 * collision costs more than being looked up by the router again.
 */
export class TopicTable {
  readonly #slots: (KnownTopic | undefined)[] = new Array(SLOTS).fill(undefined);
  readonly #seed = Math.trunc(Math.random() * 2 ** 32) | 0;
  readonly #resolve: (topic: string, owner: Identity) => Verdict;
  readonly #door = new Doorkeeper();

  /** `resolve` answers what is to be done with a topic that `owner` publishes on. */
  constructor(resolve: (topic: string, owner: Identity) => Verdict) {
    this.#resolve = resolve;
  }

  /** The topic that lies in `bytes`, or undefined when it can't be one: UTF-8 without NUL [MQTT-1.5.3-1, -2], see {@link isTopicName}. */
  find(bytes: Buffer, from: number, to: number, owner: Identity): KnownTopic | undefined {
    let hash = this.#seed;
    for (let at = from; at < to; at++) hash = Math.imul(hash ^ (bytes[at] ?? 0), 0x0100_0193);
    const slot = (hash ^ (hash >>> 15)) & (SLOTS - 1);
    const known = this.#slots[slot];
    if (known !== undefined && known.owner === owner && isTopic(known, bytes, from, to)) return known;
    const own = Uint8Array.prototype.slice.call(bytes, from, to);
    if (!isUtf8(own) || own.includes(0)) return undefined;
    const topic = bytes.toString("utf8", from, to);
    if (!isTopicName(topic)) return undefined;
    const verdict = this.#resolve(topic, owner);
    const found: KnownTopic = { bytes: own, topic, owner, verdict, generation: -1, wanted: false };
    if (own.length <= KEPT_BYTES && this.#door.knows(hash)) this.#slots[slot] = found;
    return found;
  }
}
