/**
 * Reads JSON messages whose shape has been seen before, straight from their bytes into rows.
 *
 * A device sends the same members in the same order, again and again; only the values change. A *shape* is what stands
 * between the values, byte for byte, and the metric that each value belongs to. It is learned from a message that the decoder
 * has taken. A message that fits a shape is JSON of the same structure, and its values are all that is left to read; one
 * that doesn't fit, or has a value that isn't read here (escapes, integers beyond 2^53), goes to the decoder. The result is the
 * decoder's, always.
 */
import { isUtf8 } from "node:buffer";
import { FrameLimits, Kind, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import type { DeviceMessage } from "../core/ports.ts";
import type { Declarations } from "./declared.ts";
import { deviceTime } from "./device-time.ts";
import { learnShape, SHAPE_VALUES, type ShapePlan } from "./scan-shape.ts";

/** Shapes remembered of each rule. */
const SHAPES = 8;
/** A miss weighs as much as so many hits; at the limit, a rule's messages are left to the decoder for a while. */
const MISS = 4;
const MISSES = 128;
const FIRST_PAUSE = 256;
const MOST_PAUSE = 65_536;
const POWERS = Float64Array.from({ length: 16 }, (_, i) => 10 ** i);
/** Longest text that is remembered, in bytes. */
const KEPT_TEXT = 64;
/** What a value is that is not read here, or none at all. */
const NONE = -1;

interface KnownText {
  readonly bytes: Uint8Array;
  readonly text: string;
}

/** A shape, with the places of its metrics in the frame that is being built. */
interface Shape extends ShapePlan {
  readonly metrics: Uint32Array;
  readonly units: readonly (string | undefined)[];
  /** the latest text of each value, which is often the next one, too */
  readonly texts: (KnownText | undefined)[];
  builder: FrameBuilder | undefined;
  generation: number;
}

/** What is known of one rule's messages. */
interface RuleShapes {
  readonly values: readonly string[];
  readonly time: readonly string[] | undefined;
  readonly declared: Declarations;
  readonly shapes: Shape[];
  next: number;
  misses: number;
  pause: number;
  /** messages to be left to the decoder */
  left: number;
}

/** Scans messages by the shapes of their rules. Reused from message to message, not from thread to thread. */
export class JsonScanner {
  readonly #rules: readonly RuleShapes[];
  readonly #numbers = new Float64Array(SHAPE_VALUES + 1);
  readonly #kinds = new Uint8Array(SHAPE_VALUES + 1);
  readonly #texts: string[] = [];
  /** where the value that was read last ends */
  #at = 0;
  #text = "";

  /** `rules`: where each rule's values and time are, and what it says about metrics. */
  constructor(rules: readonly Pick<RuleShapes, "values" | "time" | "declared">[]) {
    this.#rules = rules.map(({ values, time, declared }) => ({
      values,
      time,
      declared,
      shapes: [],
      next: 0,
      misses: 0,
      pause: FIRST_PAUSE,
      left: 0,
    }));
  }

  /** Adds the message's rows if it fits a shape; else it adds none and answers false. */
  scan(message: DeviceMessage, into: FrameBuilder): boolean {
    const { route, timeUs, retained } = message;
    const bytes = message.bytes ?? message.payload;
    const from = message.from ?? 0;
    const to = message.to ?? bytes.length;
    const rule = this.#rules[route.rule];
    if (rule === undefined || rule.left > 0) return false;
    for (let index = 0; index < rule.shapes.length; index++) {
      const shape = rule.shapes[index];
      if (shape === undefined) break;
      const time = this.#read(bytes, from, to, shape);
      if (time === undefined) continue;
      if (index > 0) {
        // What came last comes again soonest.
        rule.shapes[index] = rule.shapes[0] ?? shape;
        rule.shapes[0] = shape;
      }
      if (rule.misses > 0) rule.misses -= 1;
      let status: number = retained ? Status.retained : 0;
      if (time === "none") status |= Status.gatewayTime;
      this.#add(into, shape, route.device, time === "none" ? timeUs : time, status);
      return true;
    }
    return false;
  }

  /** A message that did not fit, and that the decoder has taken: its shape may come again. */
  learn({ payload, route }: DeviceMessage): void {
    const rule = this.#rules[route.rule];
    if (rule === undefined) return;
    if (rule.left > 0) {
      rule.left -= 1;
      return;
    }
    rule.misses += MISS;
    if (rule.misses >= MISSES) {
      rule.misses = 0;
      rule.left = rule.pause;
      rule.pause = Math.min(MOST_PAUSE, 2 * rule.pause);
      return;
    }
    const plan = learnShape(payload, rule.values, rule.time);
    if (plan === undefined) return;
    const metrics = new Uint32Array(plan.names.length);
    const units = plan.names.map((name) => rule.declared.of(name).unit);
    const shape: Shape = { ...plan, metrics, units, texts: [], builder: undefined, generation: 0 };
    if (rule.shapes.length < SHAPES) rule.shapes.push(shape);
    else {
      rule.next = (rule.next + 1) % SHAPES;
      rule.shapes[rule.next] = shape;
    }
  }

  /**
   * Reads the values of the payload that lies from `from` to `size`; answers the device's time in microseconds, or undefined when it
   * does not fit. A value may be read beyond the payload's end: then what comes after every value, one byte at least, is not there.
   */
  #read(payload: Uint8Array, from: number, size: number, shape: Shape): number | "none" | undefined {
    const { literals, ends, roles } = shape;
    let time: number | "none" = "none";
    let at = from;
    let literal = 0;
    let row = 0;
    for (let slot = 0; ; slot++) {
      const end = ends[slot] ?? 0;
      if (size - at < end - literal) return undefined;
      for (; literal < end; literal++, at++) if (payload[at] !== literals[literal]) return undefined;
      if (slot === roles.length) break;
      const kind = this.#value(payload, at, row, slot, shape);
      if (kind === NONE) return undefined;
      at = this.#at;
      const role = roles[slot];
      if (role === 0) {
        if (kind === Kind.text) {
          if (this.#text.length * 3 > FrameLimits.textBytes) return undefined;
          this.#texts[row] = this.#text;
        } else if (kind === Kind.number) {
          const value = this.#numbers[row] ?? 0;
          if (value > Number.MAX_SAFE_INTEGER || value < -Number.MAX_SAFE_INTEGER) return undefined;
        }
        this.#kinds[row] = kind;
        row += 1;
      } else if (role === 1) {
        const found = deviceTime(this.#asJson(kind, row));
        if (found === "bad") return undefined;
        time = found;
      }
    }
    for (; at < size; at++) if (!isBlank(payload[at])) return undefined;
    return time;
  }

  /** The value that was read last, as JSON.parse would give it. */
  #asJson(kind: Kind, row: number): unknown {
    if (kind === Kind.text) return this.#text;
    if (kind === Kind.null) return null;
    return kind === Kind.number ? this.#numbers[row] : this.#numbers[row] === 1;
  }

  #add(into: FrameBuilder, shape: Shape, device: string, timeUs: number, status: number): void {
    const index = into.device(device);
    const { names, metrics } = shape;
    const known = shape.builder === into && shape.generation === into.generation;
    for (let row = 0; row < names.length; row++) {
      const kind = (this.#kinds[row] ?? Kind.null) as Kind;
      let value = this.#numbers[row] ?? 0;
      if (kind === Kind.text) {
        value = into.text(this.#texts[row] ?? "");
        this.#texts[row] = "";
      }
      if (!known) metrics[row] = into.metric(names[row] ?? "", shape.units[row]);
      into.add(index, metrics[row] ?? 0, timeUs, kind, status, value);
    }
    if (!known) {
      shape.builder = into;
      shape.generation = into.generation;
    }
  }

  /** Reads a scalar (RFC 8259) into `row` and answers its kind; `#at` is then its end. */
  #value(payload: Uint8Array, from: number, row: number, slot: number, shape: Shape): Kind | typeof NONE {
    const first = payload[from] ?? 0;
    if (first === 0x22) return this.#string(payload, from + 1, row, slot, shape);
    if (first === 0x2d || (first >= 0x30 && first <= 0x39)) return this.#readNumber(payload, from, row);
    this.#numbers[row] = 0;
    if (first === 0x74 && isWord(payload, from, TRUE)) {
      this.#at = from + 4;
      this.#numbers[row] = 1;
      return Kind.boolean;
    }
    if (first === 0x66 && isWord(payload, from, FALSE)) {
      this.#at = from + 5;
      return Kind.boolean;
    }
    if (first === 0x6e && isWord(payload, from, NULL)) {
      this.#at = from + 4;
      return Kind.null;
    }
    return NONE;
  }

  #string(
    payload: Uint8Array,
    from: number,
    row: number,
    slot: number,
    { texts }: Shape,
  ): Kind | typeof NONE {
    this.#numbers[row] = 0;
    const known = texts[slot];
    if (
      known !== undefined &&
      payload[from + known.bytes.length] === 0x22 &&
      isWord(payload, from, known.bytes)
    ) {
      this.#at = from + known.bytes.length + 1;
      this.#text = known.text;
      return Kind.text;
    }
    let at = from;
    let plain = true;
    for (; ; at++) {
      const byte = payload[at];
      if (byte === undefined || byte === 0x5c || byte < 0x20) return NONE;
      if (byte === 0x22) break;
      if (byte > 127) plain = false;
    }
    this.#at = at + 1;
    const bytes = Buffer.from(payload.buffer, payload.byteOffset + from, at - from);
    if (!plain && !isUtf8(bytes)) return NONE;
    this.#text = bytes.toString(plain ? "latin1" : "utf8");
    if (bytes.length <= KEPT_TEXT) texts[slot] = { bytes: Uint8Array.from(bytes), text: this.#text };
    return Kind.text;
  }

  #readNumber(payload: Uint8Array, from: number, row: number): Kind | typeof NONE {
    let at = from;
    const negative = payload[at] === 0x2d;
    if (negative) at += 1;
    let mantissa = 0;
    let byte = payload[at] ?? 0;
    const whole = at;
    while (byte >= 0x30 && byte <= 0x39) {
      mantissa = mantissa * 10 + (byte - 0x30);
      byte = payload[++at] ?? 0;
    }
    let digits = at - whole;
    // At least a digit, and no zero before others.
    if (digits === 0 || (digits > 1 && payload[whole] === 0x30)) return NONE;
    let decimals = 0;
    if (byte === 0x2e) {
      const point = at;
      byte = payload[++at] ?? 0;
      while (byte >= 0x30 && byte <= 0x39) {
        mantissa = mantissa * 10 + (byte - 0x30);
        byte = payload[++at] ?? 0;
      }
      decimals = at - point - 1;
      if (decimals === 0) return NONE;
      digits += decimals;
    }
    let exact = digits <= 15;
    if (byte === 0x65 || byte === 0x45) {
      exact = false;
      byte = payload[++at] ?? 0;
      if (byte === 0x2b || byte === 0x2d) byte = payload[++at] ?? 0;
      const exponent = at;
      while (byte >= 0x30 && byte <= 0x39) byte = payload[++at] ?? 0;
      if (at === exponent) return NONE;
    }
    this.#at = at;
    // Up to 15 digits and a power of ten below 10^16 are doubles, so their quotient is the nearest one (Clinger, 1990).
    if (exact) {
      const value = decimals === 0 ? mantissa : mantissa / (POWERS[decimals] ?? 1);
      this.#numbers[row] = negative ? -value : value;
    } else {
      const text = Buffer.from(payload.buffer, payload.byteOffset + from, at - from).toString("latin1");
      this.#numbers[row] = Number(text);
    }
    return Kind.number;
  }
}

const TRUE = Buffer.from("true");
const FALSE = Buffer.from("false");
const NULL = Buffer.from("null");

const isBlank = (byte: number | undefined): boolean =>
  byte === 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d;

function isWord(payload: Uint8Array, from: number, word: Uint8Array): boolean {
  for (let i = 0; i < word.length; i++) if (payload[from + i] !== word[i]) return false;
  return true;
}
