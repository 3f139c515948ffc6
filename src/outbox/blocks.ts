/** Frames as the bytes of a chunk row: a packed block, as one zstd frame where that is smaller. */
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { type Crc32c, looksLikeBlock, packBlock, readBlock } from "../core/block.ts";
import { messageOf, WeirError } from "../core/errors.ts";
import { type Frame, FrameLimits, invalidFrame, Kind, utf8Length } from "../core/frame.ts";

/** Blocks below this size stay as they are: a call costs 15 us, and little is gained. */
const LEAST_TO_COMPRESS = 256;
const params = { [constants.ZSTD_c_compressionLevel]: 1 };

/** The bytes to store for a frame. */
export function storeFrame(frame: Frame, crc32c: Crc32c): Uint8Array {
  const packed = packBlock(frame, crc32c);
  // Rows made to resist packing could push a block over the limit that its frame is under.
  const block = packed.byteLength > FrameLimits.bytes ? new Uint8Array(frame.buffer) : packed;
  if (block.byteLength < LEAST_TO_COMPRESS) return block;
  // Telling the size, and having one output buffer for it, is worth a third of the time at 9 KB.
  const compressed = zstdCompressSync(block, {
    params,
    pledgedSrcSize: block.byteLength,
    chunkSize: block.byteLength + 64,
  });
  return compressed.byteLength < block.byteLength ? compressed : block;
}

/**
 * The frame of stored bytes, with every invariant checked.
 * @throws WeirError `frame.invalid` when they are damaged
 */
export function loadFrame(bytes: Uint8Array, crc32c: Crc32c): Frame {
  if (looksLikeBlock(bytes)) return readBlock(bytes, crc32c);
  let block: Uint8Array;
  try {
    block = zstdDecompressSync(bytes, { maxOutputLength: FrameLimits.bytes });
  } catch (thrown) {
    throw invalidFrame(`neither a block nor a compressed one: ${messageOf(thrown)}`);
  }
  return readBlock(block, crc32c);
}

/** Whether an error says that stored bytes are damaged. */
export const isDamage = (thrown: unknown): boolean =>
  thrown instanceof WeirError && thrown.code === "frame.invalid";

/** Characters of a JSON object with its braces, keys and a time: `{"device":"","ts":1763640000123,"values":{}},`. */
const OBJECT_BYTES = 46;
/** A member's quotes, colon and comma with a short number. */
const NUMBER_BYTES = 10;

/** About how many bytes a frame takes as JSON: what `batch.bytes` counts. One pass, a few ns a row. */
export function estimateJsonBytes(frame: Frame): number {
  const { devices, metrics, texts, blobs } = frame.dictionaries;
  const deviceBytes = devices.map(utf8Length);
  const metricBytes = metrics.map(utf8Length);
  const { device, metric, time, kind, status, value, rows } = frame;
  let bytes = 0;
  for (let row = 0; row < rows; row++) {
    const d = device[row];
    if (
      row === 0 ||
      d !== device[row - 1] ||
      time[row] !== time[row - 1] ||
      status[row] !== status[row - 1]
    ) {
      bytes += OBJECT_BYTES + (deviceBytes[d ?? 0] ?? 0);
    }
    bytes += NUMBER_BYTES + (metricBytes[metric[row] ?? 0] ?? 0);
    const k = kind[row];
    if (k === Kind.text) bytes += texts[value[row] ?? 0]?.length ?? 0;
    else if (k === Kind.bytes) bytes += Math.ceil(((blobs[value[row] ?? 0]?.byteLength ?? 0) * 4) / 3) + 10;
  }
  return bytes;
}
