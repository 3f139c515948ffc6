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

/** One mapping rule (docs/specs/mapping.md). */
export const deviceRuleSchema = z
  .strictObject({
    topic: pattern(true).describe("topic pattern with {device} or {device+}, perhaps {channel}, +, *, #"),
    skip: z.array(pattern(false)).max(64).default([]).describe("topic patterns that are left out of it"),
    decoder: z
      .string()
      .regex(/^[a-z0-9][a-z0-9_-]{0,63}$/, "expected a plugin's name")
      .optional()
      .describe("the plugin that decodes the payload; without it: JSON and plain values"),
    values: jsonPath.optional().describe("where in the JSON the values are; default: $, all of it"),
    time: jsonPath
      .optional()
      .describe("where in the JSON the device's time is; default: none, the gateway's stands"),
  })
  .refine((rule) => rule.decoder === undefined || (rule.values === undefined && rule.time === undefined), {
    error: "values and time are for the built-in decoder, not for a plugin's",
    path: ["decoder"],
  });

/** The rules without a configuration: plain devices, Zigbee2MQTT, Tasmota, ChirpStack. */
export const RULE_PRESETS = [
  { topic: "devices/{device}/{channel}" },
  { topic: "zigbee2mqtt/{device+}", skip: ["zigbee2mqtt/bridge/#", "*/set", "*/get"] },
  { topic: "tele/{device}/SENSOR", time: "$.Time" },
  { topic: "application/+/device/{device}/event/up", values: "$.object", time: "$.time" },
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
  })
  .prefault({});

/** A mapping rule, every default filled in. */
export type DeviceRule = z.infer<typeof deviceRuleSchema>;
/** The embedded broker's options. */
export type BrokerOptions = z.infer<typeof brokerSchema>;
/** Options of the sources. */
export type SourcesOptions = z.infer<typeof sourcesSchema>;
