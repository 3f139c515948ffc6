/** Limits of clouds' brokers, as their documentation gave them in November 2026: docs/uplinks.md says where. */
import { isObject } from "../core/is-object.ts";

interface Preset {
  /** slashes in a topic */
  readonly slashes: number | undefined;
  /** neither knows QoS 2: one never answers it, the other closes the connection */
  readonly qos: 0 | 1;
  /** it takes messages on topics of its own alone */
  readonly topics: boolean;
  /** the uplink's options that are not given otherwise */
  readonly options: Readonly<Record<string, unknown>>;
}

/** By the name in weir.yaml. */
export const PRESETS: Readonly<Record<"aws-iot" | "azure-iot-hub", Preset>> = {
  "aws-iot": {
    slashes: 7,
    qos: 1,
    topics: false,
    options: {
      version: 5,
      maxPacketBytes: 128 * 1024,
      messagesPerSecond: 100,
      bytesPerSecond: 512 * 1024,
    },
  },
  "azure-iot-hub": {
    slashes: undefined,
    qos: 1,
    topics: true,
    options: {
      // Retained messages and other topics are not taken; what follows `events/` is the message's properties.
      version: 4,
      clientId: "{gateway}",
      username: "{host}/{gateway}/?api-version=2021-04-12",
      last: false,
      retain: false,
      maxPacketBytes: 256 * 1024,
      messagesPerSecond: 100,
      topics: {
        status: "devices/{gateway}/messages/events/kind=status",
        batch: "devices/{gateway}/messages/events/kind=batch&stream={stream}",
        gap: "devices/{gateway}/messages/events/kind=gap",
      },
    },
  },
};

/** A configuration whose uplinks have the values of the presets that they name, wherever they give none themselves. */
export function withPresets(raw: unknown): unknown {
  if (!isObject(raw) || !isObject(raw["uplinks"])) return raw;
  const uplinks = Object.entries(raw["uplinks"]).map(([name, uplink]) => [name, withPreset(uplink)]);
  return { ...raw, uplinks: Object.fromEntries(uplinks) };
}

/** An uplink's options over those of its preset, `topics` one by one. */
function withPreset(given: unknown): unknown {
  if (!isObject(given)) return given;
  const name = given["preset"];
  if (name !== "aws-iot" && name !== "azure-iot-hub") return given;
  const { options } = PRESETS[name];
  const topics = given["topics"];
  const preset = options["topics"];
  const merged = isObject(preset) && isObject(topics) ? { topics: { ...preset, ...topics } } : {};
  return { ...options, ...given, ...merged };
}
