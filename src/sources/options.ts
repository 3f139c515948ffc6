/** The `broker` and `sources` sections of weir.yaml. */
import { z } from "zod";
import { isJsonPath } from "./json-path.ts";
import { patternProblem } from "./topic-pattern.ts";

const pattern = (captures: boolean) =>
  z.string().check((context) => {
    const problem = patternProblem(context.value, captures);
    if (problem !== undefined)
      context.issues.push({ code: "custom", message: `the pattern ${problem}`, input: context.value });
  });

const jsonPath = z.string().refine(isJsonPath, "expected a path such as $.object.time");

/** Decoders of Weir's own; any other name is a plugin's. */
export const DECODERS: readonly string[] = ["json", "senml", "cbor"];

/** One mapping rule (docs/specs/mapping.md). */
export const deviceRuleSchema = z
  .strictObject({
    topic: pattern(true).describe("topic pattern with {device} or {device+}, perhaps {channel}, +, *, #"),
    skip: z.array(pattern(false)).max(64).default([]).describe("topic patterns that are left out of it"),
    decoder: z
      .string()
      .regex(/^[a-z0-9][a-z0-9_-]{0,63}$/, "expected json, senml, cbor or a plugin's name")
      .optional()
      .describe("json (which takes plain values, too), senml, cbor, or the plugin that decodes the payload"),
    values: jsonPath.optional().describe("where in the JSON the values are; default: $, all of it"),
    time: jsonPath
      .optional()
      .describe("where in the JSON the device's time is; default: none, the gateway's stands"),
  })
  .refine(
    ({ decoder = "json", values, time }) =>
      decoder === "json" || decoder === "cbor" || (values === undefined && time === undefined),
    { error: "values and time are for the built-in decoder, not for senml or a plugin's", path: ["decoder"] },
  );

/** The rules without a configuration: plain devices, Zigbee2MQTT, Tasmota, ChirpStack, Neuron. */
export const RULE_PRESETS = [
  { topic: "devices/{device}/{channel}" },
  { topic: "zigbee2mqtt/{device+}", skip: ["zigbee2mqtt/bridge/#", "*/set", "*/get"] },
  { topic: "tele/{device}/SENSOR", time: "$.Time" },
  { topic: "application/+/device/{device}/event/up", values: "$.object", time: "$.time" },
  { topic: "/neuron/+/{device}/{channel}", values: "$.values", time: "$.timestamp" },
];

/** The embedded broker. */
export const brokerSchema = z
  .strictObject({
    enabled: z.boolean().default(true),
    host: z
      .string()
      .min(1)
      .max(255)
      .default("127.0.0.1")
      .describe("the address to listen on; it has no authentication yet"),
    port: z.number().int().min(0).max(65_535).default(1883).describe("0: any free one"),
  })
  .prefault({});

const everySchema = z
  .strictObject({
    enabled: z.boolean().default(true),
    intervalMs: z.number().int().min(100).max(3_600_000).default(10_000),
  })
  .prefault({});

const name = z.string().regex(/^[a-z0-9][a-z0-9_-]{0,31}$/, "expected a name of a-z 0-9 _ -");
const file = z.string().min(1).max(4096);

/** An external broker. */
export const mqttSourceSchema = z
  .strictObject({
    url: z
      .string()
      .refine(
        (url) => /^mqtts?:\/\/[^/\s@]+$/.test(url) && URL.canParse(url),
        "expected mqtt://host:port or mqtts://host:port",
      )
      .describe("mqtt:// or mqtts:// and the broker's address"),
    version: z
      .union([z.literal(4), z.literal(5)])
      .default(5)
      .describe("MQTT version: 5, or 4 for 3.1.1"),
    clientId: z
      .string()
      .min(1)
      .max(128)
      .optional()
      .describe("the session's name at the broker; default: weir-<gateway>-<name>"),
    username: z.string().max(512).optional(),
    password: z.string().max(512).optional().describe("better given as an environment variable"),
    tls: z
      .strictObject({
        ca: file.optional().describe("file of the authorities to trust, instead of the system's"),
        cert: file.optional().describe("file of the client's certificate"),
        key: file.optional().describe("file of its key"),
        servername: z.string().min(1).max(255).optional().describe("default: the host of the url"),
        alpn: z.string().min(1).max(64).optional(),
      })
      .prefault({})
      .describe("for mqtts://; the files are read again at each connection"),
    subscribe: z
      .array(z.string().min(1).max(1024))
      .min(1)
      .max(64)
      .optional()
      .describe("topic filters; default: what the rules need"),
    qos: z
      .union([z.literal(0), z.literal(1), z.literal(2)])
      .default(1)
      .describe("1 and 2 are acknowledged once committed"),
    sharedGroup: z
      .string()
      .regex(/^[^/+#]{1,64}$/, "expected a name without / + #")
      .optional()
      .describe("subscribe as a member of this group ($share)"),
    keepaliveS: z.number().int().min(0).max(65_535).default(30),
    sessionExpiryS: z
      .number()
      .int()
      .min(0)
      .max(2 ** 32 - 1)
      .default(86_400)
      .describe("how long the broker keeps what is not acknowledged; MQTT 5 only"),
    rules: z
      .array(deviceRuleSchema)
      .min(1)
      .max(256)
      .prefault(RULE_PRESETS)
      .describe("mapping rules for this broker's messages, as in sources.devices"),
  })
  .refine(({ tls }) => (tls.cert === undefined) === (tls.key === undefined), {
    error: "cert and key go together",
    path: ["tls"],
  });

/** Where telemetry comes from. */
export const sourcesSchema = z
  .strictObject({
    kernel: everySchema.describe("probes in this machine's kernel"),
    system: everySchema.describe("/proc and /sys of this machine"),
    devices: z
      .array(deviceRuleSchema)
      .max(256)
      .prefault(RULE_PRESETS)
      .describe("mapping rules for device messages, first match wins"),
    mqtt: z.record(name, mqttSourceSchema).default({}).describe("external brokers"),
  })
  .prefault({});

/** A mapping rule, every default filled in. */
export type DeviceRule = z.infer<typeof deviceRuleSchema>;
/** An external broker's options. */
export type MqttSourceOptions = z.infer<typeof mqttSourceSchema>;
/** The embedded broker's options. */
export type BrokerOptions = z.infer<typeof brokerSchema>;
/** Options of the sources. */
export type SourcesOptions = z.infer<typeof sourcesSchema>;
