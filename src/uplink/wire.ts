/**
 * How a batch travels: its encoding, then its compression. Both tell themselves by their first bytes, so a consumer needs no
 * properties (docs/specs/wire.md):
 *
 *     {                json
 *     57 42 41 54      block: "WBAT", u8 1, u8 0, u16 length of the key, the key as JSON, the block of frame.md
 *     1f 8b            gzip of one of them
 *     28 b5 2f fd      zstd of one of them
 */
import { constants, gzipSync, zstdCompressSync } from "node:zlib";
import { type Crc32c, packBlock } from "../core/block.ts";
import type { Frame } from "../core/frame.ts";
import { concat } from "../core/frame-builder.ts";
import type { BatchKey } from "../core/ports.ts";
import { batchId, encodeJson } from "./encode-json.ts";

/** How an uplink's batches travel. */
export interface WireFormat {
  readonly encoding: "json" | "block";
  readonly compression: "none" | "gzip" | "zstd";
}

/** "WBAT", version 1 */
const MAGIC = [0x57, 0x42, 0x41, 0x54, 1, 0];
const ZSTD = { params: { [constants.ZSTD_c_compressionLevel]: 3 } };

/** MQTT 5 content type of each encoding. */
export const CONTENT_TYPES = {
  json: "application/json",
  block: "application/vnd.weir.block",
} as const;

/** The bytes of a batch, over a buffer of its own; undefined when its rows are more than one block can hold. */
export function encodeBatch(
  gateway: string,
  key: BatchKey,
  frames: readonly Frame[],
  { encoding, compression }: WireFormat,
  crc32c: Crc32c,
): Uint8Array<ArrayBuffer> | undefined {
  const plain =
    encoding === "json" ? encodeJson(gateway, key, frames) : encodeBlock(gateway, key, frames, crc32c);
  if (plain === undefined) return undefined;
  if (compression === "none") return plain;
  // What zlib gives may lie in Node's pool, which can't be transferred to another thread.
  return new Uint8Array(
    compression === "gzip" ? gzipSync(plain, { level: 6 }) : zstdCompressSync(plain, ZSTD),
  );
}

function encodeBlock(
  gateway: string,
  key: BatchKey,
  frames: readonly Frame[],
  crc32c: Crc32c,
): Uint8Array<ArrayBuffer> | undefined {
  const { epoch, stream, seq, span } = key;
  const head = Buffer.from(
    JSON.stringify({ v: 1, id: batchId(gateway, key), gateway, epoch, stream, seq, span }),
  );
  let frame: Frame;
  try {
    frame = concat(frames);
  } catch {
    return undefined;
  }
  const block = packBlock(frame, crc32c);
  const at = MAGIC.length + 2 + head.byteLength;
  const bytes = new Uint8Array(at + block.byteLength);
  bytes.set(MAGIC);
  new DataView(bytes.buffer).setUint16(MAGIC.length, head.byteLength, true);
  bytes.set(head, MAGIC.length + 2);
  bytes.set(block, at);
  return bytes;
}
