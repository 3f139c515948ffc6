/** The external brokers of a configuration, each with its place in the one list of rules that the decoder has. */
import { Status } from "../core/frame.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import type { Ledger } from "../core/ledger.ts";
import type { DeviceMessage, MessageDecoder } from "../core/ports.ts";
import { MqttSource } from "./mqtt-source.ts";
import type { DeviceRule, SourcesOptions } from "./options.ts";

/** Every mapping rule: those of the embedded broker, then those of each external one. Routes point into this list. */
export const allRules = ({
  devices,
  mqtt,
}: Pick<SourcesOptions, "devices" | "mqtt">): readonly DeviceRule[] => [
  ...devices,
  ...Object.values(mqtt).flatMap(({ rules }) => rules),
];

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

/** One source for each entry of `sources.mqtt`, named `mqtt/<name>`; none is connected yet. */
export function mqttSources(sources: SourcesOptions, parts: MqttSourcesParts): MqttSource[] {
  const { gateway, decoder, ledger, log, random = Math.random } = parts;
  const own = [...new Set(parts.templates.map((template) => ownPattern(template, gateway)))];
  let firstRule = sources.devices.length;
  return Object.entries(sources.mqtt).map(([key, options]) => {
    const name = `mqtt/${key}`;
    const source = new MqttSource(options, {
      name,
      rules: options.rules,
      firstRule,
      clientId: `weir-${gateway}-${key}`,
      own,
      retained: (message) => isTimed(message, decoder),
      count: ledger.stage("source", name, "messages"),
      log,
      random,
    });
    firstRule += options.rules.length;
    return source;
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
