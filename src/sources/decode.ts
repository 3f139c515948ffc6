/** The built-in decoder of device messages: JSON and plain values (docs/specs/mapping.md). */
import { isUtf8 } from "node:buffer";
import { Kind, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import type { DeviceMessage, MessageDecoder } from "../core/ports.ts";
import { ExactInteger, flatten, INEXACT, parseExact } from "./decode-json.ts";
import { deviceTime } from "./device-time.ts";
import { atPath, pathNames } from "./json-path.ts";
import type { DeviceRule } from "./options.ts";
import { PathTree, Samples } from "./samples.ts";
import { JsonScanner } from "./scan.ts";

/** The metric of a plain value whose topic names no channel. */
const PLAIN_METRIC = "value";
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;
const JSON_START = /^(?:[[{"]|null$|true$|false$)/;
const INTEGER = /^[+-]?\d+$/;
const NOT_A_NUMBER = /^[+-]?(?:nan|inf|infinity)$/i;
/** Control characters that text doesn't have: what holds one is binary. */
const BINARY = /[\u0000-\u0008\u000e-\u001f\u007f]/;
const BRACE = 0x7b;
const NO_NAMES: readonly string[] = [];

interface RulePaths {
  readonly values: readonly string[];
  readonly time: readonly string[] | undefined;
  /** the time's place, counted from the values', when it lies among them */
  readonly omit: readonly string[] | undefined;
}

const WHOLE: RulePaths = { values: NO_NAMES, time: undefined, omit: undefined };

/** Decodes messages by the rules that routed them. Reused from message to message, not from thread to thread. */
export class DeviceDecoder implements MessageDecoder {
  readonly #rules: readonly RulePaths[];
  readonly #paths = new PathTree();
  readonly #samples = new Samples();
  readonly #scanner: JsonScanner;

  /** `rules`: the list that the routes' `rule` points into. */
  constructor(rules: readonly DeviceRule[]) {
    this.#rules = rules.map((rule) => {
      const values = pathNames(rule.values ?? "$");
      const time = rule.time === undefined ? undefined : pathNames(rule.time);
      const among =
        time !== undefined && time.length > values.length && values.every((name, i) => time[i] === name);
      return { values, time, omit: among ? time.slice(values.length) : undefined };
    });
    this.#scanner = new JsonScanner(this.#rules);
  }

  decode(message: DeviceMessage, into: FrameBuilder): string | undefined {
    if (message.route.device === "") return "the device id in the topic is over 256 bytes";
    const { payload } = message;
    if (payload[0] === BRACE && this.#scanner.scan(message, into)) return undefined;
    const samples = this.#samples;
    samples.clear();
    if (payload.byteLength === 0) return "the payload is empty";
    let timeUs: number | undefined | string;
    try {
      const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString();
      // Most payloads are ASCII, where this search costs nothing; only a real U+FFFD needs the second look.
      if (text.includes("\ufffd") && !isUtf8(payload)) return "the payload is not UTF-8";
      timeUs = payload[0] === BRACE ? this.#json(text, message) : this.#other(text.trim(), message);
    } catch (thrown) {
      // JSON.parse's SyntaxError, or a RangeError of its reviver on nesting without end.
      return thrown instanceof SyntaxError
        ? `not valid JSON: ${thrown.message.slice(0, 120)}`
        : "nested too deeply";
    }
    if (typeof timeUs === "string") return timeUs;
    if (samples.count === 0) return "no values in it";
    let status: number = message.retained ? Status.retained : 0;
    if (timeUs === undefined) status |= Status.gatewayTime;
    samples.moveTo(into, message.route.device, timeUs ?? message.timeUs, status);
    if (payload[0] === BRACE) this.#scanner.learn(message);
    return undefined;
  }

  /** Collects the values of a JSON text. Answers the device's time, undefined without one, or what is wrong. */
  #json(text: string, message: DeviceMessage): number | undefined | string {
    const rule = this.#rules[message.route.rule] ?? WHOLE;
    const first = this.#collect(JSON.parse(text), rule, message, false);
    if (first !== INEXACT) return first;
    this.#samples.clear();
    return this.#collect(parseExact(text), rule, message, true);
  }

  #collect(
    root: unknown,
    rule: RulePaths,
    message: DeviceMessage,
    exact: boolean,
  ): number | undefined | string {
    const value = rule.values.length === 0 ? root : atPath(root, rule.values);
    if (value === undefined) return `nothing at $.${rule.values.join(".")}`;
    const paths = this.#paths;
    const named =
      typeof value === "object" &&
      value !== null &&
      !Array.isArray(value) &&
      !(value instanceof ExactInteger);
    const node = named ? paths.root : paths.child(paths.root, message.route.channel || PLAIN_METRIC);
    if (typeof node === "string") return node;
    const problem = flatten(value, node, paths, this.#samples, rule.omit, exact);
    if (problem !== undefined) return problem;
    if (rule.time === undefined) return undefined;
    const found = atPath(root, rule.time);
    const time = deviceTime(found instanceof ExactInteger ? found.digits : found);
    if (time === "bad") return `what is at $.${rule.time.join(".")} is no time`;
    return time === "none" ? undefined : time;
  }

  /** A payload that does not begin like a JSON object; without blanks around it. */
  #other(text: string, message: DeviceMessage): number | undefined | string {
    if (text === "") return "the payload is blank";
    const rule = this.#rules[message.route.rule] ?? WHOLE;
    const numeric = NUMBER.test(text);
    if (!numeric && JSON_START.test(text)) return this.#json(text, message);
    if (rule.values.length > 0) return `nothing at $.${rule.values.join(".")}`;
    const node = this.#paths.child(this.#paths.root, message.route.channel || PLAIN_METRIC);
    if (typeof node === "string") return node;
    if (numeric) {
      const value = Number(text);
      if (Math.abs(value) <= Number.MAX_SAFE_INTEGER)
        return this.#samples.number(node.path, Kind.number, value);
      if (INTEGER.test(text)) return this.#samples.text(node.path, text);
      if (!Number.isFinite(value)) return "a number beyond a double";
      return this.#samples.number(node.path, Kind.number, value);
    }
    if (NOT_A_NUMBER.test(text)) return "not a finite number";
    if (BINARY.test(text)) return "neither JSON nor text";
    return this.#samples.text(node.path, text);
  }
}
