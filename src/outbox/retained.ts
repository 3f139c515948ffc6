/** The retained messages of one uplink: which devices have changed since theirs were sent, and what is to be sent now. */
import type { KnownDevice } from "../core/device.ts";
import type { Outgoing } from "../core/ports.ts";
import { Change, type Devices, type DeviceWatcher } from "./devices.ts";
import type { DeviceEncoder } from "./plan.ts";

/** Messages sent at a time at most, where the uplink's plan says no less. */
const MOST_AT_ONCE = 1_000;
/** Shortest time between two rounds, in milliseconds. */
const INTERVAL_MS = 1_000;
/** Least time between two rounds of everything, in milliseconds: a connection that comes and goes is not to be filled with them. */
const ALL_EVERY_MS = 60_000;
/** What was sent within this time may have been given back unsent, in milliseconds. */
const UNSURE_MS = 30_000;
/** Devices that wait at most before those that are forgotten are no longer noted: their messages stay. */
const MOST_WAITING = 20_000;

/** What of `last` and `meta` an uplink is still to be sent. Times are the caller's monotonic clock, in milliseconds. */
export class Retained implements DeviceWatcher {
  readonly #devices: Devices;
  readonly #encoder: DeviceEncoder;
  readonly #atOnce: number;
  /** what has changed, by device, the longest waiting first */
  readonly #changed = new Map<string, number>();
  /** what was sent lately, in two generations */
  #sent = new Map<string, number>();
  #sentBefore = new Map<string, number>();
  #turnedMs = 0;
  #nextMs = 0;
  /** when everything is to be sent, once at first; a broker that is lost soon after gets it again at once */
  #allMs: number | undefined = Number.NEGATIVE_INFINITY;
  #lastAllMs = Number.NEGATIVE_INFINITY;
  #started = false;

  constructor(devices: Devices, encoder: DeviceEncoder, atOnce: number = MOST_AT_ONCE) {
    this.#devices = devices;
    this.#encoder = encoder;
    this.#atOnce = Math.min(atOnce, MOST_AT_ONCE);
    devices.watch(this);
  }

  changed(known: KnownDevice, what: number): void {
    if (this.#encoder.wants(known)) this.#note(known.device, what);
  }

  #note(device: string, what: number): void {
    const before = this.#changed.get(device);
    if (before === undefined && what === Change.gone && this.#changed.size >= MOST_WAITING) return;
    this.#changed.set(device, (before ?? 0) | what);
  }

  /** When {@link take} gives something; undefined while nothing has changed. */
  get dueMs(): number | undefined {
    return this.#changed.size > 0 ? this.#nextMs : this.#allMs;
  }

  /** A new connection: its broker may have nothing. */
  connected(): void {
    this.#allMs ??= this.#lastAllMs + ALL_EVERY_MS;
  }

  /** Messages came back unsent. */
  released(): void {
    for (const sent of [this.#sentBefore, this.#sent]) {
      for (const [device, what] of sent) this.#note(device, what);
      sent.clear();
    }
  }

  /** The messages of devices that have changed; none within a second of the last. */
  take(nowMs: number): Outgoing[] {
    if (this.#allMs !== undefined && nowMs >= this.#allMs) {
      if (this.#started) this.#lastAllMs = nowMs;
      this.#started = true;
      this.#allMs = undefined;
      for (const device of this.#devices.all()) this.changed(device, Change.latest | Change.about);
    }
    if (this.#changed.size === 0 || nowMs < this.#nextMs) return [];
    this.#nextMs = nowMs + INTERVAL_MS;
    if (nowMs - this.#turnedMs > UNSURE_MS) {
      this.#turnedMs = nowMs;
      this.#sentBefore = this.#sent;
      this.#sent = new Map();
    }
    const out: Outgoing[] = [];
    for (const [device, what] of this.#changed) {
      this.#changed.delete(device);
      this.#sent.set(device, (this.#sent.get(device) ?? 0) | what);
      out.push(...this.#messages(device, what));
      if (out.length >= this.#atOnce) break;
    }
    return out;
  }

  #messages(name: string, what: number): readonly Outgoing[] {
    const device = this.#devices.get(name);
    if (device === undefined) return (what & Change.gone) === 0 ? [] : this.#encoder.forgotten(name);
    const latest = (what & Change.latest) === 0 ? undefined : this.#encoder.latest(device);
    const about = (what & Change.about) === 0 ? undefined : this.#encoder.about(device);
    return [latest, about].filter((message) => message !== undefined);
  }
}
