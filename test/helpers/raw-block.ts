/** Raw blocks put together by hand, so that they can break the rules that a FrameBuilder keeps. */
import { align8, HEADER_BYTES, ROW_BYTES, writeHeader } from "../../src/core/block-header.ts";
import { Frame } from "../../src/core/frame.ts";

/** A row as numbers, in the order of the columns. */
export interface RawRow {
  readonly time?: number;
  readonly value?: number;
  readonly device?: number;
  readonly metric?: number;
  readonly kind?: number;
  readonly status?: number;
}

/** What stands in the block; strings are encoded as UTF-8, bytes taken as they are. */
export interface RawParts {
  readonly devices?: readonly (string | Uint8Array)[];
  readonly metrics?: readonly (string | Uint8Array)[];
  /** as many as metrics; all "" without it */
  readonly units?: readonly (string | Uint8Array)[];
  readonly texts?: readonly (string | Uint8Array)[];
  readonly blobs?: readonly Uint8Array[];
  readonly rows?: readonly RawRow[];
}

/** The bytes of a raw block, unchecked. */
export function rawBlock(parts: RawParts): Uint8Array<ArrayBuffer> {
  const { devices = [], metrics = [], texts = [], blobs = [], rows = [] } = parts;
  const units = parts.units ?? metrics.map(() => "");
  const entries = [...devices, ...metrics, ...units, ...texts, ...blobs].map((entry) => Buffer.from(entry));
  const dictionaryBytes = entries.reduce((sum, entry) => sum + 4 + entry.byteLength, 0);
  const bytes = new Uint8Array(align8(HEADER_BYTES + dictionaryBytes) + rows.length * ROW_BYTES);
  const view = new DataView(bytes.buffer);
  writeHeader(view, {
    rows: rows.length,
    counts: [devices.length, metrics.length, texts.length, blobs.length],
    dictionaryBytes,
  });
  let at = HEADER_BYTES + 4 * entries.length;
  entries.forEach((entry, i) => {
    view.setUint32(HEADER_BYTES + 4 * i, entry.byteLength, true);
    bytes.set(entry, at);
    at += entry.byteLength;
  });
  const frame = new Frame(bytes.buffer);
  rows.forEach((row, i) => {
    frame.time[i] = row.time ?? 0;
    frame.value[i] = row.value ?? 0;
    frame.device[i] = row.device ?? 0;
    frame.metric[i] = row.metric ?? 0;
    frame.kind[i] = row.kind ?? 0;
    frame.status[i] = row.status ?? 0;
  });
  return bytes;
}
