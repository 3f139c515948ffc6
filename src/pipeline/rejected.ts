import type { DeviceMessage } from "../core/ports.ts";

/** A message that was not valid, as `weir tail --rejected` shows it. */
export interface Rejected {
  /** milliseconds since the Unix epoch */
  readonly ts: number;
  readonly topic: string;
  readonly reason: string;
  /** length of the whole payload in bytes */
  readonly bytes: number;
  /** its beginning, as text; what is not UTF-8 shows as U+FFFD */
  readonly payload: string;
}

const KEPT = 200;
const PREVIEW_BYTES = 256;

/** Keeps the latest refused messages: 200 of them, the first 256 bytes of each. */
export class RejectedLog {
  readonly #entries: Rejected[] = [];

  add(message: DeviceMessage, reason: string): void {
    const { payload, topic, timeUs } = message;
    const entry = {
      ts: Math.floor(timeUs / 1000),
      topic: topic.slice(0, PREVIEW_BYTES),
      reason,
      bytes: payload.byteLength,
      payload: Buffer.from(payload.subarray(0, PREVIEW_BYTES)).toString("utf8"),
    };
    this.#entries.push(entry);
    if (this.#entries.length > KEPT) this.#entries.shift();
  }

  /** The kept ones, oldest first. */
  list(): readonly Rejected[] {
    return [...this.#entries];
  }
}
