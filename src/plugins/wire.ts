/**
 * What travels on a plugin's socketpair. All numbers are little-endian; a message is
 *
 *     type u8 | 0 u8[3] | id u32 | metaBytes u32 | blockBytes u32 | meta | block
 *
 * `id` is the number of the call that is asked or answered. `meta` is a sequence of fields (u8, u32, f64, and bytes or
 * UTF-8 with a u32 length before). `block` is a frame as a raw block, or the columns of device messages.
 *
 * | agent asks | meta | block |
 * | --- | --- | --- |
 * | open | JSON {@link OpenRequest}, then count and entries of state | |
 * | transform | | the frame |
 * | decode | counts of messages, devices, channels, topics, then their names | time, device, channel, topic, end, payload |
 * | tick | now f64 | |
 *
 * | worker answers | meta | block |
 * | --- | --- | --- |
 * | ready (id 0: it waits for open; else it is open) | | |
 * | result | state changes, effects, rejections | the frame |
 * | failure | u8 (0 `err`, 1 trap), reason | |
 * | log (any time) | level u8, text | |
 * | memory (before a result, now and then) | bytes of wasm memories f64, of the JavaScript heap f64 | |
 *
 * The agent's side takes everything as hostile: {@link MessageReader} allocates nothing beyond its caps, and FieldReader
 * (wire-fields.ts) checks every length.
 */
import type { Effect, StateChange, StateEntry } from "../core/ports.ts";
import { type LanePlace, laneOf } from "./lane-of.ts";
import { brokenWire, FieldReader, FieldWriter } from "./wire-fields.ts";

/** Bytes before meta. */
export const WIRE_HEADER_BYTES = 16;

/** Message types. */
export const Wire = {
  open: 1,
  transform: 2,
  decode: 3,
  tick: 4,
  ready: 65,
  result: 66,
  failure: 67,
  log: 68,
  memory: 69,
} as const;

/** What an instance holds, in bytes. */
export interface InstanceMemory {
  /** the component's own memories, as far as they have grown */
  readonly wasmBytes: number;
  /** its thread's JavaScript heap: generated code, and frames as they pass through */
  readonly heapBytes: number;
}

/** What a worker is told first; JSON. */
export interface OpenRequest {
  readonly config: string;
  readonly grants: { readonly state: boolean; readonly alarm: boolean; readonly publish: readonly string[] };
  readonly limits: {
    readonly outputRows: number;
    readonly outputBytes: number;
    readonly stateBytes: number;
    readonly logPerMin: number;
    readonly effectsPerBatch: number;
  };
  /** set where the plugin keeps state for devices alone: its lane, whose devices' scopes are the only ones it has */
  readonly lane?: LanePlace;
}

/** Whether state under this scope is the lane's to keep. */
export function ownsScope({ lane }: Pick<OpenRequest, "lane">, scope: string): boolean {
  return lane === undefined || (scope !== "" && laneOf(scope, lane.count) === lane.index);
}

/** Longest log line, reason and alarm text, in characters. */
export const MOST_TEXT = 2_048;
/** Longest state scope and key, topic, alarm code: bytes. */
export const MOST_NAME = 256;
/** Payloads of all effects of a call, in bytes. */
export const MOST_EFFECT_BYTES: number = 1024 * 1024;
/** What an entry of state counts beyond its bytes: it takes a row and an index entry in the database. */
export const STATE_ENTRY_BYTES = 64;

/** A message as it was read. `block` is a buffer of its own. */
export interface WireMessage {
  readonly type: number;
  readonly id: number;
  readonly meta: Uint8Array<ArrayBuffer>;
  readonly block: Uint8Array<ArrayBuffer>;
}

/** The header of a message, followed by its meta: what is sent before the block. */
export function encodeHead(
  type: number,
  id: number,
  meta: Uint8Array,
  blockBytes: number,
): Uint8Array<ArrayBuffer> {
  const head = new Uint8Array(WIRE_HEADER_BYTES + meta.byteLength);
  const view = new DataView(head.buffer);
  view.setUint8(0, type);
  view.setUint32(4, id, true);
  view.setUint32(8, meta.byteLength, true);
  view.setUint32(12, blockBytes, true);
  head.set(meta, WIRE_HEADER_BYTES);
  return head;
}

/** The parts of a header. Checks nothing. */
export function readHead(head: Uint8Array): {
  type: number;
  id: number;
  metaBytes: number;
  blockBytes: number;
} {
  const view = new DataView(head.buffer, head.byteOffset, WIRE_HEADER_BYTES);
  return {
    type: view.getUint8(0),
    id: view.getUint32(4, true),
    metaBytes: view.getUint32(8, true),
    blockBytes: view.getUint32(12, true),
  };
}

const NOTHING = new Uint8Array(0);

/** Puts messages together from a stream of chunks. Memory: one message within the caps. */
export class MessageReader {
  readonly #mostMeta: number;
  readonly #mostBlock: number;
  readonly #head: Uint8Array<ArrayBuffer> = new Uint8Array(WIRE_HEADER_BYTES);
  #meta: Uint8Array<ArrayBuffer> = NOTHING;
  #block: Uint8Array<ArrayBuffer> = NOTHING;
  #part: 0 | 1 | 2 = 0;
  #filled = 0;

  constructor(caps: { readonly metaBytes: number; readonly blockBytes: number }) {
    this.#mostMeta = caps.metaBytes;
    this.#mostBlock = caps.blockBytes;
  }

  /**
   * Takes the next bytes; calls `take` for each message that they complete.
   * @throws WeirError `plugin.failed` when a length is over its cap
   */
  push(chunk: Uint8Array, take: (message: WireMessage) => void): void {
    let at = 0;
    for (;;) {
      const target = this.#part === 0 ? this.#head : this.#part === 1 ? this.#meta : this.#block;
      const wanted = target.byteLength - this.#filled;
      if (wanted > 0) {
        if (at === chunk.byteLength) return;
        const part = Math.min(wanted, chunk.byteLength - at);
        target.set(chunk.subarray(at, at + part), this.#filled);
        at += part;
        this.#filled += part;
        if (part < wanted) return;
      }
      this.#filled = 0;
      if (this.#part === 0) this.#begin();
      else if (this.#part === 1) this.#part = 2;
      else {
        const { type, id } = readHead(this.#head);
        const message = { type, id, meta: this.#meta, block: this.#block };
        this.#part = 0;
        this.#meta = NOTHING;
        this.#block = NOTHING;
        take(message);
        if (at === chunk.byteLength) return;
      }
    }
  }

  #begin(): void {
    const { metaBytes, blockBytes } = readHead(this.#head);
    if (metaBytes > this.#mostMeta)
      throw brokenWire(`${metaBytes} bytes of fields, the limit is ${this.#mostMeta}`);
    if (blockBytes > this.#mostBlock)
      throw brokenWire(`a block of ${blockBytes} bytes, the limit is ${this.#mostBlock}`);
    this.#meta = metaBytes === 0 ? NOTHING : new Uint8Array(metaBytes);
    this.#block = blockBytes === 0 ? NOTHING : new Uint8Array(blockBytes);
    this.#part = 1;
  }
}

/** The meta of an `open` request. */
export function encodeOpen(request: OpenRequest, state: readonly StateEntry[]): Uint8Array<ArrayBuffer> {
  const fields = new FieldWriter().text(JSON.stringify(request)).u32(state.length);
  for (const { scope, key, value } of state) fields.text(scope).text(key).bytes(value);
  return fields.done();
}

/** What a call gave besides its frame. */
export interface ResultFields {
  readonly state: readonly Omit<StateChange, "plugin">[];
  readonly effects: readonly EffectFields[];
  readonly rejected: readonly { readonly index: number; readonly reason: string }[];
}

type WithoutPlugin<T> = T extends unknown ? Omit<T, "plugin"> : never;
/** An effect, before the agent puts the plugin's name to it. */
export type EffectFields = WithoutPlugin<Effect>;

/** Severities by their number on the wire. */
export const SEVERITIES = ["info", "warning", "critical"] as const;
/** Log levels by their number on the wire. */
export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
/** One of {@link LOG_LEVELS}. */
export type LogLevel = (typeof LOG_LEVELS)[number];

/** The meta of a `result`. */
export function encodeResult(result: ResultFields): Uint8Array<ArrayBuffer> {
  if (result.state.length + result.effects.length + result.rejected.length === 0) return NOTHING;
  const fields = new FieldWriter().u32(result.state.length);
  for (const { scope, key, value } of result.state) {
    fields
      .u8(value === undefined ? 0 : 1)
      .text(scope)
      .text(key);
    if (value !== undefined) fields.bytes(value);
  }
  fields.u32(result.effects.length);
  for (const effect of result.effects) {
    if (effect.type === "publish") {
      fields
        .u8(0)
        .text(effect.topic)
        .bytes(effect.payload)
        .u8(effect.qos)
        .u8(effect.retain ? 1 : 0);
    } else {
      fields
        .u8(1)
        .text(effect.device)
        .text(effect.code)
        .u8(effect.active ? 1 : 0);
      fields.u8(SEVERITIES.indexOf(effect.severity)).text(effect.message);
    }
  }
  fields.u32(result.rejected.length);
  for (const { index, reason } of result.rejected) fields.u32(index).text(reason);
  return fields.done();
}

/**
 * Reads the meta of a `result`; what it allocates is within the bytes that are there.
 * @throws WeirError `plugin.failed`
 */
export function decodeResult(meta: Uint8Array<ArrayBuffer>): ResultFields {
  const state: ResultFields["state"][number][] = [];
  const effects: EffectFields[] = [];
  const rejected: ResultFields["rejected"][number][] = [];
  if (meta.byteLength === 0) return { state, effects, rejected };
  const fields = new FieldReader(meta);
  for (let left = fields.count(); left > 0; left--) {
    const set = flag(fields);
    const scope = fields.text(MOST_NAME);
    const key = fields.text(MOST_NAME);
    state.push({ scope, key, value: set ? fields.bytes(meta.byteLength) : undefined });
  }
  for (let left = fields.count(); left > 0; left--) effects.push(decodeEffect(fields));
  for (let left = fields.count(); left > 0; left--)
    rejected.push({ index: fields.u32(), reason: fields.text(4 * MOST_TEXT) });
  fields.end();
  return { state, effects, rejected };
}

function decodeEffect(fields: FieldReader): EffectFields {
  if (!flag(fields)) {
    const topic = fields.text(MOST_NAME);
    const payload = fields.bytes(MOST_EFFECT_BYTES);
    return { type: "publish", topic, payload, qos: flag(fields) ? 1 : 0, retain: flag(fields) };
  }
  const device = fields.text(MOST_NAME);
  const code = fields.text(MOST_NAME);
  const active = flag(fields);
  const severity = SEVERITIES[fields.u8()];
  if (severity === undefined) throw brokenWire("an unknown severity");
  return { type: "alarm", device, code, active, severity, message: fields.text(4 * MOST_TEXT) };
}

function flag(fields: FieldReader): boolean {
  const value = fields.u8();
  if (value > 1) throw brokenWire(`${value} is neither 0 nor 1`);
  return value === 1;
}
