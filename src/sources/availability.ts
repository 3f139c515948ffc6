/** `decoder: availability`: what a device, its bridge or its last will says about whether it is there (docs/specs/mapping.md). */
import { Kind, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import type { DeviceMessage, MessageDecoder } from "../core/ports.ts";

/** The metric: true while the device is there. */
export const AVAILABLE = "available";

/** Words of Zigbee2MQTT, Tasmota, Shelly, Homie, ESPHome and others, in lower case. */
const WORDS: ReadonlyMap<string, boolean> = new Map([
  ...["online", "true", "1", "on", "up", "alive", "available", "connected"].map(
    (word) => [word, true] as const,
  ),
  // Homie's states; one that sleeps or raises an alert is there.
  ...["ready", "init", "sleeping", "alert"].map((word) => [word, true] as const),
  ...["offline", "false", "0", "off", "down", "dead", "unavailable", "disconnected", "lost"].map(
    (word) => [word, false] as const,
  ),
]);
const LONGEST = 256;

/** Adds one sample, `available`; its quality is stale when the device is not there. */
export class AvailabilityDecoder implements MessageDecoder {
  decode({ payload, route, timeUs, retained }: DeviceMessage, into: FrameBuilder): string | undefined {
    if (route.device === "") return "the device id in the topic is over 256 bytes";
    const available =
      payload.byteLength > LONGEST ? undefined : read(Buffer.from(payload).toString("utf8").trim());
    if (available === undefined) return "says neither that the device is there nor that it is not";
    const status =
      Status.gatewayTime | (retained ? Status.retained : 0) | (available ? Status.good : Status.stale);
    into.add(
      into.device(route.device),
      into.metric(AVAILABLE),
      timeUs,
      Kind.boolean,
      status,
      available ? 1 : 0,
    );
    return undefined;
  }
}

/** A word, or `{"state": word}`. */
function read(text: string): boolean | undefined {
  let word: unknown = text;
  if (text.startsWith("{")) {
    try {
      const value: unknown = JSON.parse(text);
      word = Object.getOwnPropertyDescriptor(value, "state")?.value;
    } catch {
      return undefined;
    }
  }
  return WORDS.get(String(word).toLowerCase());
}
