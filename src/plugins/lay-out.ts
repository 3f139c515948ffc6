/** Lays out what a component returned as the raw block of a frame. Used inside the plugin's worker. */
import { align8, HEADER_BYTES, ROW_BYTES, writeHeader } from "../core/block-header.ts";
import { utf8Length } from "../core/dictionary.ts";

/** A frame as jco lifts it: lists of numbers are typed arrays. */
export interface LiftedFrame {
  readonly devices: readonly string[];
  readonly metrics: readonly string[];
  readonly units: readonly string[];
  readonly texts: readonly string[];
  readonly blobs: readonly Uint8Array[];
  readonly device: Uint32Array;
  readonly metric: Uint32Array;
  readonly time: Float64Array;
  readonly kind: Uint8Array;
  readonly status: Uint8Array;
  readonly value: Float64Array;
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

const encoder = new TextEncoder();
const NOTHING = new Uint8Array(0);

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
  // Mostly all ASCII, which the encoder finds out faster than a look at each character.
  const encoded = text.length <= most.bytes ? encoder.encode(text) : NOTHING;
  const ascii = encoded.byteLength === text.length;
  const textBytes = ascii ? text.length : names.reduce((sum, name) => sum + utf8Length(name), 0);
  const blobBytes = blobs.reduce((sum, blob) => sum + blob.byteLength, 0);
  const dictionaryBytes = 4 * (names.length + blobs.length) + textBytes + blobBytes;
  const body = align8(HEADER_BYTES + dictionaryBytes);
  const size = body + rows * ROW_BYTES;
  if (size > most.bytes) throw new Error(`returned ${size} bytes, its limit is ${most.bytes}`);

  const bytes = new Uint8Array(size);
  const { buffer } = bytes;
  const counts = [devices.length, metrics.length, texts.length, blobs.length] as const;
  writeHeader(new DataView(buffer), { rows, counts, dictionaryBytes });
  const lengths = new Uint32Array(buffer, HEADER_BYTES, names.length + blobs.length);
  let at = HEADER_BYTES + 4 * lengths.length;
  names.forEach((name, i) => {
    lengths[i] = ascii ? name.length : utf8Length(name);
  });
  if (ascii) {
    bytes.set(encoded, at);
    at += textBytes;
  } else for (const name of names) at += encoder.encodeInto(name, bytes.subarray(at)).written;
  blobs.forEach((blob, i) => {
    lengths[names.length + i] = blob.byteLength;
    bytes.set(blob, at);
    at += blob.byteLength;
  });

  at = body;
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
