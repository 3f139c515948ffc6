/** Of a metric that comes often in a frame, only the last row is of interest to who keeps latest values. */
import { type Frame, Status } from "../core/frame.ts";

/** Places (device, metric) of a frame that a table is taken for: 256 KiB at most. A frame with more takes a set, which is slower. */
const MOST_PLACES = 65_536;

/** Finds the last row of each device and metric in a frame; reused from frame to frame, some 2 ns a row. */
export class LastRows {
  /** What {@link find} has found: rows in descending order. */
  rows: Uint32Array<ArrayBuffer> = new Uint32Array(4096);
  /** by place, the call that has seen it */
  #stamps = new Uint32Array(4096);
  #stamp = 0;

  /** Puts rows into {@link rows}, historical ones left out; gives how many. */
  find(frame: Frame): number {
    if (this.rows.length < frame.rows) this.rows = new Uint32Array(frame.rows);
    const places = frame.devices.length * frame.metrics.length;
    return places > MOST_PLACES ? this.#bySet(frame) : this.#byTable(frame, places);
  }

  #byTable({ rows, device, metric, status, metrics }: Frame, places: number): number {
    this.#stamp += 1;
    if (this.#stamps.length < places || this.#stamp === 2 ** 32) {
      this.#stamps = new Uint32Array(Math.max(this.#stamps.length, places));
      this.#stamp = 1;
    }
    const stamps = this.#stamps;
    const stamp = this.#stamp;
    const found = this.rows;
    const width = metrics.length;
    let count = 0;
    for (let row = rows - 1; row >= 0; row--) {
      const place = (device[row] ?? 0) * width + (metric[row] ?? 0);
      if (stamps[place] === stamp || ((status[row] ?? 0) & Status.historical) !== 0) continue;
      stamps[place] = stamp;
      found[count++] = row;
    }
    return count;
  }

  #bySet({ rows, device, metric, status, metrics }: Frame): number {
    const seen = new Set<number>();
    let count = 0;
    for (let row = rows - 1; row >= 0; row--) {
      const place = (device[row] ?? 0) * metrics.length + (metric[row] ?? 0);
      if (seen.has(place) || ((status[row] ?? 0) & Status.historical) !== 0) continue;
      seen.add(place);
      this.rows[count++] = row;
    }
    return count;
  }
}
