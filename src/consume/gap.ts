/** The announcement of numbers that will not come: `weir/v1/<gateway>/gap`. */
import type { Span } from "./dedupe.ts";

/** An announced gap, with why. */
export interface GapNotice extends Span {
  /** `overflow`, `ttl`, `purge`, `corrupt`, `rejected` or `uplink removed` */
  readonly reason: string;
}

/** The gap in a payload, or undefined when it is none. */
export function readGap(payload: Uint8Array): GapNotice | undefined {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString("utf8"));
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { v, gateway, epoch, stream, from, to, reason }: Record<string, unknown> = { ...value };
  if (v !== 1 || typeof gateway !== "string" || typeof epoch !== "string" || typeof stream !== "string")
    return undefined;
  if (typeof from !== "number" || typeof to !== "number" || typeof reason !== "string") return undefined;
  if (!Number.isSafeInteger(from) || !Number.isSafeInteger(to) || from < 0 || to < from) return undefined;
  return { gateway, epoch, stream, seq: from, span: to - from + 1, reason };
}
