/** What is known of a device beside its values (docs/specs/json.md, "Retained messages of devices"). */
import type { KnownDevice, MetricAbout } from "../core/device.ts";
import { Kind } from "../core/frame.ts";
import { matcher } from "../core/glob.ts";

const KINDS: readonly string[] = Object.keys(Kind);

/**
 * `{"v":1,"gateway":…,"labels":{…},"device":…,"source":…,"rule":…,"decoder":…,"model":…,"firstSeen":…,"lastSeen":…,"metrics":{"temp_c":
 * {"kind":"number","unit":"Cel","description":…}}}`, of the metrics that `passes` lets through, each once
 * whatever its labels.
 */
export function encodeAbout(
  { gateway, labels = {} }: { readonly gateway: string; readonly labels?: Readonly<Record<string, string>> },
  { device, firstMs, lastMs, about, values }: KnownDevice,
  passes: (metric: string) => boolean,
): string {
  const { metrics: said = {}, ...rest } = about;
  const saying = Object.entries(said).map(([pattern, what]) => ({ fits: matcher([pattern]), what }));
  const metrics = new Map<string, MetricAbout & { readonly kind: string | undefined }>();
  for (const [full, { type, unit }] of values) {
    const [name = full] = full.split(";", 1);
    const what: MetricAbout = saying.find(({ fits }) => fits(name))?.what ?? {};
    if (metrics.get(name)?.kind !== undefined || !passes(name)) continue;
    // What JSON.stringify finds undefined it leaves out.
    const kind = type === Kind.null ? undefined : KINDS[type];
    metrics.set(name, { kind, unit: unit === "" ? what.unit : unit, description: what.description });
  }
  const shown = Object.keys(labels).length === 0 ? undefined : labels;
  const seen = { firstSeen: firstMs, lastSeen: lastMs };
  const known = { v: 1, gateway, labels: shown, device, ...rest, ...seen };
  return JSON.stringify({ ...known, metrics: Object.fromEntries(metrics) });
}
