/** Everything that an uplink publishes for a batch. Pure: frames in, messages out, no I/O. */
import { createHash } from "node:crypto";
import type { Crc32c } from "../core/block.ts";
import type { Frame } from "../core/frame.ts";
import { slice } from "../core/frame-builder.ts";
import type { BatchKey, EncodedBatch, Outgoing, TooLarge } from "../core/ports.ts";
import { encodeAlarms } from "./encode-alarm.ts";
import { batchId } from "./encode-json.ts";
import { LastValues } from "./encode-last.ts";
import { RowFilter, type RowFilterPlan } from "./filter.ts";
import { fillTopic } from "./topics.ts";
import { CONTENT_TYPES, encodeBatch, type WireFormat } from "./wire.ts";

/** Templates of the topics; without `last` or `alarm` those are not sent. */
export interface EncoderTopics {
  readonly batch: string;
  readonly last: string | undefined;
  readonly alarm: string | undefined;
}

/** How one uplink wants its batches. */
export interface EncoderPlan {
  readonly topics: EncoderTopics;
  readonly format: WireFormat;
  readonly filter: RowFilterPlan;
  readonly qos: 0 | 1 | 2;
  /** send a W3C trace context with each batch */
  readonly traceparent: boolean;
}

/** Encodes the batches of one uplink, and keeps the latest values behind its retained messages. */
export class UplinkEncoder {
  readonly #gateway: string;
  readonly #plan: EncoderPlan;
  readonly #crc32c: Crc32c;
  readonly #filter: RowFilter;
  readonly #last: LastValues | undefined;

  constructor(gateway: string, plan: EncoderPlan, crc32c: Crc32c) {
    this.#gateway = gateway;
    this.#plan = plan;
    this.#crc32c = crc32c;
    this.#filter = new RowFilter(plan.filter);
    const { last } = plan.topics;
    this.#last = last === undefined ? undefined : new LastValues(last, gateway);
  }

  /**
   * The batch, in parts where its payload is over `mostBytes`, then the retained message of every alarm in it. Each part has a key of
   * its own. `order` rises with the batch's place in its stream: one that is encoded again late replaces no later value.
   */
  encode(key: BatchKey, frames: readonly Frame[], order: number, mostBytes: number): EncodedBatch {
    const { alarm } = this.#plan.topics;
    const messages: Outgoing[] = [];
    const tooLarge: TooLarge[] = [];
    const samples = this.#part(key, frames, mostBytes, messages, tooLarge);
    const all = frames.reduce((sum, { rows }) => sum + rows, 0);
    const passed = frames.map((frame) => this.#filter.apply(frame));
    if (key.stream !== "alarm") this.#last?.update(passed, order);
    else if (alarm !== undefined) messages.push(...encodeAlarms(alarm, this.#gateway, passed));
    return { samples, filtered: all - samples - tooLarge.length, tooLarge, messages };
  }

  /** Encodes a range of a batch, or its two halves where that is too large. Returns how many rows are sent. */
  #part(
    key: BatchKey,
    frames: readonly Frame[],
    mostBytes: number,
    messages: Outgoing[],
    tooLarge: TooLarge[],
  ): number {
    const { format } = this.#plan;
    const passed = frames.map((frame) => this.#filter.apply(frame));
    const payload = encodeBatch(this.#gateway, key, passed, format, this.#crc32c);
    if (payload !== undefined && payload.byteLength <= mostBytes) {
      messages.push(this.#message(key, payload));
      return passed.reduce((sum, { rows }) => sum + rows, 0);
    }
    if (key.span === 1) {
      const [frame] = frames;
      if (frame !== undefined) tooLarge.push({ seq: key.seq, bytes: payload?.byteLength ?? 0, frame });
      return 0;
    }
    const half = key.span >> 1;
    const [left, right] = divide(frames, half);
    const first = { ...key, span: half };
    const second = { ...key, seq: key.seq + half, span: key.span - half };
    return (
      this.#part(first, left, mostBytes, messages, tooLarge) +
      this.#part(second, right, mostBytes, messages, tooLarge)
    );
  }

  #message(key: BatchKey, payload: Uint8Array): Outgoing {
    const gateway = this.#gateway;
    const { epoch, stream, seq, span } = key;
    const { format, topics, qos, traceparent } = this.#plan;
    const { encoding, compression } = format;
    return {
      topic: fillTopic(topics.batch, { gateway, stream }),
      payload,
      qos,
      retain: false,
      contentType: CONTENT_TYPES[encoding],
      userProperties: {
        gateway,
        epoch,
        stream,
        seq: String(seq),
        span: String(span),
        ...(compression === "none" ? {} : { "content-encoding": compression }),
        ...(traceparent ? { traceparent: traceOf(gateway, key) } : {}),
      },
    };
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

/** The first `rows` rows of some frames, and the others. */
function divide(frames: readonly Frame[], rows: number): [Frame[], Frame[]] {
  const left: Frame[] = [];
  const right: Frame[] = [];
  let before = 0;
  for (const frame of frames) {
    const cut = Math.min(frame.rows, Math.max(0, rows - before));
    if (cut === frame.rows) left.push(frame);
    else if (cut === 0) right.push(frame);
    else {
      left.push(slice(frame, 0, cut));
      right.push(slice(frame, cut, frame.rows));
    }
    before += frame.rows;
  }
  return [left, right];
}

/** W3C Trace Context, version 00. Made of the batch's key, so a batch that is sent again is in the same trace. */
function traceOf(gateway: string, key: BatchKey): string {
  const hex = createHash("sha256").update(batchId(gateway, key)).digest("hex");
  return `00-${hex.slice(0, 32)}-${hex.slice(32, 48)}-01`;
}
