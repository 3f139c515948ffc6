/** What is known of a device beside its values (docs/specs/json.md, "Retained messages of devices"). */
import type { KnownDevice, MetricAbout } from "../core/device.ts";
import { Kind } from "../core/frame.ts";
import { matcher } from "../core/glob.ts";

const KINDS: readonly string[] = Object.keys(Kind);

/**
 * `{"v":1,"gateway":…,"labels":{…},"device":…,"source":…,"rule":…,"decoder":…,"model":…,"firstSeen":…,"lastSeen":…,"metrics":{"temp_c":
 * {"kind":"number","unit":"Cel","description":…}}}`, of the metrics that `passes` lets through.
 */
export function encodeAbout(
  { gateway, labels = {} }: { readonly gateway: string; readonly labels?: Readonly<Record<string, string>> },
  { device, firstMs, lastMs, about, values }: KnownDevice,
  passes: (metric: string) => boolean,
): string {
  const { metrics: said = {}, ...rest } = about;
  const saying = Object.entries(said).map(([pattern, what]) => ({ fits: matcher([pattern]), what }));
  const metrics = Object.fromEntries(
    [...values]
      .filter(([name]) => passes(name))
      .map(([name, { type, unit }]) => {
        const what: MetricAbout = saying.find(({ fits }) => fits(name))?.what ?? {};
        const known = unit === "" ? what.unit : unit;
        // What JSON.stringify finds undefined it leaves out.
        const kind = type === Kind.null ? undefined : KINDS[type];
        return [name, { kind, unit: known, description: what.description }];
      }),
  );
  const shown = Object.keys(labels).length === 0 ? undefined : labels;
  const seen = { firstSeen: firstMs, lastSeen: lastMs };
  return JSON.stringify({ v: 1, gateway, labels: shown, device, ...rest, ...seen, metrics });
}
