/**
 * `decoder: about`: what devices and bridges say of devices, for their `meta` (docs/specs/mapping.md, "About"). It makes no samples.
 * All of it is untrusted: texts are cut, numbers of metrics bounded.
 */

import type { DeviceAbout, DeviceNews, MetricAbout } from "../core/device.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import { isObject } from "../core/is-object.ts";
import type { DeviceMessage, MessageDecoder } from "../core/ports.ts";
import { deviceId } from "./router.ts";

/** Takes what was learnt. */
export type Learn = (news: readonly DeviceNews[]) => void;

const MOST_CHARACTERS = 256;
const MOST_DEVICES = 2_048;
const MOST_METRICS = 512;
/** Levels of metrics inside metrics. */
const DEPTH = 4;

/** Units as people write them, in UCUM. */
const UNITS: ReadonlyMap<string, string> = new Map([
  ["°C", "Cel"],
  ["°F", "[degF]"],
  ["°", "deg"],
  ["kWh", "kW.h"],
  ["Wh", "W.h"],
  ["VA", "V.A"],
  ["var", "V.A"],
  ["ppm", "[ppm]"],
  ["ppb", "[ppb]"],
  ["lqi", "{lqi}"],
  ["µg/m³", "ug/m3"],
  ["mg/m³", "mg/m3"],
  ["m³", "m3"],
  ["m³/h", "m3/h"],
]);

/** Reads the shapes that are known, and one for devices of one's own. */
export class AboutDecoder implements MessageDecoder {
  readonly #learn: Learn;

  constructor(learn: Learn) {
    this.#learn = learn;
  }

  decode({ topic, route, payload }: DeviceMessage, _into: FrameBuilder): string | undefined {
    const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString();
    const news = text.startsWith("{") || text.startsWith("[") ? fromJson(text, route.device) : undefined;
    const found = news ?? fromAttribute(topic.slice(topic.lastIndexOf("/") + 1), text, route);
    if (typeof found === "string") return found;
    const told = found.filter(({ device, about }) => device !== "" && Object.keys(about).length > 0);
    if (told.length === 0) return "says nothing of a device";
    this.#learn(told);
    return undefined;
  }
}

function fromJson(text: string, device: string): DeviceNews[] | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (thrown) {
    return `not valid JSON: ${String(thrown).slice(0, 120)}`;
  }
  if (Array.isArray(value)) return value.slice(0, MOST_DEVICES).map(zigbee2mqtt);
  if (!isObject(value)) return "neither an object nor a list";
  if (isObject(value["nodes"]) && value["homie"] !== undefined) return [{ device, about: homie(value) }];
  if (typeof value["t"] === "string" && value["md"] !== undefined) return [tasmota(value)];
  if (value["fw_ver"] !== undefined) {
    const shelly = { model: value["model"], firmware: value["fw_ver"], manufacturer: "Shelly" };
    return [{ device, about: texts(shelly) }];
  }
  const metrics = isObject(value["metrics"])
    ? Object.entries(value["metrics"]).map(([name, what]) => metric(name, isObject(what) ? what : {}))
    : [];
  return [{ device, about: { ...texts(value), ...ofMetrics(metrics) } }];
}

/** Homie 4 tells each attribute on a topic of its own. */
function fromAttribute(
  attribute: string,
  text: string,
  { device, channel }: DeviceMessage["route"],
): DeviceNews[] | string {
  if (attribute === "$name" && channel === "") return [{ device, about: texts({ name: text }) }];
  if (attribute === "$name") return [{ device, about: ofMetrics([metric(channel, { description: text })]) }];
  if (attribute === "$unit") return [{ device, about: ofMetrics([metric(channel, { unit: text })]) }];
  return "neither JSON nor an attribute that is known";
}

/** An entry of `zigbee2mqtt/bridge/devices`. */
function zigbee2mqtt(entry: unknown): DeviceNews {
  if (!isObject(entry) || typeof entry["friendly_name"] !== "string" || entry["type"] === "Coordinator")
    return { device: "", about: {} };
  const definition = isObject(entry["definition"]) ? entry["definition"] : {};
  const metrics: [string, MetricAbout][] = [];
  exposed(definition["exposes"], "", metrics, 0);
  return {
    device: deviceId(entry["friendly_name"]),
    about: {
      ...texts({
        model: definition["model"] ?? entry["model_id"],
        manufacturer: definition["vendor"] ?? entry["manufacturer"],
        description: definition["description"],
        firmware: entry["software_build_id"],
      }),
      ...ofMetrics(metrics),
    },
  };
}

/** What a device of Zigbee2MQTT exposes; features of a composite with a property are below it in the payload, too. */
function exposed(list: unknown, above: string, into: [string, MetricAbout][], depth: number): void {
  if (!Array.isArray(list) || depth > DEPTH) return;
  for (const one of list.slice(0, MOST_METRICS)) {
    if (!isObject(one)) continue;
    const { property, features } = one;
    const name = typeof property === "string" ? `${above}${property}` : undefined;
    if (Array.isArray(features)) exposed(features, name === undefined ? above : `${name}.`, into, depth + 1);
    else if (name !== undefined) into.push(metric(name, one));
  }
}

/** `tasmota/discovery/<mac>/config` */
function tasmota(value: Readonly<Record<string, unknown>>): DeviceNews {
  const { t, dn, md, sw } = value;
  return { device: deviceId(String(t)), about: texts({ name: dn, model: md, firmware: sw }) };
}

/** Homie 5's `$description`. */
function homie(value: Readonly<Record<string, unknown>>): DeviceAbout {
  const metrics: [string, MetricAbout][] = [];
  for (const [node, { properties }] of objects(value["nodes"]))
    for (const [property, { name, unit }] of objects(properties))
      metrics.push(metric(`${node}.${property}`, { unit, description: name }));
  return { ...texts({ name: value["name"] }), ...ofMetrics(metrics) };
}

const objects = (value: unknown): [string, Readonly<Record<string, unknown>>][] =>
  isObject(value)
    ? Object.entries(value).filter((entry): entry is [string, Record<string, unknown>] => isObject(entry[1]))
    : [];

const cut = (text: string): string => Buffer.from(text.slice(0, MOST_CHARACTERS)).toString();

const TEXTS = ["name", "model", "manufacturer", "firmware", "description"] as const;

/** Texts that stand where they should; empty ones say nothing. */
function texts(value: Readonly<Record<string, unknown>>): DeviceAbout {
  const found = TEXTS.flatMap((key) => {
    const text = value[key];
    return typeof text === "string" && text !== "" ? [[key, cut(text)] as const] : [];
  });
  return Object.fromEntries(found);
}

function metric(
  name: string,
  { unit, description }: Readonly<Record<string, unknown>>,
): [string, MetricAbout] {
  return [
    cut(name),
    {
      ...(typeof unit === "string" && unit !== "" ? { unit: UNITS.get(unit) ?? cut(unit) } : {}),
      ...(typeof description === "string" && description !== "" ? { description: cut(description) } : {}),
    },
  ];
}

function ofMetrics(metrics: readonly [string, MetricAbout][]): Pick<DeviceAbout, "metrics"> {
  const saying = metrics.filter(([, what]) => Object.keys(what).length > 0).slice(0, MOST_METRICS);
  return saying.length === 0 ? {} : { metrics: Object.fromEntries(saying) };
}
