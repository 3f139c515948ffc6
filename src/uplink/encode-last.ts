/** The latest value of every metric of a device, as one flat object (docs/specs/json.md). */
import type { KnownDevice, LatestValue } from "../core/device.ts";
import { Kind } from "../core/frame.ts";
import { milliseconds, qualityOf } from "./encode-json.ts";

/** `{"temp_c":71.2,"rpm":1480,"_ts":1763640000123,"_q":"good"}`, of the metrics that `passes` lets through. */
export function encodeLatest({ values, latest }: KnownDevice, passes: (metric: string) => boolean): string {
  let text = "{";
  for (const [metric, value] of values)
    if (passes(metric)) text += `${JSON.stringify(metric)}:${jsonOf(value)},`;
  return `${text}"_ts":${milliseconds(latest?.timeUs ?? 0)},"_q":"${qualityOf(latest?.status ?? 0)}"}`;
}

function jsonOf({ kind, number, data }: LatestValue): string {
  if (typeof data === "string") return JSON.stringify(data);
  if (data !== undefined) return `{"b64":"${Buffer.from(data).toString("base64")}"}`;
  if (kind === Kind.boolean) return number === 1 ? "true" : "false";
  return kind === Kind.null ? "null" : String(number);
}
