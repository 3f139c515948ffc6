/** The decoder of every rule: what the rule names, by default JSON and plain values. */
import type { FrameBuilder } from "../core/frame-builder.ts";
import type { DeviceMessage, MessageDecoder } from "../core/ports.ts";
import { AboutDecoder, type Learn } from "./about.ts";
import { AvailabilityDecoder } from "./availability.ts";
import { cborToJson } from "./cbor.ts";
import { DeviceDecoder } from "./decode.ts";
import { NeuronDecoder } from "./neuron.ts";
import type { DeviceRule } from "./options.ts";
import { SenmlDecoder } from "./senml.ts";

/** Decodes messages by the rules that routed them; `rules` is the list that routes point into, `learn` takes what is said of devices. */
export class RuleDecoder implements MessageDecoder {
  readonly #json: MessageDecoder;
  readonly #senml = new SenmlDecoder();
  readonly #neuron = new NeuronDecoder();
  readonly #availability = new AvailabilityDecoder();
  readonly #about: MessageDecoder;
  readonly #decoders: readonly (string | undefined)[];

  constructor(rules: readonly DeviceRule[], learn: Learn = () => {}) {
    this.#about = new AboutDecoder(learn);
    this.#json = new DeviceDecoder(rules);
    this.#decoders = rules.map(({ decoder }) => decoder);
  }

  decode(message: DeviceMessage, into: FrameBuilder): string | undefined {
    switch (this.#decoders[message.route.rule]) {
      case "availability":
        return this.#availability.decode(message, into);
      case "about":
        return this.#about.decode(message, into);
      case "senml":
        return this.#senml.decode(message, into);
      case "neuron":
        return this.#neuron.decode(message, into);
      case "cbor": {
        const json = cborToJson(message.payload);
        if (typeof json !== "string") return json.reason;
        const { topic, route, timeUs, qos, retained } = message;
        const payload = Buffer.from(json);
        return this.#json.decode({ topic, route, payload, timeUs, qos, retained, settle: undefined }, into);
      }
      default:
        return this.#json.decode(message, into);
    }
  }
}
