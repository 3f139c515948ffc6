/** The `plugins` section of weir.yaml: where plugins lie, and what each of them gets. */
import { availableParallelism } from "node:os";
import { z } from "zod";
import { limitsShape, pluginName, topicFilter } from "./manifest.ts";

const MOST_LANES = 16;

/** One lane for each core beyond the three that the path itself keeps busy, at most four. */
export const autoLanes = (cores: number): number => Math.max(1, Math.min(4, cores - 3));

const patterns = (what: string) =>
  z.array(z.string().min(1).max(256)).min(1).max(64).optional().describe(what);

/** What the operator says about one plugin. */
const pluginSchema = z.strictObject({
  enabled: z.boolean().default(true).describe("false: it is not started"),
  bind: z
    .strictObject({
      sources: patterns("sources whose rows it gets (devices, kernel, system); default: devices"),
      devices: patterns("devices whose rows it gets, `*` for any characters; default: every one"),
      metrics: patterns("metrics whose rows it gets; default: every one"),
    })
    .prefault({}),
  order: z
    .number()
    .int()
    .min(-1_000_000)
    .max(1_000_000)
    .default(0)
    .describe("place in the chain; the same: by name"),
  grant: z
    .strictObject({
      state: z.boolean().default(true).describe("false: refused though the manifest asks for it"),
      alarm: z.boolean().default(true).describe("false: refused though the manifest asks for it"),
      publish: z.array(topicFilter).max(64).default([]).describe("topics it may publish to"),
    })
    .prefault({}),
  limits: z.strictObject(limitsShape).default({}),
  config: z.record(z.string(), z.unknown()).default({}).describe("its configuration, over the manifest's"),
});

/** What the operator says about one plugin, every default filled in. */
export type PluginOptions = z.infer<typeof pluginSchema>;

/** The whole section: `dir`, `lanes`, and a part for each plugin by its name. */
export const pluginsSchema = z
  .object({
    dir: z.string().min(1).max(4096).default("./plugins").describe("the folder that is looked into"),
    lanes: z
      .union([z.literal("auto"), z.number().int().min(1).max(MOST_LANES)])
      .default("auto")
      .describe("threads of each plugin that looks at devices one by one; auto: by the number of cores"),
  })
  .catchall(pluginSchema)
  .superRefine((section, context) => {
    for (const name of Object.keys(section)) {
      if (name === "dir" || name === "lanes" || pluginName.safeParse(name).success) continue;
      context.addIssue({
        code: "custom",
        path: [name],
        message: "not a plugin's name: expected 1 to 64 of a-z 0-9 _ -",
      });
    }
  })
  .prefault({})
  .transform(({ dir, lanes, ...plugins }) => ({
    dir,
    lanes: lanes === "auto" ? autoLanes(availableParallelism()) : lanes,
    plugins: new Map<string, PluginOptions>(Object.entries(plugins)),
  }));

/** The `plugins` section, every default filled in. */
export type PluginsOptions = z.infer<typeof pluginsSchema>;
