/** What the outbox is told about itself and its uplinks. Plain data: it crosses to the worker thread as it is. */

import type { Crc32c } from "../core/block.ts";
import type { Frame } from "../core/frame.ts";
import type { BatchKey, EncodedBatch, Outgoing, Stream } from "../core/ports.ts";

/** When a batch is sealed: at whichever comes first. */
export interface BatchPlan {
  readonly samples: number;
  /** of encoded samples, estimated; a batch has whole chunks, at least one, so one large chunk may be over it */
  readonly bytes: number;
  readonly ageMs: number;
}

/** Topic templates with `{gateway}`, `{stream}`, `{device}`, `{code}`; without `last` or `alarm` those are not sent. */
export interface TopicPlan {
  readonly batch: string;
  readonly last: string | undefined;
  readonly alarm: string | undefined;
}

/** When the outbox is full: the oldest samples go, the newest go, or nothing is taken in until there is room. */
export type Overflow = "drop-oldest" | "drop-newest" | "pause";

/** How what has waited long is sent beside what is live. */
export interface ReplayPlan {
  /** the part of the window that backlog has while there is any: above 0, at most 1 */
  readonly share: number;
  /** once the oldest pending chunk has waited this long, everything pending becomes backlog */
  readonly afterMs: number;
}

/** One uplink, as the outbox sees it. */
export interface UplinkPlan {
  readonly name: string;
  readonly streams: readonly Stream[];
  readonly batch: BatchPlan;
  readonly topics: TopicPlan;
  readonly format: { readonly encoding: "json" | "block"; readonly compression: "none" | "gzip" | "zstd" };
  /** patterns over names of rows that are sent; what is left out counts as dropped */
  readonly filter: { readonly devices: readonly string[]; readonly metrics: readonly string[] };
  readonly qos: 0 | 1 | 2;
  readonly traceparent: boolean;
  /** what gives way when the outbox is full; without it `drop-oldest` */
  readonly overflow?: Overflow;
  /** samples of a stream that have waited longer are dropped, in milliseconds */
  readonly ttlMs?: Readonly<Partial<Record<Stream, number>>>;
  /** without it nothing is backlog: everything goes in order */
  readonly replay?: ReplayPlan;
}

/** Everything the worker needs to open the outbox. */
export interface OutboxPlan {
  /** the database file; its folder must exist */
  readonly path: string;
  readonly gateway: string;
  readonly sync: "normal" | "full";
  /** size of the database file, in bytes */
  readonly maxBytes: number;
  readonly uplinks: readonly UplinkPlan[];
  /** batches that uplinks have from the worker before this one: on lease from the start */
  readonly leased?: readonly number[];
}

/** How the batches of one uplink are encoded. It keeps the latest values behind the retained `last` messages. */
export interface BatchEncoder {
  /** A batch over `mostBytes` comes in parts. `order` rises with the batch's place in its stream: a batch that comes again late replaces no later value. */
  encode(key: BatchKey, frames: readonly Frame[], order: number, mostBytes: number): EncodedBatch;
  /** Retained messages that are due at `nowMs`; empty when none is, or the last were taken too short a time ago. */
  takeDerived(nowMs: number): readonly Outgoing[];
  /** When {@link takeDerived} gives something, on the same clock; undefined while nothing waits. */
  readonly derivedDueMs: number | undefined;
  /** Messages were given back unsent: every retained one is to be sent again. */
  released(): void;
  /** Values that were not kept for `last`, because of its limits. */
  readonly skipped: number;
}

/** What the composition root hands to the worker's part of the outbox. */
export interface OutboxParts {
  readonly crc32c: Crc32c;
  readonly encoder: (uplink: UplinkPlan, gateway: string) => BatchEncoder;
}
