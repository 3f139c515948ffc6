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
  find({ rows, device, metric, status, devices, metrics }: Frame): number {
    const width = metrics.length;
    const places = devices.length * width;
    if (this.rows.length < rows) this.rows = new Uint32Array(rows);
    const isNew = places > MOST_PLACES ? inSet() : this.#inTable(places);
    let count = 0;
    for (let row = rows - 1; row >= 0; row--) {
      if (((status[row] ?? 0) & Status.historical) !== 0) continue;
      if (isNew((device[row] ?? 0) * width + (metric[row] ?? 0))) this.rows[count++] = row;
    }
    return count;
  }

  #inTable(places: number): (place: number) => boolean {
    this.#stamp += 1;
    if (this.#stamps.length < places || this.#stamp === 2 ** 32) {
      this.#stamps = new Uint32Array(Math.max(this.#stamps.length, places));
      this.#stamp = 1;
    }
    const stamps = this.#stamps;
    const stamp = this.#stamp;
    return (place) => {
      if (stamps[place] === stamp) return false;
      stamps[place] = stamp;
      return true;
    };
  }
}

function inSet(): (place: number) => boolean {
  const seen = new Set<number>();
  return (place) => {
    if (seen.has(place)) return false;
    seen.add(place);
    return true;
  };
}
