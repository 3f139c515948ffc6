/** What holds for one plugin: the operator's word in weir.yaml, over its manifest's, over the defaults. */
import type { KnownPlugin } from "./discover.ts";
import { mergeLimits, type PluginLimits } from "./limits.ts";
import type { PluginOptions, PluginsOptions } from "./options.ts";
import type { Decision } from "./versions.ts";

/** What holds for a plugin that weir.yaml doesn't name: the schema's defaults. */
export const UNNAMED: PluginOptions = {
  enabled: true,
  bind: {},
  order: 0,
  grant: { state: true, alarm: true, publish: [] },
  limits: {},
  config: {},
};

/** What says that a plugin is not to run; undefined: nothing does. */
export function offBy(options: PluginOptions, decision: Decision): string | undefined {
  if (!options.enabled) return "weir.yaml";
  return decision.disabled ? "`weir plugin disable`" : undefined;
}

/** The `plugins` section of weir.yaml, asked plugin by plugin. Immutable: a reload makes another. */
export class Settings {
  readonly dir: string;
  readonly #section: PluginsOptions;

  constructor(section: PluginsOptions) {
    this.#section = section;
    this.dir = section.dir;
  }

  /** The same folder with another section: the folder stays the one of the start. */
  with(section: PluginsOptions): Settings {
    return new Settings({ ...section, dir: this.dir });
  }

  /** Plugins that weir.yaml names. */
  get named(): readonly string[] {
    return [...this.#section.plugins.keys()];
  }

  /** What weir.yaml says of a plugin. */
  of(name: string): PluginOptions {
    return this.#section.plugins.get(name) ?? UNNAMED;
  }

  /** What a plugin may take. */
  limits({ name, manifest }: KnownPlugin): PluginLimits {
    return mergeLimits(this.of(name).limits, manifest.limits);
  }

  /** In lanes run those that say they look at each device by itself. */
  lanes({ manifest }: KnownPlugin): number {
    return manifest.perDevice ? this.#section.lanes : 1;
  }
}
