/** One device in memory, with its values, and the page that it is stored on. */
import type { DeviceAbout, KnownDevice, LatestValue } from "../core/device.ts";
import { type Frame, Kind, Status } from "../core/frame.ts";
import type { Stream } from "../core/ports.ts";

/** A metric's latest value, and when it came (ms since the Unix epoch). */
export interface Value extends LatestValue {
  kind: Kind;
  type: Kind;
  number: number;
  data: string | Uint8Array | undefined;
  unit: string;
  timeUs: number;
  status: number;
  seenMs: number;
}

/** Devices that are stored together, as one frame: twenty that send all the time are one row of the database, not twenty. */
export interface Page {
  readonly id: number;
  readonly devices: Set<Device>;
  /** differs from its row since, on the monotonic clock; undefined: it does not */
  dirtyMs: number | undefined;
  /** about what it takes in the database */
  storedBytes: number;
}

/** About what a value takes in the database beside its characters. */
const VALUE_BYTES = 8;

/** About how many bytes a page will take in the database. */
export function pageBytes({ devices }: Page): number {
  let bytes = 0;
  for (const { characters, values } of devices) bytes += characters + VALUE_BYTES * values.size;
  return bytes;
}

/** The row of a device. */
export type DeviceRow = Pick<KnownDevice, "device" | "stream" | "firstMs" | "lastMs" | "about">;

/** One device. */
export class Device implements KnownDevice {
  readonly device: string;
  readonly stream: Stream;
  readonly firstMs: number;
  readonly values = new Map<string, Value>();
  lastMs: number;
  about: DeviceAbout;
  latest: Value | undefined;
  page: Page;
  /** `lastMs` as it was told and stored */
  toldMs: number;
  /** its row is not as it is */
  dirty = true;
  characters: number;
  /** no metric of it gives way before then */
  fullUntilMs = 0;
  /** names of metrics with labels, without them */
  #families: Set<string> | undefined;

  constructor({ device, stream, firstMs, lastMs, about }: DeviceRow, page: Page) {
    this.device = device;
    this.stream = stream;
    this.firstMs = firstMs;
    this.lastMs = lastMs;
    this.toldMs = lastMs;
    this.about = about;
    this.page = page;
    this.characters = charactersOf(device, about);
  }

  /** Whether a new metric is one more in its `meta`: of those that differ in their labels alone, the first is. */
  isNews(metric: string): boolean {
    const end = metric.indexOf(";");
    if (end < 0) return true;
    const family = metric.slice(0, end);
    this.#families ??= new Set();
    if (this.#families.has(family)) return false;
    this.#families.add(family);
    return true;
  }
}

/** Whether a device is gone: its latest quality is stale. */
export const isStale = (latest: LatestValue | undefined): boolean =>
  latest !== undefined && (latest.status & Status.qualityMask) === Status.stale;

/** What a device counts for beside its values. */
export const charactersOf = (device: string, about: DeviceAbout): number =>
  device.length + JSON.stringify(about).length;

/** A string on its own: one cut out of a dictionary's text would keep all of that alive. */
export const own = (text: string): string => (text.length > 12 ? Buffer.from(text).toString() : text);

/** A row's text or bytes, on their own; undefined for other kinds. */
export function dataAt({ kind, value, texts, blobs }: Frame, row: number): Value["data"] {
  const at = value[row] ?? 0;
  switch (kind[row]) {
    case Kind.text:
      return own(texts[at] ?? "");
    case Kind.bytes:
      return Uint8Array.from(blobs[at] ?? []);
    default:
      return undefined;
  }
}

/** Whether a value is what a row says. */
export function isValue({ kind, number, data }: Value, frame: Frame, row: number): boolean {
  if (kind !== frame.kind[row]) return false;
  const given = dataAt(frame, row);
  if (data instanceof Uint8Array && given instanceof Uint8Array) return Buffer.compare(data, given) === 0;
  return data === given && (data !== undefined || number === frame.value[row]);
}
