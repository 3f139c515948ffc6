/** Everything that an uplink publishes for a batch, and of a device. Pure: frames in, messages out, no I/O. */
import { createHash } from "node:crypto";
import type { Crc32c } from "../core/block.ts";
import type { KnownDevice } from "../core/device.ts";
import type { Frame } from "../core/frame.ts";
import { slice } from "../core/frame-builder.ts";
import type { BatchKey, EncodedBatch, Outgoing, Stream, TooLarge } from "../core/ports.ts";
import { contextOf, type Traces } from "../core/trace.ts";
import { encodeAlarms } from "./encode-alarm.ts";
import { batchId } from "./encode-json.ts";
import { encodeLatest } from "./encode-last.ts";
import { encodeAbout } from "./encode-meta.ts";
import { RowFilter, type RowFilterPlan } from "./filter.ts";
import { fillTopic } from "./topics.ts";
import { CONTENT_TYPES, encodeBatch, type WireFormat } from "./wire.ts";

/** Templates of the topics; without `last`, `meta` or `alarm` those are not sent. */
export interface EncoderTopics {
  readonly batch: string;
  readonly last: string | undefined;
  readonly meta: string | undefined;
  readonly alarm: string | undefined;
}

/** How one uplink wants its batches. */
export interface EncoderPlan {
  readonly streams: readonly Stream[];
  readonly topics: EncoderTopics;
  readonly format: WireFormat;
  readonly filter: RowFilterPlan;
  readonly qos: 0 | 1 | 2;
  /** send a W3C trace context with each batch */
  readonly traceparent: boolean;
}

/** What the parts of a batch are added to. */
interface PartSink {
  readonly messages: Outgoing[];
  readonly tooLarge: TooLarge[];
  readonly traces: Traces | undefined;
}

/** The gateway that everything is of. */
export interface EncodedGateway {
  readonly gateway: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Encodes the batches of one uplink, and the retained messages of its devices. */
export class UplinkEncoder {
  readonly #gateway: string;
  readonly #plan: EncoderPlan;
  readonly #crc32c: Crc32c;
  readonly #filter: RowFilter;
  /** undefined: no retained messages of devices */
  readonly devices: DeviceMessages | undefined;

  constructor(of: EncodedGateway, plan: EncoderPlan, crc32c: Crc32c) {
    this.#gateway = of.gateway;
    this.#plan = plan;
    this.#crc32c = crc32c;
    this.#filter = new RowFilter(plan.filter);
    const { last, meta } = plan.topics;
    this.devices =
      last === undefined && meta === undefined ? undefined : new DeviceMessages(of, plan, this.#filter);
  }

  /**
   * The batch, in parts where its payload is over `mostBytes`, then the retained message of every alarm in it. Each part has a key of
   * its own. `traces` are those of the messages it was made of.
   */
  encode(key: BatchKey, frames: readonly Frame[], mostBytes: number, traces?: Traces): EncodedBatch {
    const { alarm } = this.#plan.topics;
    const messages: Outgoing[] = [];
    const tooLarge: TooLarge[] = [];
    const sink = { messages, tooLarge, traces };
    const samples = this.#part(key, frames, mostBytes, sink);
    const all = frames.reduce((sum, { rows }) => sum + rows, 0);
    if (key.stream === "alarm" && alarm !== undefined) {
      const passed = frames.map((frame) => this.#filter.apply(frame));
      messages.push(...encodeAlarms(alarm, this.#gateway, passed));
    }
    return { samples, filtered: all - samples - tooLarge.length, tooLarge, messages };
  }

  /** Encodes a range of a batch, or its two halves where that is too large. Returns how many rows are sent. */
  #part(key: BatchKey, frames: readonly Frame[], mostBytes: number, sink: PartSink): number {
    const { format } = this.#plan;
    const passed = frames.map((frame) => this.#filter.apply(frame));
    const payload = encodeBatch(this.#gateway, key, passed, format, this.#crc32c);
    if (payload !== undefined && payload.byteLength <= mostBytes) {
      sink.messages.push(this.#message(key, payload, sink.traces));
      return passed.reduce((sum, { rows }) => sum + rows, 0);
    }
    if (key.span === 1) {
      const [frame] = frames;
      if (frame !== undefined) sink.tooLarge.push({ seq: key.seq, bytes: payload?.byteLength ?? 0, frame });
      return 0;
    }
    const middle = middleOf(frames, key.span);
    const [left, right] = divide(frames, middle);
    const first = { ...key, span: middle };
    const second = { ...key, seq: key.seq + middle, span: key.span - middle };
    return this.#part(first, left, mostBytes, sink) + this.#part(second, right, mostBytes, sink);
  }

  #message(key: BatchKey, payload: Uint8Array, traces: Traces | undefined): Outgoing {
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
        ...(traceparent ? traceOf(gateway, key, traces) : {}),
      },
    };
  }
}

/** The retained `last` and `meta` messages of devices, for one uplink: what its streams and its filter leave of them. */
export class DeviceMessages {
  readonly #of: EncodedGateway;
  readonly #plan: EncoderPlan;
  readonly #filter: RowFilter;

  constructor(of: EncodedGateway, plan: EncoderPlan, filter: RowFilter) {
    this.#of = of;
    this.#plan = plan;
    this.#filter = filter;
  }

  /** Whether the device is of a stream of this uplink, and passes its filter. */
  wants({ device, stream }: KnownDevice): boolean {
    return this.#plan.streams.includes(stream) && this.#filter.device(device);
  }

  latest(device: KnownDevice): Outgoing | undefined {
    const topic = this.#topic(this.#plan.topics.last, device);
    return topic === undefined
      ? undefined
      : retained(
          topic,
          encodeLatest(device, (name) => this.#filter.metric(name)),
        );
  }

  about(device: KnownDevice): Outgoing | undefined {
    const topic = this.#topic(this.#plan.topics.meta, device);
    if (topic === undefined) return undefined;
    return retained(
      topic,
      encodeAbout(this.#of, device, (name) => this.#filter.metric(name)),
    );
  }

  /** Empty messages: brokers keep none of it any more [MQTT-3.3.1-10]. */
  forgotten(device: string): readonly Outgoing[] {
    const { gateway } = this.#of;
    const { last, meta } = this.#plan.topics;
    return [last, meta]
      .filter((template) => template !== undefined)
      .map((template) => retained(fillTopic(template, { gateway, device }), ""));
  }

  #topic(template: string | undefined, { device }: KnownDevice): string | undefined {
    return template === undefined ? undefined : fillTopic(template, { gateway: this.#of.gateway, device });
  }
}

const text = new TextEncoder();

const retained = (topic: string, body: string): Outgoing => ({
  topic,
  payload: text.encode(body),
  qos: 1,
  retain: true,
  contentType: body === "" ? undefined : "application/json",
  userProperties: undefined,
});

/** The row nearest to the middle that begins a sample object, so that what a device said at once stays together; else the middle. */
function middleOf(frames: readonly Frame[], rows: number): number {
  const half = rows >> 1;
  let nearest = rows;
  let before = 0;
  for (const { device, metric, time, status, rows: count } of frames) {
    // The rule of encode-json.ts: rows share an object while device, time and status are the same, and no metric comes twice.
    const metrics = new Set<number | undefined>();
    for (let row = 0; row < count; row++) {
      const same =
        row > 0 &&
        device[row] === device[row - 1] &&
        time[row] === time[row - 1] &&
        status[row] === status[row - 1] &&
        !metrics.has(metric[row]);
      if (!same) metrics.clear();
      metrics.add(metric[row]);
      const at = before + row;
      if (at > 0 && !same && Math.abs(at - half) < Math.abs(nearest - half)) nearest = at;
    }
    before += count;
  }
  return nearest === rows ? half : nearest;
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

/** The batch's own trace context, made of its key, and links to those that its messages brought. */
function traceOf(gateway: string, key: BatchKey, traces: Traces | undefined): Record<string, string> {
  const hex = createHash("sha256").update(batchId(gateway, key)).digest("hex");
  const traceparent = contextOf(hex.slice(0, 32), hex.slice(32, 48), traces);
  return traces === undefined ? { traceparent } : { traceparent, tracelinks: traces.contexts.join(",") };
}
