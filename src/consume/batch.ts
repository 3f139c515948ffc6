/** Reads what Weir publishes. Every byte is untrusted: a broker may hand on anything. */
import type { Stream } from "../core/ports.ts";

/** One sample object of a batch (docs/specs/json.md). */
export interface SampleObject {
  readonly device: string;
  readonly ts: number | string;
  /** quality when it is not good */
  readonly q: string | undefined;
  readonly values: Readonly<Record<string, unknown>>;
}

/** A batch in the `json` encoding. */
export interface JsonBatch {
  readonly id: string;
  readonly gateway: string;
  readonly epoch: string;
  readonly stream: Stream;
  readonly seq: number;
  readonly span: number;
  readonly samples: readonly SampleObject[];
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The batch in a payload, or undefined when it is none. Unknown keys are left alone. */
export function readJsonBatch(payload: Uint8Array): JsonBatch | undefined {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString("utf8"));
  } catch {
    return undefined;
  }
  if (!isObject(value) || value["v"] !== 1 || !Array.isArray(value["samples"])) return undefined;
  const { id, gateway, epoch, stream, seq, span } = value;
  if (typeof id !== "string" || typeof gateway !== "string" || typeof epoch !== "string") return undefined;
  if (stream !== "alarm" && stream !== "data" && stream !== "host") return undefined;
  if (typeof seq !== "number" || typeof span !== "number") return undefined;
  const samples: SampleObject[] = [];
  for (const sample of value["samples"]) {
    if (!isObject(sample) || !isObject(sample["values"])) return undefined;
    const { device, ts, q, values } = sample;
    if (typeof device !== "string" || (typeof ts !== "number" && typeof ts !== "string")) return undefined;
    samples.push({ device, ts, q: typeof q === "string" ? q : undefined, values });
  }
  return { id, gateway, epoch, stream, seq, span, samples };
}
