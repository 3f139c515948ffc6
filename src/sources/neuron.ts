/**
 * What the gateway software Neuron uploads of a group of tags (docs/specs/mapping.md, "Neuron"), in each of its formats:
 *
 *     {"timestamp":…,"values":{"t":1},"errors":{"x":2014}}              values format
 *     {"timestamp":…,"tags":[{"name":"t","value":1},{"name":"x","error":2014}]}    tags format, and ECP format with a `type`
 *
 * The example of its custom format has `errors` as a list like `tags`.
 */

import { isUtf8 } from "node:buffer";
import { Kind, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import { isObject } from "../core/is-object.ts";
import type { DeviceMessage, MessageDecoder } from "../core/ports.ts";
import { Declarations } from "./declared.ts";
import { flatten, INEXACT, parseExact } from "./decode-json.ts";
import { deviceTime } from "./device-time.ts";
import { atPath } from "./json-path.ts";
import { MESSAGE_SAMPLES, PathTree, Samples } from "./samples.ts";

const TOO_MANY = `more than ${MESSAGE_SAMPLES} values`;
const UNDECLARED = new Declarations({});

/** Decodes uploads of Neuron; a tag that it could not read is null, of bad quality. Reused from message to message, not from thread to thread. */
export class NeuronDecoder implements MessageDecoder {
  readonly #paths = new PathTree();
  readonly #samples = new Samples();
  /** names of the tags that could not be read */
  readonly #failed: string[] = [];

  decode(message: DeviceMessage, into: FrameBuilder): string | undefined {
    const { payload, route } = message;
    if (route.device === "") return "the device id in the topic is over 256 bytes";
    if (!isUtf8(payload)) return "the payload is not UTF-8";
    let time: number | undefined | string;
    try {
      const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString();
      time = this.#collect(JSON.parse(text), false);
      if (time === INEXACT) time = this.#collect(parseExact(text), true);
    } catch (thrown) {
      return thrown instanceof SyntaxError
        ? `not valid JSON: ${thrown.message.slice(0, 120)}`
        : "nested too deeply";
    }
    if (typeof time === "string") return time;
    const { count } = this.#samples;
    if (count + this.#failed.length > MESSAGE_SAMPLES) return TOO_MANY;
    if (count + this.#failed.length === 0) return "no values in it";
    const timeUs = time ?? message.timeUs;
    const status = (message.retained ? Status.retained : 0) | (time === undefined ? Status.gatewayTime : 0);
    this.#samples.moveTo(into, route.device, timeUs, status, UNDECLARED);
    const device = into.device(route.device);
    for (const name of this.#failed)
      into.add(device, into.metric(name), timeUs, Kind.null, status | Status.bad, 0);
    return undefined;
  }

  /** Collects an upload's tags. Answers its time in microseconds, undefined without one, or what is wrong. */
  #collect(root: unknown, exact: boolean): number | undefined | string {
    this.#samples.clear();
    this.#failed.length = 0;
    const values = atPath(root, ["values"]);
    const tags = atPath(root, ["tags"]);
    if (values === undefined && tags === undefined) return "neither values nor tags in it";
    const problem =
      (values === undefined ? this.#list(tags, "tags", exact) : this.#named(values, "values", exact)) ??
      this.#errors(atPath(root, ["errors"]), exact);
    if (problem !== undefined) return problem;
    const time = deviceTime(atPath(root, ["timestamp"]));
    if (time === "bad") return "what is at $.timestamp is no time";
    return time === "none" ? undefined : time;
  }

  #errors(errors: unknown, exact: boolean): string | undefined {
    if (errors === undefined) return undefined;
    return Array.isArray(errors) ? this.#list(errors, "errors", exact) : this.#named(errors, "errors", exact);
  }

  /** The members of an object: values by the tags' names, or the errors of those that failed. */
  #named(members: unknown, where: "values" | "errors", exact: boolean): string | undefined {
    if (!isObject(members)) return `no object at $.${where}`;
    for (const name of Object.keys(members)) {
      const value = where === "values" ? members[name] : undefined;
      const problem = this.#tag(name, value, exact);
      if (problem !== undefined) return problem;
    }
    return undefined;
  }

  /** A list of tags, each with its value or an error. */
  #list(tags: unknown, where: "tags" | "errors", exact: boolean): string | undefined {
    if (!Array.isArray(tags)) return `no array at $.${where}`;
    for (const tag of tags) {
      const name = atPath(tag, ["name"]);
      if (typeof name !== "string") return `no name at $.name of an element of $.${where}`;
      const value = atPath(tag, ["value"]);
      if (value === undefined && atPath(tag, ["error"]) === undefined)
        return `neither value nor error of the tag ${JSON.stringify(name.slice(0, 64))}`;
      const problem = this.#tag(name, value, exact);
      if (problem !== undefined) return problem;
    }
    return undefined;
  }

  /** One tag; without a value it could not be read. */
  #tag(name: string, value: unknown, exact: boolean): string | undefined {
    const node = this.#paths.child(this.#paths.root, name);
    if (typeof node === "string") return node;
    if (value !== undefined) return flatten(value, node, this.#paths, this.#samples, undefined, exact);
    return this.#failed.push(node.path) > MESSAGE_SAMPLES ? TOO_MANY : undefined;
  }
}
