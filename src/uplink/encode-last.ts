/** The latest value of every metric, device by device, as flat retained messages (docs/specs/json.md). */
import { type Frame, Kind, Status } from "../core/frame.ts";
import type { Outgoing } from "../core/ports.ts";
import { jsonValue, milliseconds, qualityOf } from "./encode-json.ts";
import { fillTopic } from "./topics.ts";

/** What is kept at most, for one uplink. */
const MOST_DEVICES = 10_000;
const MOST_BYTES = 16 * 2 ** 20;
/** Messages sent at a time at most. */
const MOST_AT_ONCE = 1_000;
/** Shortest time between two rounds, in milliseconds. */
const INTERVAL_MS = 1_000;
/** What a metric or a device takes beside its text, roughly. */
const ENTRY_BYTES = 96;

const encoder = new TextEncoder();

interface Latest {
  /** the place of the batch that it came with */
  order: number;
  /** as JSON */
  json: string;
}

interface Device {
  readonly values: Map<string, Latest>;
  timeUs: number;
  status: number;
  order: number;
}

/** The latest values of one uplink's devices, and which of them have changed since they were sent. */
export class LastValues {
  readonly #template: string;
  readonly #gateway: string;
  readonly #devices = new Map<string, Device>();
  /** devices that have changed, the longest waiting first */
  readonly #changed = new Set<string>();
  #bytes = 0;
  #nextMs = 0;
  /** values that were not kept because of the limits */
  skipped = 0;

  constructor(template: string, gateway: string) {
    this.#template = template;
    this.#gateway = gateway;
  }

  /** Takes a batch's values in; `order` is its place. A value is only replaced by one of the same or a later batch. */
  update(frames: readonly Frame[], order: number): void {
    for (const frame of frames) this.#update(frame, order);
  }

  #update(frame: Frame, order: number): void {
    const { rows, device, metric, status, devices, metrics } = frame;
    const placeOf = (row: number): number => (device[row] ?? 0) * metrics.length + (metric[row] ?? 0);
    // Of a metric that comes often only its last row does any work.
    const last = new Map<number, number>();
    for (let row = 0; row < rows; row++) {
      if (((status[row] ?? 0) & Status.historical) === 0) last.set(placeOf(row), row);
    }
    for (const row of last.values()) {
      this.#set(devices[device[row] ?? 0] ?? "", metrics[metric[row] ?? 0] ?? "", frame, row, order);
    }
  }

  #set(name: string, metric: string, frame: Frame, row: number, order: number): void {
    // These two members are ours.
    if (metric === "_ts" || metric === "_q") return;
    const device = this.#devices.get(name);
    const before = device?.values.get(metric);
    if (before !== undefined && before.order > order) return;
    const json = frame.kind[row] === Kind.number ? String(frame.value[row] ?? 0) : jsonValue(frame, row);
    const grows =
      json.length -
      (before === undefined ? -metric.length - ENTRY_BYTES : before.json.length) +
      (device === undefined ? name.length + ENTRY_BYTES : 0);
    const full =
      (device === undefined && this.#devices.size >= MOST_DEVICES) ||
      (grows > 0 && this.#bytes + grows > MOST_BYTES);
    if (full) {
      this.skipped += 1;
      return;
    }
    this.#bytes += grows;
    const timeUs = frame.time[row] ?? 0;
    const status = frame.status[row] ?? 0;
    if (device === undefined) {
      this.#devices.set(name, { values: new Map([[metric, { order, json }]]), timeUs, status, order });
    } else {
      if (before === undefined) device.values.set(metric, { order, json });
      else {
        before.order = order;
        before.json = json;
      }
      if (order > device.order || (order === device.order && timeUs >= device.timeUs)) {
        device.timeUs = timeUs;
        device.status = status;
        device.order = order;
      }
    }
    this.#changed.add(name);
  }

  /** When {@link take} gives something, in the clock of its argument; undefined while nothing has changed. */
  get dueMs(): number | undefined {
    return this.#changed.size === 0 ? undefined : this.#nextMs;
  }

  /** Every device is to be sent again. */
  refresh(): void {
    for (const name of this.#devices.keys()) this.#changed.add(name);
  }

  /** The messages of devices that have changed; none within a second of the last. */
  take(nowMs: number): Outgoing[] {
    if (this.#changed.size === 0 || nowMs < this.#nextMs) return [];
    this.#nextMs = nowMs + INTERVAL_MS;
    const out: Outgoing[] = [];
    for (const name of this.#changed) {
      this.#changed.delete(name);
      const device = this.#devices.get(name);
      if (device !== undefined) out.push(this.#message(name, device));
      if (out.length === MOST_AT_ONCE) break;
    }
    return out;
  }

  #message(name: string, { values, timeUs, status }: Device): Outgoing {
    let text = "{";
    for (const [metric, { json }] of values) text += `${JSON.stringify(metric)}:${json},`;
    text += `"_ts":${milliseconds(timeUs)},"_q":"${qualityOf(status)}"}`;
    return {
      topic: fillTopic(this.#template, { gateway: this.#gateway, device: name }),
      payload: encoder.encode(text),
      qos: 1,
      retain: true,
      contentType: "application/json",
      userProperties: undefined,
    };
  }
}
