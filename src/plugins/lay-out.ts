/** Lays out what a component returned as the raw block of a frame. Used inside the plugin's worker. */
import { align8, HEADER_BYTES, newBlock, ROW_BYTES } from "../core/block-header.ts";
import { writeEntries } from "../core/dictionary.ts";

/** A frame as jco lifts it: lists of numbers are typed arrays, and texts are well-formed, as they come out of a decoder. */
export interface LiftedFrame {
  readonly device: Uint32Array;
  readonly metric: Uint32Array;
  readonly time: Float64Array;
  readonly kind: Uint8Array;
  readonly status: Uint8Array;
  readonly value: Float64Array;
  readonly devices: readonly string[];
  readonly metrics: readonly string[];
  readonly units: readonly string[];
  readonly texts: readonly string[];
  readonly blobs: readonly Uint8Array[];
}

const strings = ["devices", "metrics", "units", "texts"];

/** Whether a value has the contract's shape: a component may export other types under the contract's names. */
export function isLiftedFrame(value: unknown): value is LiftedFrame {
  if (typeof value !== "object" || value === null) return false;
  const given = new Map<string, unknown>(Object.entries(value));
  const lists = [...strings, "blobs"].map((name) => given.get(name));
  return (
    lists.every(Array.isArray) &&
    given.get("device") instanceof Uint32Array &&
    given.get("metric") instanceof Uint32Array &&
    given.get("time") instanceof Float64Array &&
    given.get("kind") instanceof Uint8Array &&
    given.get("status") instanceof Uint8Array &&
    given.get("value") instanceof Float64Array
  );
}

/**
 * The raw block of a returned frame. Structure only: the agent checks every invariant again.
 * @throws Error over the limits, or when columns differ in length
 */
export function layOut(
  frame: LiftedFrame,
  most: { readonly rows: number; readonly bytes: number },
): Uint8Array<ArrayBuffer> {
  const rows = frame.device.length;
  for (const name of ["metric", "time", "kind", "status", "value"] as const) {
    if (frame[name].length !== rows) {
      throw new Error(`returned ${frame[name].length} rows in column ${name}, ${rows} in device`);
    }
  }
  if (rows > most.rows) throw new Error(`returned ${rows} rows, its limit is ${most.rows}`);
  const { devices, metrics, units, texts, blobs } = frame;
  if (units.length !== metrics.length)
    throw new Error(`returned ${units.length} units for ${metrics.length} metrics`);
  const names = devices.concat(metrics, units, texts);
  const text = names.join("");
  const blobBytes = blobs.reduce((sum, blob) => sum + blob.byteLength, 0);
  const dictionaryBytes = 4 * (names.length + blobs.length) + Buffer.byteLength(text) + blobBytes;
  const body = align8(HEADER_BYTES + dictionaryBytes);
  const size = body + rows * ROW_BYTES;
  if (size > most.bytes) throw new Error(`returned ${size} bytes, its limit is ${most.bytes}`);

  const counts = [devices.length, metrics.length, texts.length, blobs.length] as const;
  const buffer = newBlock({ rows, counts, dictionaryBytes });
  const bytes = new Uint8Array(buffer);
  writeEntries(buffer, names, text, blobs);
  let at = body;
  new Float64Array(buffer, at, rows).set(frame.time);
  at += 8 * rows;
  const values = new Float64Array(buffer, at, rows);
  // A frame has no -0, which arithmetic makes easily: no reason to refuse a plugin's work.
  for (let row = 0; row < rows; row++) values[row] = (frame.value[row] ?? 0) + 0;
  at += 8 * rows;
  new Uint32Array(buffer, at, rows).set(frame.device);
  at += 4 * rows;
  new Uint32Array(buffer, at, rows).set(frame.metric);
  at += 4 * rows;
  bytes.set(frame.kind, at);
  bytes.set(frame.status, at + rows);
  return bytes;
}
