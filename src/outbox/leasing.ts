/** Leasing: which batches an uplink gets next. The rule is in docs/specs/outbox.md. */
import type { Stream } from "../core/ports.ts";
import type { Batch, Lane, Lanes } from "./lanes.ts";
import type { Sealer } from "./sealing.ts";

/** Batches given out by one lease have at most this many (estimated) bytes, or are one. */
const LEASE_BYTES = 2 ** 20;

/** When a lease is asked for. */
export interface Moment {
  /** this run's epoch */
  readonly epoch: string;
  /** id of the newest chunk */
  readonly lastChunk: number;
  /** ms since the Unix epoch */
  readonly nowMs: number;
}

/** Leases of all uplinks. Every call runs inside the caller's transaction. */
export class Leasing {
  readonly #lanes: Lanes;
  readonly #sealer: Sealer;
  /** batches that each uplink may have on lease, as of its last lease */
  readonly #windows = new Map<string, number>();

  constructor(lanes: Lanes, sealer: Sealer) {
    this.#lanes = lanes;
    this.#sealer = sealer;
  }

  /**
   * Leases up to `count` batches of an uplink: live ones by priority, sealed ones first in each stream, then those that are
   * due; beside them backlog, which has its share of the window.
   */
  lease(uplink: string, count: number, { epoch, lastChunk, nowMs }: Moment, stream?: Stream): Batch[] {
    const lanes = this.#lanes.ofUplink(uplink);
    let leased = 0;
    for (const lane of lanes) {
      lane.turnToBacklog(lastChunk, nowMs);
      leased += lane.batches.filter(({ id }) => this.#lanes.leased.has(id)).length;
    }
    this.#windows.set(uplink, count + leased);
    const room = this.#shares(uplink, lanes);
    const taken: Batch[] = [];
    let bytes = 0;
    const take = (most: number, historical: 0 | 1, seal: (lane: Lane) => Batch | undefined): void => {
      let left = Math.min(most, count - taken.length);
      for (const lane of lanes) {
        if (stream !== undefined && stream !== lane.stream) continue;
        const waiting = lane.batches.filter(
          (batch) => batch.historical === historical && !this.#lanes.leased.has(batch.id),
        );
        while (left > 0 && (bytes <= LEASE_BYTES || taken.length === 0)) {
          const batch = waiting.shift() ?? seal(lane);
          if (batch === undefined) break;
          this.#lanes.leased.add(batch.id);
          taken.push(batch);
          bytes += batch.bytes;
          left -= 1;
        }
      }
    };
    take(room.live, 0, (lane) => this.#sealer.seal(lane, epoch, nowMs));
    take(room.backlog, 1, (lane) => this.#sealer.sealBacklog(lane));
    return taken;
  }

  /** When a lease gives an uplink something: 0 for now, else ms since the Unix epoch; undefined when nothing is stored for it. */
  dueAt(uplink: string, { epoch, nowMs }: Moment): number | undefined {
    let due: number | undefined;
    const lanes = this.#lanes.ofUplink(uplink);
    const room = this.#shares(uplink, lanes);
    for (const lane of lanes) {
      const { batches, backlog } = lane;
      if (room.backlog > 0 && backlog.length > 0) return 0;
      const waits = (batch: Batch): boolean =>
        (batch.historical === 1 ? room.backlog : room.live) > 0 && !this.#lanes.leased.has(batch.id);
      if (batches.some(waits)) return 0;
      if (room.live <= 0) continue;
      const at = lane.dueAt(epoch, nowMs);
      if (at !== undefined && (due === undefined || at < due)) due = at;
    }
    return due;
  }

  /** Batches, live and of backlog, that an uplink may still have on lease. */
  #shares(uplink: string, lanes: readonly Lane[]): { readonly live: number; readonly backlog: number } {
    const window = this.#windows.get(uplink) ?? Number.MAX_SAFE_INTEGER;
    const leased = [0, 0];
    let any = false;
    for (const { batches, backlog } of lanes) {
      any ||= backlog.length > 0;
      for (const { id, historical } of batches) {
        any ||= historical === 1;
        if (this.#lanes.leased.has(id)) leased[historical] = (leased[historical] ?? 0) + 1;
      }
    }
    const [live = 0, backlog = 0] = leased;
    if (!any) return { live: window - live, backlog: 0 };
    const share = Math.max(1, Math.floor(window * (lanes[0]?.replay?.share ?? 1)));
    return { live: Math.max(1, window - share) - live, backlog: share - backlog };
  }
}
