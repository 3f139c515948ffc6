/** The whole configuration: every section's schema is its own folder's, this page only puts them together. */
import { z } from "zod";
import { httpSchema } from "../api/options.ts";
import { outboxSchema } from "../outbox/options.ts";
import { pluginsSchema } from "../plugins/options.ts";
import { brokerSchema, sourcesSchema } from "../sources/options.ts";
import { uplinksSchema } from "../uplink/options.ts";
import { defaultGatewayName } from "./gateway.ts";

const gatewaySchema = z.strictObject({
  name: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, "expected 1-64 of A-Z a-z 0-9 . _ -")
    .optional()
    .transform((name) => name ?? defaultGatewayName())
    .describe("part of every topic and key; default: <host>-<4 hex of the hardware id>"),
  labels: z
    .record(
      z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,63}$/, "expected a name of A-Z a-z 0-9 _"),
      z.string().max(256),
    )
    .refine((labels) => Object.keys(labels).length <= 32, "expected at most 32 labels")
    .default({})
    .describe("what is to be known of this gateway, such as its site: part of every device's `meta`"),
});

const dataSchema = z.strictObject({
  dir: z.string().min(1).default("./.weir").describe("where the agent keeps its database, socket and caches"),
});

const pipelineSchema = z.strictObject({
  chunkSamples: z
    .number()
    .int()
    .min(16)
    .max(32_768)
    .default(4096)
    .describe("samples that seal a chunk, which goes through the plugins as one and is stored as one"),
  lingerMs: z
    .number()
    .int()
    .min(0)
    .max(1000)
    .default(5)
    .describe("longest wait for a chunk to fill, in milliseconds"),
  queueMiB: z
    .number()
    .int()
    .min(1)
    .max(1024)
    .default(32)
    .describe("memory held for inputs before QoS 0 is dropped"),
});

/** The configuration file's schema; an empty file is a valid one. */
export const configSchema = z
  .strictObject({
    gateway: gatewaySchema.prefault({}),
    data: dataSchema.prefault({}),
    http: httpSchema.prefault({}),
    broker: brokerSchema.prefault({}),
    sources: sourcesSchema.prefault({}),
    pipeline: pipelineSchema.prefault({}),
    plugins: pluginsSchema.prefault({}),
    outbox: outboxSchema.prefault({}),
    uplinks: uplinksSchema.prefault({}),
  })
  .superRefine(({ http, broker }, context) => {
    const places = [
      ...(broker.enabled ? [{ path: ["broker", "port"], ...broker }] : []),
      ...(broker.enabled && broker.tls !== undefined
        ? [{ path: ["broker", "tls", "port"], ...broker.tls }]
        : []),
      ...(http.enabled ? [{ path: ["http", "port"], ...http }] : []),
    ];
    places.forEach(({ path, port, host }, i) => {
      const other = places
        .slice(0, i)
        .find((one) => one.port === port && port !== 0 && overlap(one.host, host));
      if (other === undefined) return;
      context.addIssue({ code: "custom", path, message: `${other.path.join(".")} is ${port}, too` });
    });
  });

/** Whether two addresses to listen on have an address in common, as far as their texts tell. */
const overlap = (a: string, b: string): boolean =>
  a === b || [a, b].some((host) => /^(?:0\.0\.0\.0|::)$/.test(host));

/** The configuration with every default filled in. */
export type Config = z.infer<typeof configSchema>;
