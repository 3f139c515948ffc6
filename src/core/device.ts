/** What is known of a device beside its samples: where it comes from, what it is, and the latest value of each of its metrics. */
import type { Kind } from "./frame.ts";
import type { Stream } from "./ports.ts";

/** What is said of one metric, beyond what its samples say. */
export interface MetricAbout {
  /** UCUM */
  readonly unit?: string | undefined;
  readonly description?: string | undefined;
}

/** Where a device's samples come from, and what a rule or the device's bridge says of it. All of it is for people to read. */
export interface DeviceAbout {
  /** the source's name, such as `devices` or `mqtt/plant` */
  readonly source?: string | undefined;
  /** the topic pattern of its mapping rule */
  readonly rule?: string | undefined;
  /** what decodes its payloads: the name of a built-in decoder or of a plugin */
  readonly decoder?: string | undefined;
  readonly name?: string | undefined;
  readonly model?: string | undefined;
  readonly manufacturer?: string | undefined;
  /** version of its firmware */
  readonly firmware?: string | undefined;
  readonly description?: string | undefined;
  /** by metric name; `*` stands for any characters, the first that fits holds */
  readonly metrics?: Readonly<Record<string, MetricAbout>> | undefined;
}

/** Something that was learnt of a device. What it leaves out stays as it is known. */
export interface DeviceNews {
  readonly device: string;
  readonly about: DeviceAbout;
}

/** A metric's latest value. */
export interface LatestValue {
  readonly kind: Kind;
  /** kind of the latest value that was not null */
  readonly type: Kind;
  /** the number; 0 or 1; 0 for null and where there is `data` */
  readonly number: number;
  /** the text, or the bytes */
  readonly data: string | Uint8Array | undefined;
  /** UCUM, "" when unknown */
  readonly unit: string;
  /** microseconds since the Unix epoch */
  readonly timeUs: number;
  readonly status: number;
}

/** A device as it is known now. Changes with the next sample: to be read at once, not to be kept. */
export interface KnownDevice {
  readonly device: string;
  readonly stream: Stream;
  /** when its first and its latest sample came, in milliseconds since the Unix epoch */
  readonly firstMs: number;
  readonly lastMs: number;
  readonly about: DeviceAbout;
  /** by metric, in order of first appearance */
  readonly values: ReadonlyMap<string, LatestValue>;
  /** the one that came last */
  readonly latest: LatestValue | undefined;
}

/** A device as an earlier run has left it. */
export interface RememberedDevice {
  readonly device: string;
  readonly source: string | undefined;
  readonly rule: string | undefined;
  /** its latest quality was stale: it was gone */
  readonly gone: boolean;
}

/** Metrics of one device of which something is said, at most. */
const MOST_SAID = 1024;

/** What is known, with what is new: of metrics each on its own. */
export function mergeAbout(before: DeviceAbout, news: DeviceAbout): DeviceAbout {
  if (before.metrics === undefined || news.metrics === undefined) return { ...before, ...news };
  const metrics = new Map(Object.entries(before.metrics));
  for (const [name, what] of Object.entries(news.metrics)) {
    if (metrics.has(name) || metrics.size < MOST_SAID) metrics.set(name, { ...metrics.get(name), ...what });
  }
  return { ...before, ...news, metrics: Object.fromEntries(metrics) };
}
