/**
 * What is known of every device, in memory: the latest value of each of its metrics, and what it is. It is what the retained
 * `last` and `meta` messages are made of (retained.ts), and is kept in the database (device-keeper.ts). Bounded, whatever comes in:
 * what finds no room is counted.
 */
import {
  type DeviceAbout,
  type DeviceNews,
  type KnownDevice,
  mergeAbout,
  type RememberedDevice,
} from "../core/device.ts";
import { type Frame, Kind, Status } from "../core/frame.ts";
import type { Stream } from "../core/ports.ts";
import { Awaited } from "./awaited.ts";
import {
  charactersOf,
  Device,
  type DeviceRow,
  dataAt,
  isStale,
  isValue,
  own,
  type Page,
  type Value,
} from "./device.ts";
import { LastRows } from "./last-rows.ts";
import { Pages } from "./pages.ts";

/** What is kept at most: devices, values, and characters of names, texts and what is known of devices. */
const MOST_DEVICES = 10_000;
const MOST_VALUES = 100_000;
const MOST_CHARACTERS = 16 * 2 ** 20;
/** Of one device. */
const MOST_METRICS = 4_096;
const MOST_DEVICE_CHARACTERS = 2 ** 20;

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** A device that was silent for so long is forgotten. */
const FORGET_MS = 30 * DAY_MS;
/** One that was silent for so long gives way to a new one when there is no room, and a metric to a new one of its device. */
const GIVE_WAY_MS = DAY_MS;
/** A metric with labels that was silent for so long while its device sent is forgotten: processes and peers come and go. */
const FORGET_LABELLED_MS = HOUR_MS;
/** After a start, and after a jump of the clock, devices have so long to speak before any is forgotten. */
const GRACE_MS = DAY_MS;
/** How often devices are looked at that may be forgotten, and when each came last is told and stored. */
const SWEEP_MS = HOUR_MS;

/** What has changed of a device, as bits. */
export const Change = { latest: 1, about: 2, gone: 4 } as const;

/** Told of every change. It only takes notes: it must not call back. */
export interface DeviceWatcher {
  changed(device: Device, what: number): void;
}

/** A page as it was stored. */
export interface StoredPage {
  readonly id: number;
  readonly frame: Frame;
}

/** Every device that is known. */
export class Devices {
  readonly #devices = new Map<string, Device>();
  readonly #awaited = new Awaited();
  readonly #watchers: DeviceWatcher[] = [];
  readonly #lastRows = new LastRows();
  readonly #mostCharacters: number;
  readonly #mostValues: number;
  /** where they are stored */
  readonly pages: Pages = new Pages();
  #characters = 0;
  #values = 0;
  #sweptMs: number;
  #graceUntilMs: number;
  /** no device gives way before then */
  #fullUntilMs = 0;
  /** samples whose value was not kept, for want of room */
  unkept = 0;

  /** `maxBytes`: size of the database, of which this is to take a small part. */
  constructor(maxBytes: number, nowMs: number) {
    this.#mostCharacters = Math.min(MOST_CHARACTERS, Math.floor(maxBytes / 16));
    this.#mostValues = Math.min(MOST_VALUES, Math.floor(maxBytes / 256));
    this.#sweptMs = nowMs;
    this.#graceUntilMs = nowMs + GRACE_MS;
  }

  get size(): number {
    return this.#devices.size;
  }

  watch(watcher: DeviceWatcher): void {
    this.#watchers.push(watcher);
  }

  get(device: string): KnownDevice | undefined {
    return this.#devices.get(device);
  }

  all(): Iterable<KnownDevice> {
    return this.#devices.values();
  }

  /** What is to be known of each by those who look for silence. */
  remembered(): RememberedDevice[] {
    return Array.from(this.#devices.values(), ({ device, about: { source, rule }, latest }) => {
      return { device, source, rule, gone: isStale(latest) };
    });
  }

  /** Takes in committed rows. Historical ones, which are late, replace nothing. */
  update(stream: Stream, frame: Frame, nowMs: number): void {
    const { device, status } = frame;
    const count = this.#lastRows.find(frame);
    const { rows } = this.#lastRows;
    let at = -1;
    let found: Device | undefined;
    for (let i = count - 1; i >= 0; i--) {
      const row = rows[i] ?? 0;
      const d = device[row] ?? 0;
      if (d !== at) {
        at = d;
        found = this.#find(frame.devices[d] ?? "", stream, nowMs);
        if (found !== undefined) {
          found.lastMs = nowMs;
          this.#touch(found, Change.latest);
        }
      }
      if (found === undefined) {
        this.unkept += 1;
        continue;
      }
      let bits = status[row] ?? 0;
      // What a broker had kept is no sign of life.
      if ((bits & Status.retained) !== 0 && isStale(found.latest)) bits |= Status.stale;
      this.#set(found, frame, row, bits, nowMs);
    }
  }

  /**
   * Takes in the rows of a message that a broker had kept, without a time of the device's. A value that was not known is of an
   * unknown age, so its quality is uncertain; but `available` says itself what the device is.
   */
  refresh(frame: Frame, available: string, nowMs: number): void {
    const { device, metric, status } = frame;
    for (let row = 0; row < frame.rows; row++) {
      const found = this.#find(frame.devices[device[row] ?? 0] ?? "", "data", nowMs);
      if (found === undefined) {
        this.unkept += 1;
        continue;
      }
      const name = frame.metrics[metric[row] ?? 0] ?? "";
      const before = found.values.get(name);
      let bits = status[row] ?? 0;
      if (before !== undefined && isValue(before, frame, row) && name !== available) continue;
      if (name !== available) bits |= isStale(found.latest) ? Status.stale : Status.uncertain;
      this.#set(found, frame, row, bits, nowMs);
      this.#touch(found, Change.latest);
    }
  }

  /** Takes in what was learnt of devices. Of one that is not known yet it waits for the first sample, which may never come. */
  learn(news: readonly DeviceNews[]): void {
    for (const { device, about } of news) {
      const known = this.#devices.get(device);
      if (known !== undefined) this.#learn(known, about);
      else this.#awaited.learn(device, about);
    }
  }

  #learn(device: Device, about: DeviceAbout): void {
    const next = mergeAbout(device.about, about);
    const grows = charactersOf(device.device, next) - charactersOf(device.device, device.about);
    if (grows === 0 && JSON.stringify(next) === JSON.stringify(device.about)) return;
    if (grows > 0 && !this.#fits(device, 0, grows)) return;
    device.characters += grows;
    this.#characters += grows;
    device.about = next;
    device.dirty = true;
    this.#touch(device, Change.about);
  }

  /** Forgets what has been silent for too long; of the others it is told when they came last. Call it every second or so. */
  sweep(nowMs: number): void {
    if (nowMs >= this.#sweptMs && nowMs - this.#sweptMs < SWEEP_MS) return;
    // The clock was set: nobody is forgotten for a silence that was none.
    if (nowMs < this.#sweptMs || nowMs - this.#sweptMs > 2 * SWEEP_MS) this.#graceUntilMs = nowMs + GRACE_MS;
    this.#sweptMs = nowMs;
    for (const device of this.#devices.values()) {
      if (nowMs >= this.#graceUntilMs && nowMs - device.lastMs > FORGET_MS) this.#forget(device);
      else if (device.lastMs !== device.toldMs) {
        for (const [name, { seenMs }] of device.values)
          if (name.includes(";") && device.lastMs - seenMs > FORGET_LABELLED_MS) this.#drop(device, name);
        device.toldMs = device.lastMs;
        device.dirty = true;
        this.#touch(device, Change.about);
      }
    }
  }

  // ------------------------------------------------------------------------------------------------------- on disk

  /** Takes in what an earlier run has stored: before anything else. */
  load(rows: Iterable<DeviceRow>, stored: readonly StoredPage[], nowMs: number): void {
    const pageOf = new Map<string, Page>();
    const pages = stored.map(({ id, frame }) => {
      const page = this.pages.known(id);
      for (const name of frame.devices) pageOf.set(name, page);
      return { page, devices: frame.devices.length };
    });
    for (const row of rows) {
      const characters = charactersOf(row.device, row.about);
      if (this.#devices.size >= MOST_DEVICES || this.#characters + characters > this.#mostCharacters) {
        this.pages.forget(row.device);
        continue;
      }
      this.#add(row, pageOf.get(row.device)).dirty = false;
    }
    for (const { frame } of stored) {
      for (let row = 0; row < frame.rows; row++) {
        const device = this.#devices.get(frame.devices[frame.device[row] ?? 0] ?? "");
        if (device !== undefined) this.#set(device, frame, row, frame.status[row] ?? 0, nowMs);
      }
    }
    this.pages.loaded(pages);
    this.unkept = 0;
  }

  // --------------------------------------------------------------------------------------------------------- parts

  /** The device, made if there is room for it. */
  #find(name: string, stream: Stream, nowMs: number): Device | undefined {
    const known = this.#devices.get(name);
    if (known !== undefined) return known;
    const about = this.#awaited.get(name) ?? {};
    if (!this.#hasRoom(charactersOf(name, about), nowMs)) return undefined;
    this.#awaited.delete(name);
    return this.#add({ device: own(name), stream, firstMs: nowMs, lastMs: nowMs, about });
  }

  #add(row: DeviceRow, page: Page = this.pages.place()): Device {
    const device = new Device(row, page);
    page.devices.add(device);
    this.#characters += device.characters;
    this.#devices.set(device.device, device);
    return device;
  }

  /** Whether a new device fits, at the cost of one that was silent for long. */
  #hasRoom(characters: number, nowMs: number): boolean {
    const fits = (): boolean =>
      this.#devices.size < MOST_DEVICES &&
      this.#values < this.#mostValues &&
      this.#characters + characters <= this.#mostCharacters;
    if (fits()) return true;
    if (nowMs < this.#fullUntilMs || nowMs < this.#graceUntilMs) return false;
    let silent: Device | undefined;
    for (const device of this.#devices.values())
      if (silent === undefined || device.lastMs < silent.lastMs) silent = device;
    if (silent === undefined) return false;
    this.#fullUntilMs = silent.lastMs + GIVE_WAY_MS;
    if (nowMs < this.#fullUntilMs) return false;
    this.#forget(silent);
    return fits();
  }

  #forget(device: Device): void {
    this.#devices.delete(device.device);
    this.#characters -= device.characters;
    this.#values -= device.values.size;
    this.pages.leave(device);
    for (const watcher of this.#watchers) watcher.changed(device, Change.gone);
  }

  #set(device: Device, frame: Frame, row: number, status: number, nowMs: number): void {
    const m = frame.metric[row] ?? 0;
    const name = frame.metrics[m] ?? "";
    // These two members of `last` are ours.
    if (name === "_ts" || name === "_q") return;
    const kind = (frame.kind[row] ?? Kind.null) as Kind;
    const data = kind === Kind.text || kind === Kind.bytes ? dataAt(frame, row) : undefined;
    const number = data === undefined ? (frame.value[row] ?? 0) : 0;
    const unit = frame.units[m] ?? "";
    const timeUs = frame.time[row] ?? 0;
    const before = device.values.get(name);
    const grows = (data?.length ?? 0) - (before === undefined ? -name.length : (before.data?.length ?? 0));
    const more = before === undefined ? 1 : 0;
    if (more + grows > 0 && !this.#fits(device, more, grows) && !this.#giveWay(device, more, grows, nowMs)) {
      this.unkept += 1;
      return;
    }
    device.characters += grows;
    this.#characters += grows;
    this.#values += more;
    const type = kind === Kind.null ? (before?.type ?? kind) : kind;
    if (before === undefined) {
      const made: Value = { kind, type, number, data, unit: own(unit), timeUs, status, seenMs: nowMs };
      device.values.set(own(name), made);
      device.latest = made;
      if (device.isNews(name)) this.#touch(device, Change.about);
      return;
    }
    if (before.type !== type || before.unit !== unit) {
      before.type = type;
      before.unit = own(unit);
      this.#touch(device, Change.about);
    }
    before.kind = kind;
    before.number = number;
    before.data = data;
    before.timeUs = timeUs;
    before.status = status;
    before.seenMs = nowMs;
    device.latest = before;
  }

  #fits(device: Device, values: number, characters: number): boolean {
    return (
      device.values.size + values <= MOST_METRICS &&
      device.characters + characters <= MOST_DEVICE_CHARACTERS &&
      this.#values + values <= this.#mostValues &&
      this.#characters + characters <= this.#mostCharacters
    );
  }

  /** Whether a value fits at the cost of a metric of the same device that was silent for long. */
  #giveWay(device: Device, values: number, characters: number, nowMs: number): boolean {
    if (nowMs < device.fullUntilMs) return false;
    let silent: [string, Value] | undefined;
    for (const entry of device.values)
      if (silent === undefined || entry[1].seenMs < silent[1].seenMs) silent = entry;
    if (silent === undefined) return false;
    const [name, { seenMs }] = silent;
    device.fullUntilMs = seenMs + GIVE_WAY_MS;
    if (nowMs < device.fullUntilMs) return false;
    this.#drop(device, name);
    return this.#fits(device, values, characters);
  }

  #drop(device: Device, name: string): void {
    const size = (device.values.get(name)?.data?.length ?? 0) + name.length;
    device.values.delete(name);
    device.characters -= size;
    this.#characters -= size;
    this.#values -= 1;
  }

  #touch(device: Device, what: number): void {
    this.pages.soil(device.page);
    for (const watcher of this.#watchers) watcher.changed(device, what);
  }
}
