/**
 * `plugin.yaml`: what a plugin is and what it asks for. It only requests: weir.yaml (options.ts) decides.
 */
import { parse } from "yaml";
import { z } from "zod";
import { messageOf, WeirError } from "../core/errors.ts";
import { withinTime } from "./time-limit.ts";

/** Names that weir.yaml's `plugins` section uses for itself, and those of its own decoders. */
export const RESERVED: readonly string[] = [
  "dir",
  "lanes",
  "json",
  "senml",
  "cbor",
  "neuron",
  "plain",
  "availability",
  "about",
];

/** A plugin's name: what it is called in weir.yaml, in the ledger and as a folder. */
export const pluginName: z.ZodString = z
  .string()
  .regex(/^[a-z0-9][a-z0-9_-]{0,63}$/, "expected 1 to 64 of a-z 0-9 _ -")
  .refine((name) => !RESERVED.includes(name), `${RESERVED.join(", ")} are names of Weir's own`);

const count = (most: number, least = 0) => z.number().int().min(least).max(most);

/** The limits as they may be written: any of them, in a manifest or in weir.yaml. */
export const limitsShape = {
  memoryMiB: count(1024, 1).optional().describe("each wasm memory of an instance"),
  timeMs: count(60_000, 1).optional().describe("one call"),
  outputRows: count(65_536, 1).optional().describe("rows of one result"),
  outputBytes: count(4_194_304, 72).optional().describe("bytes of one result"),
  stateBytes: count(16_777_216).optional().describe("all kept entries with their keys"),
  logPerMin: count(6_000).optional().describe("log lines a minute; what is above is counted"),
  effectsPerBatch: count(10_000).optional().describe("effects of one call"),
};

/** Limits of which some are given: a manifest's, or the operator's. */
export type SomeLimits = z.infer<z.ZodObject<typeof limitsShape>>;

/** An MQTT topic filter: `+` for a level, `#` for the rest. */
export const topicFilter: z.ZodString = z
  .string()
  .max(256)
  .regex(/^(?:[^+#/\0]*|\+)(?:\/(?:[^+#/\0]*|\+))*(?:\/#)?$|^#$/, "expected an MQTT topic filter");

/** plugin.yaml (unknown keys are refused). It only requests: grants are the operator's. */
export const manifestSchema = z.strictObject({
  name: pluginName,
  version: z
    .string('expected text: a number needs quotes, as in "1.2"')
    .regex(/^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$/, "expected a version such as 1.2.0"),
  component: z
    .string()
    .regex(
      /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\.wasm$/,
      "expected the name of a .wasm file beside plugin.yaml",
    ),
  needs: z
    .strictObject({
      state: z.boolean().default(false).describe("keep bytes"),
      publish: z.array(topicFilter).max(64).default([]).describe("topics it wants to publish to"),
      alarm: z.boolean().default(false).describe("raise and end alarms"),
    })
    .prefault({}),
  limits: z.strictObject(limitsShape).default({}),
  configSchema: z
    .record(z.string(), z.unknown())
    .optional()
    .describe(
      "JSON Schema of the configuration, without `$ref`; one that takes over a second to check is refused",
    ),
  config: z.record(z.string(), z.unknown()).default({}).describe("default configuration"),
  perDevice: z
    .boolean()
    .default(false)
    .describe(
      "it looks at each device by itself, and all it keeps is kept for a device: it may run in several lanes",
    ),
  scheduleMs: z
    .number()
    .int()
    .min(50)
    .max(86_400_000)
    .default(60_000)
    .describe("how often `tick` is called, where it is exported"),
  onFailure: z
    .enum(["bypass", "drop"])
    .default("bypass")
    .describe("what becomes of the bound rows while the plugin is out"),
});

/** A plugin's manifest, every default filled in. */
export type Manifest = z.infer<typeof manifestSchema>;

/** The manifest of a bare `.wasm`: nothing asked for. */
export function bareManifest(name: string): Manifest {
  return manifestSchema.parse({ name, version: "0", component: `${name}.wasm` });
}

/**
 * Reads a manifest's text.
 * @throws WeirError `plugin.refused` with every problem and its path
 */
export function parseManifest(text: string): Manifest {
  let value: unknown;
  try {
    const options = { maxAliasCount: 20, prettyErrors: false, logLevel: "error" } as const;
    value = withinTime("plugin.yaml", () => parse(text, options));
  } catch (thrown) {
    if (thrown instanceof WeirError) throw thrown;
    throw new WeirError("plugin.refused", `plugin.yaml: ${messageOf(thrown)}`, { cause: thrown });
  }
  const result = manifestSchema.safeParse(value ?? {});
  if (!result.success) throw new WeirError("plugin.refused", `plugin.yaml: ${problemsOf(result.error)}`);
  return result.data;
}

/** What a schema found wrong, on one line. */
export function problemsOf(error: z.ZodError): string {
  return error.issues
    .slice(0, 10)
    .map((issue) => (issue.path.length === 0 ? issue.message : `${issue.path.join(".")}: ${issue.message}`))
    .join("; ");
}

/**
 * The configuration that `configure` gets, as JSON: the operator's keys over the manifest's, at the top level.
 * @throws WeirError `plugin.refused` when it does not fit the manifest's own schema
 */
export function mergeConfig(manifest: Manifest, given: Readonly<Record<string, unknown>>): string {
  const merged = { ...manifest.config, ...given };
  const { configSchema } = manifest;
  if (configSchema !== undefined) {
    const problem = withinTime("plugin.yaml: configSchema", () => misfit(configSchema, merged));
    if (problem !== undefined) throw new WeirError("plugin.refused", problem);
  }
  return JSON.stringify(merged);
}

const REFERENCE = /"\$(?:ref|dynamicRef)":/;

/** What keeps a configuration from fitting an author's schema, if anything. The schema is untrusted, and so are its patterns. */
function misfit(configSchema: Readonly<Record<string, unknown>>, config: unknown): string | undefined {
  // Forty of them, each to the next one twice, are a terabyte of findings.
  if (REFERENCE.test(JSON.stringify(configSchema)))
    return "plugin.yaml: configSchema: $ref is not taken: put what it stands for in its place";
  try {
    const result = z.fromJSONSchema({ ...configSchema }).safeParse(config);
    return result.success ? undefined : `config: ${problemsOf(result.error)}`;
  } catch (thrown) {
    return `plugin.yaml: configSchema: ${messageOf(thrown)}`;
  }
}
