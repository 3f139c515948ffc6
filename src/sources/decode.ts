/** The built-in decoder of device messages: JSON and plain values (docs/specs/mapping.md). */
import { isUtf8 } from "node:buffer";
import { Kind, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import type { DeviceMessage, MessageDecoder } from "../core/ports.ts";
import { Declarations } from "./declared.ts";
import { ExactInteger, flatten, INEXACT, parseExact } from "./decode-json.ts";
import { deviceTime } from "./device-time.ts";
import { atPath, pathNames } from "./json-path.ts";
import type { DeviceRule } from "./options.ts";
import { MESSAGE_SAMPLES, PathTree, Samples } from "./samples.ts";
import { JsonScanner } from "./scan.ts";

/** The metric of a plain value whose topic names no channel. */
const PLAIN_METRIC = "value";
/** No digit can be matched in two ways: a payload of digits alone must not take the square of its length. */
const NUMBER = /^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$/;
const JSON_START = /^(?:[[{"]|null$|true$|false$)/;
const INTEGER = /^[+-]?\d+$/;
const NOT_A_NUMBER = /^[+-]?(?:nan|inf|infinity)$/i;
/** Control characters that text doesn't have: what holds one is binary. */
const BINARY = /[\u0000-\u0008\u000e-\u001f\u007f]/;
const BRACE = 0x7b;
const NO_NAMES: readonly string[] = [];

interface RulePlan {
  readonly values: readonly string[];
  readonly time: readonly string[] | undefined;
  /** the time's place, counted from the values', when it lies among them */
  readonly omit: readonly string[] | undefined;
  /** what else is no sample: the member's name, and where it stands */
  readonly omitted: readonly { readonly name: string; readonly at: readonly string[] }[];
  /** where an array of samples is, and the metric's name in each */
  readonly each: readonly string[] | undefined;
  readonly name: readonly string[] | undefined;
  /** JSON is not looked for */
  readonly plain: boolean;
  /** names of an object's values begin with the channel */
  readonly withChannel: boolean;
  readonly declared: Declarations;
  /** a scanner can take its messages */
  readonly scans: boolean;
}

const WHOLE: RulePlan = {
  values: NO_NAMES,
  time: undefined,
  omit: undefined,
  omitted: [],
  each: undefined,
  name: undefined,
  plain: false,
  withChannel: false,
  declared: new Declarations({}),
  scans: true,
};

/** Decodes messages by the rules that routed them. Reused from message to message, not from thread to thread. */
export class DeviceDecoder implements MessageDecoder {
  readonly #rules: readonly RulePlan[];
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
      const declared = new Declarations(rule.metrics);
      const plain = rule.decoder === "plain";
      const withChannel = rule.withChannel === true;
      const omitted = (rule.omit ?? []).map((path) => {
        const names = pathNames(path);
        return { name: names.at(-1) ?? "", at: names.slice(0, -1) };
      });
      return {
        values,
        time,
        omit: among ? time.slice(values.length) : undefined,
        omitted,
        each: rule.each === undefined ? undefined : pathNames(rule.each),
        name: rule.name === undefined ? undefined : pathNames(rule.name),
        plain,
        withChannel,
        declared,
        scans: !(plain || withChannel || declared.converts || rule.each !== undefined || omitted.length > 0),
      };
    });
    this.#scanner = new JsonScanner(this.#rules);
  }

  decode(message: DeviceMessage, into: FrameBuilder): string | undefined {
    if (message.route.device === "") return "the device id in the topic is over 256 bytes";
    const rule = this.#rules[message.route.rule] ?? WHOLE;
    if (rule.scans && this.#scanner.scan(message, into)) return undefined;
    const { payload } = message;
    const samples = this.#samples;
    samples.clear();
    if (payload.byteLength === 0) return "the payload is empty";
    let timeUs: number | undefined | string;
    try {
      const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString();
      // Most payloads are ASCII, where this search costs nothing; only a real U+FFFD needs the second look.
      if (text.includes("\ufffd") && !isUtf8(payload)) return "the payload is not UTF-8";
      if (rule.each !== undefined) return this.#array(text, rule, rule.each, message, into);
      timeUs =
        payload[0] === BRACE && !rule.plain
          ? this.#json(text, rule, message)
          : this.#other(text.trim(), rule, message);
    } catch (thrown) {
      // JSON.parse's SyntaxError, or a RangeError of its reviver on nesting without end.
      return thrown instanceof SyntaxError
        ? `not valid JSON: ${thrown.message.slice(0, 120)}`
        : "nested too deeply";
    }
    if (typeof timeUs === "string") return timeUs;
    if (samples.count === 0) return "no values in it";
    const problem = samples.convert(rule.declared);
    if (problem !== undefined) return problem;
    this.#move(into, rule, message, timeUs);
    if (payload[0] === BRACE && rule.scans) this.#scanner.learn(message);
    return undefined;
  }

  #move(
    into: FrameBuilder,
    { declared }: RulePlan,
    message: DeviceMessage,
    timeUs: number | undefined,
  ): void {
    let status: number = message.retained ? Status.retained : 0;
    if (timeUs === undefined) status |= Status.gatewayTime;
    this.#samples.moveTo(into, message.route.device, timeUs ?? message.timeUs, status, declared);
  }

  /** An array of samples: every element is read as a message of its own would be, and all are valid or none is taken. */
  #array(
    text: string,
    rule: RulePlan,
    each: readonly string[],
    message: DeviceMessage,
    into: FrameBuilder,
  ): string | undefined {
    const elements = atPath(parseExact(text), each);
    if (!Array.isArray(elements)) return `no array at ${["$", ...each].join(".")}`;
    const samples = this.#samples;
    let all = 0;
    // Twice: what is wrong with the last one must be known before the first one's rows are there.
    for (const writes of [false, true]) {
      for (const element of elements) {
        const time = this.#element(element, rule, message);
        if (typeof time === "string") return time;
        const problem = samples.convert(rule.declared);
        if (problem !== undefined) return problem;
        all += samples.count;
        if (all > 2 * MESSAGE_SAMPLES || (!writes && all > MESSAGE_SAMPLES))
          return `more than ${MESSAGE_SAMPLES} values`;
        if (writes) this.#move(into, rule, message, time);
        else samples.clear();
      }
      if (all === 0) return "no values in it";
    }
    return undefined;
  }

  #element(element: unknown, rule: RulePlan, message: DeviceMessage): number | undefined | string {
    if (rule.name === undefined) return this.#collect(element, rule, message, true);
    const name = atPath(element, rule.name);
    if (typeof name !== "string") return `no name at $.${rule.name.join(".")} of an element`;
    return this.#collect(element, rule, message, true, name);
  }

  /** Collects the values of a JSON text. Answers the device's time, undefined without one, or what is wrong. */
  #json(text: string, rule: RulePlan, message: DeviceMessage): number | undefined | string {
    const first = this.#collect(JSON.parse(text), rule, message, false);
    if (first !== INEXACT) return first;
    this.#samples.clear();
    return this.#collect(parseExact(text), rule, message, true);
  }

  #collect(
    root: unknown,
    rule: RulePlan,
    message: DeviceMessage,
    exact: boolean,
    name?: string,
  ): number | undefined | string {
    const found = rule.time === undefined ? undefined : atPath(root, rule.time);
    for (const { name, at } of rule.omitted) {
      const parent = atPath(root, at);
      if (typeof parent === "object" && parent !== null && !(parent instanceof ExactInteger))
        Reflect.deleteProperty(parent, name);
    }
    const value = rule.values.length === 0 ? root : atPath(root, rule.values);
    if (value === undefined) return `nothing at $.${rule.values.join(".")}`;
    const paths = this.#paths;
    const named =
      typeof value === "object" &&
      value !== null &&
      !Array.isArray(value) &&
      !(value instanceof ExactInteger);
    const { channel } = message.route;
    const above = rule.withChannel && channel !== "" ? channel : undefined;
    const own = name === undefined || above === undefined ? name : `${above}.${name}`;
    const metric = own ?? (named ? above : channel || PLAIN_METRIC);
    const node = metric === undefined ? paths.root : paths.child(paths.root, metric);
    if (typeof node === "string") return node;
    const problem = flatten(value, node, paths, this.#samples, rule.omit, exact);
    if (problem !== undefined) return problem;
    if (rule.time === undefined) return undefined;
    const time = deviceTime(found instanceof ExactInteger ? found.digits : found);
    if (time === "bad") return `what is at $.${rule.time.join(".")} is no time`;
    return time === "none" ? undefined : time;
  }

  /** A payload that does not begin like a JSON object; without blanks around it. */
  #other(text: string, rule: RulePlan, message: DeviceMessage): number | undefined | string {
    if (text === "") return "the payload is blank";
    const numeric = NUMBER.test(text);
    if (!numeric && !rule.plain && JSON_START.test(text)) return this.#json(text, rule, message);
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
    if (rule.plain && (text === "true" || text === "false"))
      return this.#samples.number(node.path, Kind.boolean, text === "true" ? 1 : 0);
    if (NOT_A_NUMBER.test(text)) return "not a finite number";
    if (BINARY.test(text)) return "neither JSON nor text";
    return this.#samples.text(node.path, text);
  }
}
