/** Which rows an uplink sends. */
import type { Frame } from "../core/frame.ts";
import { select } from "../core/frame-builder.ts";
import { type Matcher, matcher } from "../core/glob.ts";

/** Patterns over names; `*` stands for any characters. */
export interface RowFilterPlan {
  readonly devices: readonly string[];
  readonly metrics: readonly string[];
}

/** The filter of one uplink, with answers remembered for each name. */
export class RowFilter {
  readonly #devices: Matcher;
  readonly #metrics: Matcher;

  constructor({ devices, metrics }: RowFilterPlan) {
    this.#devices = matcher(devices);
    this.#metrics = matcher(metrics);
  }

  /** Whether rows of a device pass. */
  device(name: string): boolean {
    return this.#devices(name);
  }

  /** Whether rows of a metric pass. Its labels are not looked at. */
  metric(name: string): boolean {
    return this.#metrics(name.split(";", 1)[0] ?? "");
  }

  /** The rows that pass: the frame itself when all do. */
  apply(frame: Frame): Frame {
    const devices = frame.devices.map((name) => (this.device(name) ? 1 : 0));
    const metrics = frame.metrics.map((name) => (this.metric(name) ? 1 : 0));
    if (!devices.includes(0) && !metrics.includes(0)) return frame;
    const keep = new Uint8Array(frame.rows);
    for (let row = 0; row < frame.rows; row++) {
      keep[row] = (devices[frame.device[row] ?? 0] ?? 0) & (metrics[frame.metric[row] ?? 0] ?? 0);
    }
    return select(frame, keep);
  }
}
