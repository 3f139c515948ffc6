/** Everything that an uplink publishes for a batch. Pure: frames in, messages out, no I/O. */
import type { Frame } from "../core/frame.ts";
import type { BatchKey, Outgoing } from "../core/ports.ts";
import { encodeAlarms } from "./encode-alarm.ts";
import { encodeJson } from "./encode-json.ts";
import { LastValues } from "./encode-last.ts";
import { fillTopic } from "./topics.ts";

/** Templates of the topics; without `last` or `alarm` those are not sent. */
export interface EncoderTopics {
  readonly batch: string;
  readonly last: string | undefined;
  readonly alarm: string | undefined;
}

/** Encodes the batches of one uplink as JSON, and keeps the latest values behind its retained messages. */
export class UplinkEncoder {
  readonly #gateway: string;
  readonly #topics: EncoderTopics;
  readonly #last: LastValues | undefined;

  constructor(gateway: string, topics: EncoderTopics) {
    this.#gateway = gateway;
    this.#topics = topics;
    this.#last = topics.last === undefined ? undefined : new LastValues(topics.last, gateway);
  }

  /**
   * The batch, then the retained message of every alarm in it. `order` rises with the batch's place in its stream: one
   * that is encoded again late replaces no later value.
   */
  encode(key: BatchKey, frames: readonly Frame[], order: number): { samples: number; messages: Outgoing[] } {
    const gateway = this.#gateway;
    const { batch, alarm } = this.#topics;
    const { epoch, stream, seq, span } = key;
    const messages: Outgoing[] = [
      {
        topic: fillTopic(batch, { gateway, stream }),
        payload: encodeJson(gateway, key, frames),
        qos: 1,
        retain: false,
        contentType: "application/json",
        userProperties: { gateway, epoch, stream, seq: String(seq), span: String(span) },
      },
    ];
    if (stream !== "alarm") this.#last?.update(frames, order);
    else if (alarm !== undefined) messages.push(...encodeAlarms(alarm, gateway, frames));
    return { samples: frames.reduce((sum, { rows }) => sum + rows, 0), messages };
  }

  /** Retained `last` messages of devices that have changed, at most once a second of the caller's clock. */
  takeDerived(nowMs: number): Outgoing[] {
    return this.#last?.take(nowMs) ?? [];
  }

  /** When {@link takeDerived} gives something, in the same clock; undefined while nothing waits. */
  get derivedDueMs(): number | undefined {
    return this.#last?.dueMs;
  }

  /** Messages came back unsent: every device's `last` is sent again. */
  released(): void {
    this.#last?.refresh();
  }

  /** Values that were not kept for `last`, because of its limits. */
  get skipped(): number {
    return this.#last?.skipped ?? 0;
  }
}
