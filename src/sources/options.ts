/** The `broker` and `sources` sections of weir.yaml. */
import { z } from "zod";
import { isPasswordHash } from "../core/password.ts";
import { parseDuration } from "../core/units.ts";
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

/** Decoders of Weir's own; any other name is a plugin's. */
export const DECODERS: readonly string[] = ["json", "plain", "availability", "senml", "cbor"];

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
    .regex(/^[a-z0-9][a-z0-9_-]{0,63}$/, "expected json, plain, availability, senml, cbor or a plugin's name")
    .optional()
    .describe(
      "json (which takes plain values, too), plain, availability, senml, cbor, or the plugin that decodes the payload",
    ),
  each: jsonPath
    .optional()
    .describe("where in the JSON an array of samples is; values, time and name then count from each element"),
  name: jsonPath.optional().describe("with each: where in an element its metric's name is"),
  values: jsonPath.optional().describe("where in the JSON the values are; default: $, all of it"),
  time: jsonPath
    .optional()
    .describe("where in the JSON the device's time is; default: none, the gateway's stands"),
  staleAfter: z
    .string()
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
  },
  context: { addIssue(issue: { code: "custom"; path: string[]; message: string }): void },
): void {
  const { decoder = "json", values, time, each, name, metrics } = rule;
  const problem = (key: string, message: string): void =>
    context.addIssue({ code: "custom", path: [key], message });
  if (decoder !== "json" && decoder !== "cbor" && (values ?? time ?? each) !== undefined)
    problem("decoder", "values, time and each are for the built-in decoders json and cbor");
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

const file = z.string().min(1).max(4096);
const filters = z
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
  .max(256);

/** Whether a host name or address can only be reached from this machine. */
export const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || /^127(?:\.\d{1,3}){3}$/.test(host);

const identitySchema = z
  .strictObject({
    passwordHash: z
      .string()
      .refine(isPasswordHash, "expected what `weir passwd` prints; a password itself never stands here")
      .optional()
      .describe("hash of the password, as `weir passwd` prints it; better given as a file's content"),
    certificate: z
      .string()
      .min(1)
      .max(256)
      .optional()
      .describe(
        "common name of the client certificate that is this one's; *: any that tls.ca signed, by its own name",
      ),
    publish: filters.optional().describe("topic filters it may publish on; default: broker.rules.publish"),
    subscribe: filters
      .optional()
      .describe("topic filters it may subscribe to; default: broker.rules.subscribe"),
  })
  .refine(({ passwordHash, certificate }) => passwordHash !== undefined || certificate !== undefined, {
    error: "needs a passwordHash or a certificate; one whose hash is in identitiesFile needs no entry here",
  });

/** The embedded broker. */
export const brokerSchema = z
  .strictObject({
    enabled: z.boolean().default(true).describe("whether Weir has a broker of its own for devices"),
    host: z
      .string()
      .min(1)
      .max(255)
      .default("127.0.0.1")
      .describe("the address to listen on without TLS; beyond the loopback only with identities"),
    port: z.number().int().min(0).max(65_535).default(1883).describe("0: any free one"),
    anonymous: z
      .boolean()
      .optional()
      .describe(
        "whether clients on this machine may come without a name; default: when there are no identities",
      ),
    identities: z
      .record(
        z
          .string()
          .regex(/^[^\u0000-\u001f\u007f:]{1,128}$/, "expected 1-128 printable characters without a colon"),
        identitySchema,
      )
      .default({})
      .describe("who may connect, by password or certificate, and what they may do"),
    identitiesFile: file
      .optional()
      .describe(
        "file of more identities, a line each: name:hash, as `weir passwd --name` prints it; read at the start",
      ),
    rules: z
      .strictObject({
        publish: filters.default(["#"]).describe("{identity} and {clientid} stand for one level each"),
        subscribe: filters.default(["#"]).describe("the same for what they may receive"),
      })
      .prefault({})
      .describe("topic rules of clients whose identity has none of its own"),
    tls: z
      .strictObject({
        host: z.string().min(1).max(255).default("0.0.0.0").describe("the address to listen on"),
        port: z.number().int().min(0).max(65_535).default(8883).describe("0: any free one"),
        cert: file.describe("file of the broker's certificate, with what it was signed by"),
        key: file.describe("file of its key"),
        ca: file.optional().describe("file of the authority that signs client certificates"),
        clients: z
          .enum(["none", "optional", "required"])
          .default("none")
          .describe("client certificates: not asked for, checked where there is one, or required"),
      })
      .refine(({ ca, clients }) => (clients === "none") === (ca === undefined), {
        error: "ca goes with clients: optional or required",
        path: ["ca"],
      })
      .optional()
      .describe("a second port, with TLS"),
    limits: z
      .strictObject({
        connections: z
          .number()
          .int()
          .min(1)
          .max(100_000)
          .default(1000)
          .describe("at a time, on each port; further ones are closed"),
        packetKiB: z.number().int().min(1).max(260).default(260).describe("greatest packet"),
        topicLevels: z.number().int().min(1).max(64).default(64).describe("of a topic that is published on"),
        subscriptions: z.number().int().min(0).max(4096).default(256).describe("of one client"),
        messagesPerSecond: z
          .number()
          .int()
          .min(0)
          .max(10_000_000)
          .default(0)
          .describe("of one connection: a faster one is slowed down; 0: no limit"),
        retainedMessages: z
          .number()
          .int()
          .min(0)
          .max(1_000_000)
          .default(16_384)
          .describe("of all clients; the longest unchanged go first"),
        retainedMiB: z
          .number()
          .int()
          .min(0)
          .max(1024)
          .default(64)
          .describe("of all of them together, with their topics"),
        sessions: z
          .number()
          .int()
          .min(0)
          .max(100_000)
          .default(1000)
          .describe("of clients that are away; the longest away go first. 0: none is kept"),
        sessionExpiryS: z
          .number()
          .int()
          .min(0)
          .max(2 ** 32 - 1)
          .default(86_400)
          .describe("longest that a session is kept for a client that is away"),
        queueMessages: z
          .number()
          .int()
          .min(1)
          .max(100_000)
          .default(1000)
          .describe("that wait for one client; the oldest go first"),
        queueKiB: z.number().int().min(1).max(1_048_576).default(1024).describe("of one client's, too"),
        queuesMiB: z.number().int().min(1).max(16_384).default(64).describe("of all clients' together"),
      })
      .prefault({}),
  })
  .check((context) => {
    const { anonymous, identities, identitiesFile, host, tls, enabled } = context.value;
    if (!enabled) return;
    const problem = (path: string[], message: string): void => {
      context.issues.push({ code: "custom", message, input: context.value, path });
    };
    const nobody = Object.keys(identities).length === 0 && identitiesFile === undefined;
    const remedy = "add broker.identities or broker.identitiesFile, or take 127.0.0.1";
    if (nobody && anonymous === false) problem(["anonymous"], `nobody could connect: ${remedy}`);
    if (nobody && !isLoopback(host))
      problem(["host"], `clients without a name are let in on the loopback only: ${remedy}`);
    if (nobody && tls !== undefined && !isLoopback(tls.host))
      problem(["tls", "host"], `clients without a name are let in on the loopback only: ${remedy}`);
    const wantsCertificates = Object.values(identities).some(({ certificate }) => certificate !== undefined);
    if (wantsCertificates && (tls === undefined || tls.clients === "none"))
      problem(
        ["tls"],
        "an identity has a certificate: set broker.tls with ca, and clients: optional or required",
      );
  })
  .prefault({});

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
    username: z.string().max(512).optional().describe("default: none is sent"),
    password: z.string().max(512).optional().describe("better given as an environment variable"),
    tls: z
      .strictObject({
        ca: file.optional().describe("file of the authorities to trust, instead of the system's"),
        cert: file.optional().describe("file of the client's certificate"),
        key: file.optional().describe("file of its key"),
        servername: z.string().min(1).max(255).optional().describe("default: the host of the url"),
        alpn: z.string().min(1).max(64).optional().describe("protocol to ask for in the handshake"),
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
  .refine(({ tls }) => (tls.cert === undefined) === (tls.key === undefined), {
    error: "cert and key go together",
    path: ["tls"],
  });

/** The rule of what is said about devices that are gone or back (presence.ts). */
export const PRESENCE_RULES: readonly DeviceRule[] = [
  deviceRuleSchema.parse({ topic: "{device}", decoder: "availability" }),
];

/** Where telemetry comes from. */
export const sourcesSchema = z
  .strictObject({
    kernel: kernelSchema.describe("probes in this machine's kernel"),
    system: everySchema.describe("/proc and /sys of this machine"),
    devices: rulesSchema.describe(
      "mapping rules and presets for device messages, first match wins; default: every preset",
    ),
    mqtt: z.record(name, mqttSourceSchema).default({}).describe("external brokers"),
  })
  .prefault({});

/** A mapping rule, every default filled in. */
export type DeviceRule = z.infer<typeof deviceRuleSchema>;
/** An external broker's options. */
export type MqttSourceOptions = z.infer<typeof mqttSourceSchema>;
/** The embedded broker's options. */
export type BrokerOptions = z.infer<typeof brokerSchema>;
