/** The `sources` section of weir.yaml; the schema of broker-options.ts is passed on. */
import { z } from "zod";
import { refineClientIds } from "../core/client-ids.ts";
import { tlsFilesSchema, tlsProblem } from "../core/tls-options.ts";
import { parseDuration } from "../core/units.ts";

export { brokerSchema } from "./broker-options.ts";

import { isJsonPath } from "./json-path.ts";
import { PRESET_NAMES, PRESETS } from "./presets.ts";
import { patternProblem } from "./topic-pattern.ts";
import { filterProblem } from "./topic-tree.ts";

const pattern = (captures: boolean) =>
  z.string().check((context) => {
    const problem = patternProblem(context.value, captures);
    if (problem !== undefined)
      context.issues.push({ code: "custom", message: `the pattern ${problem}`, input: context.value });
  });

const jsonPath = z.string().refine(isJsonPath, "expected a path such as $.object.time");

const metricDeclaration = z.strictObject({
  unit: z.string().max(64).optional().describe("UCUM"),
  type: z
    .enum(["number", "integer", "boolean", "text"])
    .optional()
    .describe("what it is to be; a value that can't be rejects its message"),
  description: z.string().min(1).max(256).optional().describe("for people: part of the device's `meta`"),
});

const ruleShape = {
  topic: pattern(true).describe(
    "topic pattern with {device} or {device+}, perhaps {channel} or {channel+}, +, *, #",
  ),
  skip: z.array(pattern(false)).max(64).default([]).describe("topic patterns that are left out of it"),
  decoder: z
    .string()
    .regex(
      /^[a-z0-9][a-z0-9_-]{0,63}$/,
      "expected json, plain, availability, about, senml, cbor, neuron or a plugin's name",
    )
    .optional()
    .describe(
      "json (which takes plain values, too), plain, availability, about, senml, cbor, neuron, or the plugin that decodes the payload",
    ),
  each: jsonPath
    .optional()
    .describe("where in the JSON an array of samples is; values, time and name then count from each element"),
  name: jsonPath.optional().describe("with each: where in an element its metric's name is"),
  values: jsonPath.optional().describe("where in the JSON the values are; default: $, all of it"),
  time: jsonPath
    .optional()
    .describe("where in the JSON the device's time is; default: none, the gateway's stands"),
  omit: z
    .array(jsonPath)
    .max(64)
    .optional()
    .describe("where in the JSON things are that are no samples; with each, counted from the element"),
  withChannel: z
    .boolean()
    .optional()
    .describe(
      "names of an object's values begin with the channel: `motor.rpm`, where several channels say `rpm`",
    ),
  staleAfter: z
    .string()
    .meta({ title: "duration" })
    .transform(parseDuration)
    .pipe(z.number("expected a duration such as 30s, 12h or 1d").min(1000))
    .optional()
    .describe("a device that is silent for so long is gone: `available` false, quality stale"),
  metrics: z
    .record(z.string().min(1).max(256), metricDeclaration)
    .default({})
    .describe(
      "units, types and descriptions, by metric name; * stands for any characters, the first that fits holds",
    ),
};

/** What a rule's keys demand of each other. */
function checkRule(
  rule: Readonly<Record<"decoder" | "values" | "time" | "each" | "name", string | undefined>> & {
    readonly metrics: object;
    readonly topic?: string | undefined;
    readonly withChannel?: boolean | undefined;
    readonly omit?: readonly string[] | undefined;
  },
  context: { addIssue(issue: { code: "custom"; path: string[]; message: string }): void },
): void {
  const { decoder = "json", values, time, each, name, metrics, topic = "", withChannel, omit } = rule;
  const problem = (key: string, message: string): void =>
    context.addIssue({ code: "custom", path: [key], message });
  if (decoder !== "json" && decoder !== "cbor" && (values ?? time ?? each ?? omit) !== undefined)
    problem("decoder", "values, time, each and omit are for the built-in decoders json and cbor");
  if (withChannel === true && !topic.includes("{channel"))
    problem("withChannel", "needs a {channel} in the topic pattern");
  if (withChannel === true && decoder !== "json" && decoder !== "cbor")
    problem("withChannel", "is for the built-in decoders json and cbor");
  if (name !== undefined && each === undefined) problem("name", "name goes with each");
  if (Object.keys(metrics).length > 0 && !["json", "plain", "cbor"].includes(decoder))
    problem("metrics", "metrics are for json, plain and cbor: the others say units themselves");
}

/** One mapping rule (docs/specs/mapping.md), as it holds once presets are replaced by theirs. */
export const deviceRuleSchema = z
  .strictObject(ruleShape)
  .superRefine((rule, context) =>
    checkRule(
      { decoder: undefined, values: undefined, time: undefined, each: undefined, name: undefined, ...rule },
      context,
    ),
  );

/** A rule, or the name of a preset, whose rules take its place. */
const entrySchema = z
  .strictObject({
    ...ruleShape,
    topic: ruleShape.topic.optional(),
    preset: z
      .enum(PRESET_NAMES)
      .optional()
      .describe("instead of all else: rules for devices and bridges that many have"),
  })
  .superRefine((entry, context) => {
    const { preset, topic, skip, metrics, staleAfter: _staleAfter, ...others } = entry;
    checkRule(
      {
        decoder: undefined,
        values: undefined,
        time: undefined,
        each: undefined,
        name: undefined,
        ...others,
        topic,
        metrics,
      },
      context,
    );
    const alone = topic === undefined && skip.length === 0 && Object.keys(others).length === 0;
    if (preset === undefined && topic === undefined)
      context.addIssue({ code: "custom", path: ["topic"], message: "expected a topic pattern, or a preset" });
    if (preset !== undefined && !(alone && Object.keys(metrics).length === 0))
      context.addIssue({
        code: "custom",
        path: ["preset"],
        message: "a preset stands alone: it has rules of its own",
      });
  });

/** A list of rules and presets; rules come out. */
const rulesSchema = z
  .array(entrySchema)
  .max(256)
  .prefault(PRESET_NAMES.map((preset) => ({ preset })))
  .transform((list): DeviceRule[] =>
    list.flatMap(({ preset, topic = "", ...rule }) => {
      if (preset === undefined) return [{ ...rule, topic }];
      const { staleAfter } = rule;
      return PRESETS[preset].map((one) => ({
        ...deviceRuleSchema.parse(one),
        ...(staleAfter === undefined ? {} : { staleAfter }),
      }));
    }),
  );

const everySchema = z
  .strictObject({
    enabled: z.boolean().default(true).describe("whether it runs"),
    intervalMs: z
      .number()
      .int()
      .min(100)
      .max(3_600_000)
      .default(10_000)
      .describe("how often what was measured is sent"),
  })
  .prefault({});

const kernelSchema = z
  .strictObject({
    ...everySchema.unwrap().shape,
    eventBudget: z
      .number()
      .int()
      .min(0)
      .max(100_000)
      .default(200)
      .describe("process events sent in an interval; further ones are dropped, and still counted by name"),
    lockDown: z
      .boolean()
      .default(false)
      .describe(
        "give up CAP_BPF and CAP_PERFMON in every thread once the probes are attached; no probes on demand, and a change here needs a restart",
      ),
  })
  .prefault({});

const name = z.string().regex(/^[a-z0-9][a-z0-9_-]{0,31}$/, "expected a name of a-z 0-9 _ -");
/** An external broker. */
export const mqttSourceSchema = z
  .strictObject({
    url: z
      .string()
      .refine(
        (url) => /^mqtts?:\/\/[^/\s@]+$/.test(url) && URL.canParse(url),
        "expected mqtt://host:port or mqtts://host:port; a name and a password go to username and password",
      )
      .describe("mqtt:// or mqtts:// and the broker's address"),
    version: z.literal([4, 5]).default(5).describe("MQTT version: 5, or 4 for 3.1.1"),
    clientId: z
      .string()
      .min(1)
      .max(128)
      .optional()
      .describe("the session's name at the broker; default: weir-<gateway>-<name>"),
    username: z.string().max(512).optional().describe("default: none is sent"),
    password: z.string().max(512).optional().describe("better given as an environment variable"),
    tls: tlsFilesSchema.describe("for mqtts://; the files are read again at each connection"),
    subscribe: z
      .array(
        z
          .string()
          .max(1024)
          .check((context) => {
            const problem = filterProblem(context.value);
            if (problem !== undefined)
              context.issues.push({ code: "custom", message: `the filter ${problem}`, input: context.value });
          }),
      )
      .min(1)
      .max(64)
      .optional()
      .describe("topic filters; default: what the rules need"),
    qos: z.literal([0, 1, 2]).default(1).describe("1 and 2 are acknowledged once committed"),
    sharedGroup: z
      .string()
      .regex(/^[^/+#]{1,64}$/, "expected a name without / + #")
      .optional()
      .describe("subscribe as a member of this group ($share)"),
    keepaliveS: z
      .number()
      .int()
      .min(0)
      .max(65_535)
      .default(30)
      .describe("silence after which the broker is asked whether it is there; 0: never"),
    sessionExpiryS: z
      .number()
      .int()
      .min(0)
      .max(2 ** 32 - 1)
      .default(86_400)
      .describe("how long the broker keeps what is not acknowledged; MQTT 5 only"),
    rules: rulesSchema.describe("mapping rules for this broker's messages, as in sources.devices"),
  })
  .superRefine(({ tls, url }, context) => {
    const unused = tlsProblem(tls, [url]);
    if (unused !== undefined) context.addIssue({ code: "custom", path: ["tls"], message: unused });
  });

/** Where telemetry comes from. */
export const sourcesSchema = z
  .strictObject({
    kernel: kernelSchema.describe("probes in this machine's kernel"),
    system: everySchema.describe("/proc and /sys of this machine"),
    devices: rulesSchema.describe(
      "mapping rules and presets for device messages, first match wins; default: every preset",
    ),
    mqtt: z
      .record(name, mqttSourceSchema)
      .default({})
      .superRefine((sources, context) => {
        const clients = Object.entries(sources).flatMap(([name, { url, clientId }]) =>
          clientId === undefined ? [] : [{ name, urls: [url], clientId }],
        );
        refineClientIds(clients, context);
      })
      .describe("external brokers"),
  })
  .prefault({});

/** A mapping rule, every default filled in. */
export type DeviceRule = z.infer<typeof deviceRuleSchema>;
/** An external broker's options. */
export type MqttSourceOptions = z.infer<typeof mqttSourceSchema>;
