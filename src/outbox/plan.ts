/** What the outbox is told about itself and its uplinks. Plain data: it crosses to the worker thread as it is. */

import type { Crc32c } from "../core/block.ts";
import type { KnownDevice } from "../core/device.ts";
import type { Frame } from "../core/frame.ts";
import type { BatchKey, EncodedBatch, Outgoing, Stream } from "../core/ports.ts";
import type { Traces } from "../core/trace.ts";

/** When a batch is sealed: at whichever comes first. */
export interface BatchPlan {
  readonly samples: number;
  /** of encoded samples, estimated; a batch has whole chunks, at least one, so one large chunk may be over it */
  readonly bytes: number;
  readonly ageMs: number;
}

/** Topic templates with `{gateway}`, `{stream}`, `{device}`, `{code}`; without `last`, `meta` or `alarm` those are not sent. */
export interface TopicPlan {
  readonly batch: string;
  readonly last: string | undefined;
  readonly meta: string | undefined;
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
  /** retained messages of devices at a time, once a second: fewer where messages are limited, so that batches have their share */
  readonly retainedAtOnce?: number;
  /** what gives way when the outbox is full; without it `drop-oldest` */
  readonly overflow?: Overflow;
  /** samples of a stream that have waited longer are dropped, in milliseconds */
  readonly ttlMs?: Readonly<Partial<Record<Stream, number>>>;
  /** without it nothing is backlog: everything goes in order */
  readonly replay?: ReplayPlan;
}

/** The database can't be written to. */
export interface Trouble {
  /** ms since the Unix epoch */
  readonly sinceMs: number;
  readonly message: string;
}

/** What a worker found wrong with the database. */
export interface Damage {
  readonly why: string;
  /** it is to be set aside; else it is looked through first, as SQLite also says of a read that failed that the database is damaged */
  readonly isSure: boolean;
}

/** Everything the worker needs to open the outbox. */
export interface OutboxPlan {
  /** the database file; its folder must exist */
  readonly path: string;
  readonly gateway: string;
  /** what the operator says of the gateway: part of every `meta` message */
  readonly labels?: Readonly<Record<string, string>>;
  readonly sync: "normal" | "full";
  /** size of the database file, in bytes */
  readonly maxBytes: number;
  readonly uplinks: readonly UplinkPlan[];
  /** what stays with this machine's hardware: a database that was last written on another is a copy */
  readonly machine: string;
  /** batches that uplinks have from the worker before this one: on lease from the start */
  readonly leased?: readonly number[];
  /**
   * a worker was there before: the database is not made anew. `trouble`: since when it could not be written to, and why.
   * `damage`: what that worker found. `isPatient`: a file that can't be read for now is no damage yet
   */
  readonly reopened?: {
    readonly trouble: Trouble | undefined;
    readonly damage?: Damage | undefined;
    readonly isPatient?: boolean;
  };
}

/** How the retained messages of one uplink's devices are encoded. */
export interface DeviceEncoder {
  /** whether this uplink gets anything of a device */
  wants(device: KnownDevice): boolean;
  /** `last/<device>`; undefined: it is not sent */
  latest(device: KnownDevice): Outgoing | undefined;
  /** `meta/<device>` */
  about(device: KnownDevice): Outgoing | undefined;
  /** what empties both */
  forgotten(device: string): readonly Outgoing[];
}

/** How the batches of one uplink are encoded. */
export interface BatchEncoder {
  /** A batch over `mostBytes` comes in parts. */
  encode(key: BatchKey, frames: readonly Frame[], mostBytes: number, traces?: Traces): EncodedBatch;
  /** undefined: no retained messages of devices */
  readonly devices: DeviceEncoder | undefined;
}

/** What the composition root hands to the worker's part of the outbox. */
export interface OutboxParts {
  readonly crc32c: Crc32c;
  readonly encoder: (uplink: UplinkPlan, plan: OutboxPlan) => BatchEncoder;
  /** the metric that says whether a device is there */
  readonly available: string;
}
