/** An external broker of the configuration, with its place in the one list of rules that the decoder has. */
import { Status } from "../core/frame.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import type { Ledger } from "../core/ledger.ts";
import type { DeviceMessage, MessageDecoder } from "../core/ports.ts";
import { MqttSource } from "./mqtt-source.ts";
import type { MqttSourceOptions } from "./options.ts";

/** What the sources have in common. */
export interface MqttSourcesParts {
  readonly gateway: string;
  /** topic templates of every uplink: what is published there is never taken in */
  readonly templates: readonly string[];
  readonly decoder: MessageDecoder;
  readonly ledger: Ledger;
  readonly log: (level: "info" | "warn" | "error", message: string) => void;
  /** between 0 and 1, for the jitter; default: Math.random */
  readonly random?: () => number;
}

/** The source of one entry of `sources.mqtt`, named `mqtt/<key>`, not connected yet. `firstRule`: where its rules begin in the list that the decoder has. */
export function mqttSource(
  key: string,
  options: MqttSourceOptions,
  firstRule: number,
  { gateway, templates, decoder, ledger, log, random = Math.random }: MqttSourcesParts,
): MqttSource {
  const name = `mqtt/${key}`;
  return new MqttSource(options, {
    name,
    rules: options.rules,
    firstRule,
    clientId: `weir-${gateway}-${key}`,
    own: [...new Set(templates.map((template) => ownPattern(template, gateway)))],
    retained: (message) => isTimed(message, decoder),
    count: ledger.stage("source", name, "messages"),
    log,
    random,
  });
}

/** A template as a pattern of every topic that it makes on this gateway. */
const ownPattern = (template: string, gateway: string): string =>
  template
    .replaceAll("{gateway}", gateway)
    .split("/")
    .map((level) => (/\{\w+\}/.test(level) ? "+" : level))
    .join("/");

/** Whether a retained message is worth samples: it is decoded by a plugin, not valid (which is to be said), or has times of its own. */
function isTimed(message: DeviceMessage, decoder: MessageDecoder): boolean {
  if (message.route.plugin !== undefined) return true;
  const builder = new FrameBuilder();
  if (decoder.decode(message, builder) !== undefined) return true;
  return builder.build().status.every((status) => (status & Status.gatewayTime) === 0);
}
