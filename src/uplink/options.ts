/** The `uplinks` section of weir.yaml. */
import { z } from "zod";
import { refineClientIds } from "../core/client-ids.ts";
import { STREAMS } from "../core/ports.ts";
import { tlsFilesSchema, tlsProblem } from "../core/tls-options.ts";
import { parseDuration, parseSize } from "../core/units.ts";
import { PRESETS } from "./presets.ts";

export { withPresets } from "./presets.ts";

/** A number of bytes, or text such as `100KiB`; bytes come out. */
const bytes = z
  .union([z.number(), z.string().transform(parseSize)])
  .pipe(z.number("expected a size such as 100KiB").int().nonnegative("expected a size such as 100KiB"));

/** A duration such as `30s`; milliseconds come out. */
const duration = z
  .string()
  .meta({ title: "duration" })
  .transform(parseDuration)
  .pipe(z.number("expected a duration such as 30s, 12h or 1d"));

const ADDRESS = /^(?:mqtts?:\/\/[^/\s@]+|wss?:\/\/[^\s@]+)$/;
const isAddress = (url: string): boolean => ADDRESS.test(url) && URL.canParse(url);
const SCHEMES =
  "mqtt://, mqtts://, ws:// or wss:// and host:port; a name and a password go to username and password";

/** Text with `{names}` that are filled in: of `known`, with every one of `needed`. */
const filled = (known: readonly string[], needed: readonly string[] = []) =>
  z.string().check((context) => {
    const names = [...context.value.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => name);
    const problem = (message: string): void => {
      context.issues.push({ code: "custom", message, input: context.value });
    };
    for (const name of names)
      if (!known.includes(name)) problem(`{${name}} stands for nothing here: ${braced(known)} do`);
    const lacking = needed.filter((name) => !names.includes(name));
    // Retained messages: one would take another's place.
    if (lacking.length > 0) problem(`needs ${braced(lacking)}`);
  });
const braced = (names: readonly string[]): string => names.map((name) => `{${name}}`).join(", ");

const template = (
  fallback: string,
  what: string,
  known: readonly string[] = [],
  needed: readonly string[] = [],
) =>
  filled(["gateway", ...known], needed)
    .min(1)
    .max(512)
    .regex(/^[^+#\0]*$/, "messages are published on it: no + or #")
    .default(fallback)
    .describe(what);

/** Where each message goes. `{gateway}`, `{stream}`, `{device}` and `{code}` are filled in. */
const topicsSchema = z.strictObject({
  status: template("weir/v1/{gateway}/status", "birth, will and goodbye, retained"),
  batch: template("weir/v1/{gateway}/{stream}", "batches", ["stream"]),
  gap: template("weir/v1/{gateway}/gap", "sequence numbers that will not come"),
  last: template(
    "weir/v1/{gateway}/last/{device}",
    "a device's latest values, retained",
    ["device"],
    ["device"],
  ),
  meta: template(
    "weir/v1/{gateway}/meta/{device}",
    "what is known of a device, retained",
    ["device"],
    ["device"],
  ),
  alarm: template(
    "weir/v1/{gateway}/alarm/{device}/{code}",
    "an alarm, retained while it is active",
    ["device", "code"],
    ["device", "code"],
  ),
});

const patterns = (what: string) =>
  z.array(z.string().min(1).max(256)).min(1).max(256).default(["*"]).describe(what);

const plainSchema = z.strictObject({
  preset: z
    .enum(["aws-iot", "azure-iot-hub"])
    .optional()
    .describe("limits and topics of a cloud's broker as defaults: see docs/uplinks.md"),
  url: z
    .string()
    .refine((url) => url === "embedded" || isAddress(url), `expected \`embedded\`, or ${SCHEMES}`)
    .describe(
      "`embedded` for the agent's own broker, or mqtt://, mqtts://, ws:// or wss:// and the broker's address",
    ),
  fallback: z
    .array(z.string().refine(isAddress, `expected ${SCHEMES}`))
    .max(8)
    .default([])
    .describe("brokers to try in turn while `url` can't be reached; they get the same batches"),
  failback: duration.prefault("10m").describe("how long to stay with a fallback before `url` is tried again"),
  streams: z
    .array(z.enum(STREAMS))
    .min(1)
    .default([...STREAMS])
    .describe("what is sent"),
  retain: z.boolean().default(true).describe("false for a broker that takes no retained messages"),
  last: z
    .boolean()
    .optional()
    .describe(
      "keep `last/<device>`, `meta/<device>` and `alarm/<device>/<code>` retained; by default on the embedded broker only",
    ),
  version: z.literal([4, 5]).default(5).describe("MQTT version: 5, or 4 for 3.1.1"),
  clientId: filled(["gateway", "uplink"])
    .min(1)
    .max(128)
    .default("weir-{gateway}.{uplink}")
    .describe("`{gateway}` and `{uplink}` are filled in; every client of a broker has one of its own"),
  username: filled(["gateway", "uplink", "host"])
    .max(512)
    .optional()
    .describe("default: none is sent; `{gateway}` and `{host}`, the broker's, are filled in"),
  password: z
    .string()
    .max(512)
    .optional()
    .describe("better given as an environment variable: see docs/configuration.md"),
  tls: tlsFilesSchema.describe("for mqtts:// and wss://; the files are read again at each connection"),
  window: z
    .number()
    .int()
    .min(1)
    .max(32)
    .default(32)
    .describe("batches that may be unacknowledged at a time"),
  maxPacketBytes: bytes
    .optional()
    .describe("largest packet, where the broker takes less than it says; batches above it are sent in parts"),
  messagesPerSecond: z.number().positive().optional().describe("most messages a second"),
  bytesPerSecond: bytes.optional().describe("most bytes a second, of payloads and topics"),
  bytesPerMonth: bytes
    .optional()
    .describe(
      "most bytes in a calendar month (UTC); when they are used up, only alarms are sent until it ends",
    ),
  appAck: z
    .strictObject({
      topic: template("weir/v1/{gateway}/in/ack", "where the consumer says it"),
      timeout: duration.prefault("5m").describe("what is not confirmed in this time is sent again"),
      batches: z
        .number()
        .int()
        .min(1)
        .max(4096)
        .default(256)
        .describe("that may wait for confirmation at a time"),
    })
    .optional()
    .describe(
      "forget a batch only when the consumer says on this topic that it is durable: see docs/uplinks.md",
    ),
  ackTimeoutMs: z
    .number()
    .int()
    .min(100)
    .default(20_000)
    .describe("how long the broker may take to acknowledge before it is left and connected to again"),
  batch: z
    .strictObject({
      samples: z.number().int().min(1).default(1000).describe("a batch is closed when it has so many"),
      bytes: bytes.prefault("100KiB").describe("of encoded samples, estimated"),
      ageMs: z.number().int().min(0).default(1000).describe("or when its first one has waited so long"),
    })
    .prefault({}),
  filter: z
    .strictObject({
      devices: patterns("devices whose rows are sent, `*` for any characters"),
      metrics: patterns("metrics whose rows are sent, by their names without labels"),
    })
    .prefault({})
    .describe("what is left out counts as dropped"),
  encoding: z
    .enum(["json", "block"])
    .default("json")
    .describe(
      "json, which everything reads; block, Weir's own columns: a third of the bytes, see docs/specs/wire.md",
    ),
  compression: z.enum(["none", "gzip", "zstd"]).default("none").describe("of a batch's payload"),
  qos: z
    .literal([0, 1, 2])
    .default(1)
    .describe(
      "of batches; 0: a batch counts as delivered when it is handed to the connection, and may be lost",
    ),
  traceparent: z
    .boolean()
    .default(false)
    .describe(
      "a W3C trace context with each batch, and links to those of its messages, as MQTT 5 user properties",
    ),
  overflow: z
    .enum(["drop-oldest", "drop-newest", "pause"])
    .default("drop-oldest")
    .describe(
      "when the outbox is full: what gives way, or `pause`: nothing is taken in, QoS 0 and host rows are dropped",
    ),
  ttl: z
    .partialRecord(z.enum(STREAMS), duration)
    .default({})
    .describe("by stream, such as `host: 1d`: what has waited longer is dropped, counted and announced"),
  replay: z
    .strictObject({
      share: z
        .string()
        .regex(/^([1-9]\d?|100)%$/, "expected 1% to 100%")
        .default("30%")
        .describe("part of the window for backlog, beside what is live"),
      after: duration
        .prefault("30s")
        .describe("what has waited longer is backlog, and is sent as historical"),
    })
    .prefault({}),
  topics: topicsSchema.prefault({}),
});

/** Levels of a topic, as many as its template has. */
const depth = (topic: string): number => topic.split("/").length - 1;

/** One uplink. A preset's values are put in before ({@link withPresets}). */
export const uplinkSchema = plainSchema.superRefine((options, context) => {
  const { appAck, fallback, password, preset, tls, topics, url, username } = options;
  const secured = Object.values(tls).some((value) => value !== undefined);
  const elsewhere = [appAck, username, password].some((value) => value !== undefined);
  if (url === "embedded" && (elsewhere || secured || fallback.length > 0 || options.qos === 2)) {
    const message =
      "appAck, fallback, qos 2, username, password and tls are for brokers elsewhere, not for `embedded`";
    context.addIssue({ code: "custom", path: ["url"], message });
  }
  const unused = url === "embedded" ? undefined : tlsProblem(tls, [url, ...fallback]);
  if (unused !== undefined) context.addIssue({ code: "custom", path: ["tls"], message: unused });
  if (options.traceparent && options.version !== 5) {
    const message = "needs MQTT 5's user properties: `version: 5`";
    context.addIssue({ code: "custom", path: ["traceparent"], message });
  }
  if (preset === undefined) return;
  const { slashes: most, qos, topics: own } = PRESETS[preset];
  for (const [key, given] of [
    ["last", options.last === true],
    ["appAck", appAck !== undefined],
  ] as const) {
    const message = `${preset} takes no topics but its own`;
    if (own && given) context.addIssue({ code: "custom", path: [key], message });
  }
  if (options.qos > qos) {
    const message = `${preset} takes ${qos} at most`;
    context.addIssue({ code: "custom", path: ["qos"], message });
  }
  if (most === undefined) return;
  for (const name of ["status", "batch", "gap"] as const) {
    if (depth(topics[name]) <= most) continue;
    const message = `${depth(topics[name])} slashes, ${preset} takes ${most}`;
    context.addIssue({ code: "custom", path: ["topics", name], message });
  }
});

/** The map of uplinks. `local` stays when others are added. */
export const uplinksSchema = z
  .record(z.string().regex(/^[a-z0-9][a-z0-9_-]{0,31}$/, "expected a name of a-z 0-9 _ -"), uplinkSchema)
  .default({})
  .superRefine((uplinks, context) => {
    const clients = Object.entries(uplinks).flatMap(([name, { url, fallback, clientId }]) =>
      url === "embedded"
        ? []
        : [{ name, urls: [url, ...fallback], clientId: clientId.replaceAll("{uplink}", name) }],
    );
    refineClientIds(clients, context);
  })
  .transform(
    (uplinks): Readonly<Record<string, UplinkOptions>> => ({
      local: uplinkSchema.parse({ url: "embedded" }),
      ...uplinks,
    }),
  );

/** An uplink's options, every default filled in. */
export type UplinkOptions = z.infer<typeof plainSchema>;
