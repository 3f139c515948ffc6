/** An external broker of the configuration, with its place in the one list of rules that the decoder has. */
import { type Frame, Status } from "../core/frame.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import type { Ledger } from "../core/ledger.ts";
import type { DeviceMessage, MessageDecoder, Route } from "../core/ports.ts";
import { MqttSource } from "./mqtt-source.ts";
import type { MqttSourceOptions } from "./options.ts";

/** What the sources have in common. */
export interface MqttSourcesParts {
  readonly gateway: string;
  /** topic templates of every uplink: what is published there is never taken in */
  readonly templates: readonly string[];
  readonly decoder: MessageDecoder;
  /** takes what a broker had kept, without a device's time, into the latest values */
  readonly refresh: (frame: Frame) => void;
  /** told of routes as topics first show up */
  readonly met: (source: string, route: Route) => void;
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
  { gateway, templates, decoder, refresh, met, ledger, log, random = Math.random }: MqttSourcesParts,
): MqttSource {
  const name = `mqtt/${key}`;
  return new MqttSource(options, {
    name,
    rules: options.rules,
    firstRule,
    clientId: `weir-${gateway}-${key}`,
    own: [...new Set(templates.map((template) => ownPattern(template, gateway)))],
    retained: (message) => {
      const frame = untimed(message, decoder);
      if (frame !== undefined) refresh(frame);
      return frame === undefined;
    },
    met,
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

/**
 * The rows of a retained message that are no samples: they have no time of the device's. Undefined where it is worth samples: it is
 * decoded by a plugin, not valid (which is to be said), or has times of its own.
 */
function untimed(message: DeviceMessage, decoder: MessageDecoder): Frame | undefined {
  if (message.route.plugin !== undefined) return undefined;
  const builder = new FrameBuilder(64);
  if (decoder.decode(message, builder) !== undefined) return undefined;
  const frame = builder.build();
  return frame.status.some((status) => (status & Status.gatewayTime) !== 0) ? frame : undefined;
}
