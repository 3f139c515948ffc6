/** What is known of devices, in the tables `device` and `last` (docs/specs/outbox.md). */
import type { Statement } from "better-sqlite3";
import type { Crc32c } from "../core/block.ts";
import type { DeviceAbout, MetricAbout } from "../core/device.ts";
import type { Frame } from "../core/frame.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import { STREAMS, type Stream } from "../core/ports.ts";
import { isDamage, loadFrame, storeFrame } from "./blocks.ts";
import { type Device, type DeviceRow, type Page, pageBytes } from "./device.ts";
import { Devices, type StoredPage } from "./devices.ts";
import type { Unstored } from "./pages.ts";
import type { Connection } from "./schema.ts";

/** A page that is larger is parted. One device has 4,096 values and 1 Mi characters at most, which fit. */
const MOST_ROWS = 16_384;
const MOST_BYTES = 2 ** 20;

interface Stored {
  readonly device: string;
  readonly stream: string;
  readonly first: number;
  readonly last: number;
  readonly about: string;
}

/** What is known is stored when it is this old, in milliseconds, and so many pages of it at a time (some 10 ms). */
const EVERY_MS = 5_000;
const MOST_PAGES = 32;

/** Devices with their tables, which are read once and then written. */
export class DeviceKeeper {
  /** what is known, as of the last {@link absorb} */
  readonly devices: Devices;
  readonly #db: Connection;
  readonly #crc32c: Crc32c;
  /** stored, or about to be, and not absorbed yet */
  #fresh: { readonly stream: Stream; readonly frame: Frame }[] = [];
  readonly #put: Statement<[string, string, number, number, string]>;
  readonly #delete: Statement<[string]>;
  readonly #putPage: Statement<[number, Uint8Array]>;
  readonly #deletePage: Statement<[number]>;

  /** `maxBytes`: size of the database. */
  constructor(db: Connection, crc32c: Crc32c, maxBytes: number, nowMs: number) {
    this.devices = new Devices(maxBytes, nowMs);
    this.#db = db;
    this.#crc32c = crc32c;
    this.#put = db.prepare(
      `INSERT INTO device VALUES (?, ?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET last = excluded.last, about = excluded.about`,
    );
    this.#delete = db.prepare("DELETE FROM device WHERE device = ?");
    this.#putPage = db.prepare(
      "INSERT INTO last VALUES (?, ?) ON CONFLICT DO UPDATE SET block = excluded.block",
    );
    this.#deletePage = db.prepare("DELETE FROM last WHERE id = ?");
  }

  /** Reads what is stored. A page that can't be read is left out: its values come again with the next samples. */
  load(nowMs: number): void {
    const rows = this.#db.prepare<[], Stored>("SELECT * FROM device ORDER BY last DESC").all();
    const pages: StoredPage[] = [];
    const stored = this.#db.prepare<[], { id: number; block: Buffer }>("SELECT id, block FROM last").all();
    for (const { id, block } of stored) {
      try {
        pages.push({ id, frame: loadFrame(block, this.#crc32c) });
      } catch (thrown) {
        if (!isDamage(thrown)) throw thrown;
        this.#deletePage.run(id);
      }
    }
    this.devices.load(rows.map(readRow), pages, nowMs);
  }

  /** Frames that wait for {@link absorb}. */
  get waiting(): number {
    return this.#fresh.length;
  }

  /** A frame is part of the transaction that is under way. */
  add(stream: Stream, frame: Frame): void {
    if (stream !== "alarm" && frame.rows > 0) this.#fresh.push({ stream, frame });
  }

  /** The transaction was rolled back: only so many frames wait. */
  rollBack(waiting: number): void {
    this.#fresh.length = waiting;
  }

  /** Takes what was committed since the last call into {@link devices}: it need not be waited for. */
  absorb(nowMs: number): void {
    for (const { stream, frame } of this.#fresh) this.devices.update(stream, frame, nowMs);
    this.#fresh = [];
  }

  /** What is to be stored: some of what is old enough, or all; undefined when there is nothing. `grows`: bytes that it will take more. */
  due(all: boolean): (Unstored & { readonly grows: number }) | undefined {
    const since = performance.now() - (all ? 0 : EVERY_MS);
    const { pages, gone } = this.devices.pages.unstored(all ? Number.POSITIVE_INFINITY : MOST_PAGES, since);
    if (pages.length === 0 && gone.length === 0) return undefined;
    const grows = pages.reduce((sum, page) => sum + Math.max(0, pageBytes(page) - page.storedBytes), 0);
    return { pages, gone, grows };
  }

  /** Writes pages and the rows of their devices that have changed, inside the caller's transaction. */
  write({ pages, gone }: Unstored): void {
    for (const device of gone) if (this.devices.get(device) === undefined) this.#delete.run(device);
    for (const page of pages) {
      const block = this.#block(page);
      if (block === undefined) this.#deletePage.run(page.id);
      else this.#putPage.run(page.id, block);
      for (const { device, stream, firstMs, lastMs, about, dirty } of page.devices)
        if (dirty) this.#put.run(device, stream, firstMs, lastMs, JSON.stringify(about));
    }
  }

  /** That transaction is committed. */
  written(stored: Unstored): void {
    this.devices.pages.stored(stored);
  }

  /** The page's values as a stored frame, each device's latest last; undefined when it has none. */
  #block(page: Page): Uint8Array | undefined {
    const builder = new FrameBuilder(PAGE_ROWS);
    for (const device of [...page.devices]) {
      const over =
        builder.rows + device.values.size > MOST_ROWS || builder.byteLength + device.characters > MOST_BYTES;
      if (over && builder.rows > 0) this.devices.pages.move(device);
      else addDevice(builder, device);
    }
    return builder.rows === 0 ? undefined : storeFrame(builder.build(), this.#crc32c);
  }
}

/** Rows that a page's frame has room for at first. */
const PAGE_ROWS = 1024;

function addDevice(builder: FrameBuilder, { device, values, latest }: Device): void {
  const index = builder.device(device);
  for (const pass of [false, true]) {
    for (const [name, entry] of values) {
      if ((entry === latest) !== pass) continue;
      const { kind, number, data, unit, timeUs, status } = entry;
      let value = number;
      if (data !== undefined) value = typeof data === "string" ? builder.text(data) : builder.blob(data);
      builder.add(index, builder.metric(name, unit), timeUs, kind, status, value);
    }
  }
}

function readRow({ device, stream, first, last, about }: Stored): DeviceRow {
  const known = STREAMS.find((one) => one === stream) ?? "data";
  return { device, stream: known, firstMs: first, lastMs: last, about: readAbout(about) };
}

/** What stands there as it should; the rest is left out. */
function readAbout(text: string): DeviceAbout {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {
    return {};
  }
  const metrics = members(member(found, "metrics")).map(([name, what]): [string, MetricAbout] => [
    name,
    texts(what, ["unit", "description"]),
  ]);
  return {
    ...texts(found, [
      "source",
      "rule",
      "decoder",
      "name",
      "model",
      "manufacturer",
      "firmware",
      "description",
    ]),
    ...(metrics.length === 0 ? {} : { metrics: Object.fromEntries(metrics) }),
  };
}

const members = (value: unknown): [string, unknown][] =>
  typeof value === "object" && value !== null ? Object.entries(value) : [];

const member = (value: unknown, name: string): unknown => members(value).find(([key]) => key === name)?.[1];

function texts<K extends string>(value: unknown, names: readonly K[]): Partial<Record<K, string>> {
  const out: Partial<Record<K, string>> = {};
  for (const name of names) {
    const text = member(value, name);
    if (typeof text === "string") out[name] = text;
  }
  return out;
}
