/** Reads what Weir publishes, in any encoding (docs/specs/wire.md). Every byte is untrusted: a broker may hand on anything. */

import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { type Crc32c, readBlock } from "../core/block.ts";
import { type Frame, Kind, Status } from "../core/frame.ts";
import { isObject } from "../core/is-object.ts";
import type { Stream } from "../core/ports.ts";
import { crc32c } from "./crc32c.ts";

/** A batch decompresses to no more than this: what is larger was not made by Weir. */
const MOST_BYTES = 64 * 2 ** 20;
const QUALITIES = [undefined, "uncertain", "bad", "stale"];

/** One sample object of a batch (docs/specs/json.md). */
export interface SampleObject {
  readonly device: string;
  readonly ts: number | string;
  /** quality when it is not good */
  readonly q: string | undefined;
  /** true when it was recorded earlier and sent late */
  readonly hist: true | undefined;
  /** `unsync` when the clock that gave `ts` was not set */
  readonly clk: "unsync" | undefined;
  readonly values: Readonly<Record<string, unknown>>;
}

/** A batch, whatever its encoding was. */
export interface Batch {
  readonly id: string;
  readonly gateway: string;
  readonly epoch: string;
  readonly stream: Stream;
  readonly seq: number;
  readonly span: number;
  readonly samples: readonly SampleObject[];
}

/**
 * The batch in a payload, or undefined when it is none: not a batch, damaged (a block's checksum is verified), or larger than 64 MiB
 * decompressed. Unknown keys are left alone. Integers beyond 2^53 and times are as in docs/specs/json.md. `checksum`: CRC32C, where
 * there is a faster one than this one's own.
 */
export function readBatch(payload: Uint8Array, checksum: Crc32c = crc32c): Batch | undefined {
  try {
    const bytes = decompress(payload);
    return bytes[0] === 0x57 ? readBlockBatch(bytes, checksum) : readJsonBatch(bytes);
  } catch {
    return undefined;
  }
}

function decompress(payload: Uint8Array): Uint8Array {
  const [first, second] = payload;
  const limits = { maxOutputLength: MOST_BYTES };
  if (first === 0x1f && second === 0x8b) return gunzipSync(payload, limits);
  if (first === 0x28 && second === 0xb5) return zstdDecompressSync(payload, limits);
  return payload;
}

function readJsonBatch(bytes: Uint8Array): Batch | undefined {
  const value: unknown = JSON.parse(textOf(bytes));
  const key = readKey(value);
  if (key === undefined || !isObject(value) || !Array.isArray(value["samples"])) return undefined;
  const samples: SampleObject[] = [];
  for (const sample of value["samples"]) {
    if (!isObject(sample) || !isObject(sample["values"])) return undefined;
    const { device, ts, q, hist, clk, values } = sample;
    if (typeof device !== "string" || (typeof ts !== "number" && typeof ts !== "string")) return undefined;
    samples.push({
      device,
      ts,
      q: typeof q === "string" ? q : undefined,
      hist: hist === true ? true : undefined,
      clk: clk === "unsync" ? clk : undefined,
      values,
    });
  }
  return { ...key, samples };
}

/** "WBAT", version, 0, u16 length of the key, the key, the block. */
function readBlockBatch(bytes: Uint8Array, checksum: Crc32c): Batch | undefined {
  if (textOf(bytes.subarray(0, 4)) !== "WBAT" || bytes[4] !== 1 || bytes.byteLength < 8) return undefined;
  const keyBytes = (bytes[6] ?? 0) | ((bytes[7] ?? 0) << 8);
  const key = readKey(JSON.parse(textOf(bytes.subarray(8, 8 + keyBytes))));
  if (key === undefined) return undefined;
  // A block is read where it begins at the start of a buffer.
  return { ...key, samples: samplesOf(readBlock(bytes.slice(8 + keyBytes), checksum)) };
}

function readKey(value: unknown): Omit<Batch, "samples"> | undefined {
  if (!isObject(value) || value["v"] !== 1) return undefined;
  const { id, gateway, epoch, stream, seq, span } = value;
  if (typeof id !== "string" || typeof gateway !== "string" || typeof epoch !== "string") return undefined;
  if (stream !== "alarm" && stream !== "data" && stream !== "host") return undefined;
  if (typeof seq !== "number" || typeof span !== "number") return undefined;
  return { id, gateway, epoch, stream, seq, span };
}

/** Rows that follow each other with one device, time and status are one object, as in the `json` encoding. */
function samplesOf(frame: Frame): SampleObject[] {
  const samples: (SampleObject & { readonly values: Record<string, unknown> })[] = [];
  let before = -1;
  for (let row = 0; row < frame.rows; row++) {
    const metric = frame.metrics[frame.metric[row] ?? 0] ?? "";
    const same =
      before >= 0 &&
      frame.device[row] === frame.device[before] &&
      frame.time[row] === frame.time[before] &&
      frame.status[row] === frame.status[before];
    let sample = samples.at(-1);
    if (!same || sample === undefined || Object.hasOwn(sample.values, metric)) {
      const status = frame.status[row] ?? 0;
      sample = {
        device: frame.devices[frame.device[row] ?? 0] ?? "",
        ts: (frame.time[row] ?? 0) / 1000,
        q: QUALITIES[status & Status.qualityMask],
        hist: (status & Status.historical) === 0 ? undefined : true,
        clk: (status & Status.clockUnsynchronised) === 0 ? undefined : "unsync",
        // A metric may be called __proto__.
        values: Object.create(null),
      };
      samples.push(sample);
    }
    sample.values[metric] = shownValue(frame, row);
    before = row;
  }
  return samples;
}

function shownValue(frame: Frame, row: number): unknown {
  const value = frame.value[row] ?? 0;
  switch (frame.kind[row]) {
    case Kind.boolean:
      return value === 1;
    case Kind.text:
      return frame.texts[value] ?? "";
    case Kind.bytes:
      return { b64: Buffer.from(frame.blobs[value] ?? new Uint8Array()).toString("base64") };
    case Kind.null:
      return null;
    default:
      return value;
  }
}

const textOf = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
