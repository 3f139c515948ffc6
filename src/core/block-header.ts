/**
 * The header of a block (docs/specs/frame.md), and the limits that it is measured against. All integers are
 * little-endian, as are the typed arrays over a block: Weir runs on x64 and arm64 only.
 *
 *     header (72 bytes) | entry lengths | entry bytes | pad to 8 | time | value | device | metric | kind | status
 */
import { WeirError } from "./errors.ts";

/** Hard limits of a frame, the same for every sender (docs/specs/frame.md). */
export const FrameLimits = {
  rows: 65_536,
  /** 4 MiB */
  bytes: 4_194_304,
  nameBytes: 256,
  /** 64 KiB */
  textBytes: 65_536,
  /** 256 KiB */
  blobBytes: 262_144,
} as const;

/** First four bytes of a block, "WBLK" read as a little-endian u32. */
export const BLOCK_MAGIC = 0x4b4c4257;
/** Version of the block format written and read here. */
const BLOCK_VERSION = 1;
/** Bit of the header's flags: the block has a checksum. */
export const FLAG_CRC = 1;
/** First byte that the checksum covers: what comes before is the magic, version, flags, length and the checksum itself. */
export const CRC_START = 16;
/** Bytes of the fixed header. */
export const HEADER_BYTES = 72;
/** Offsets in the header, in bytes. */
export const Header = {
  magic: 0,
  version: 4,
  flags: 5,
  length: 8,
  crc: 12,
  rows: 16,
  devices: 20,
  metrics: 24,
  texts: 28,
  blobs: 32,
  dictionaryBytes: 36,
  encodings: 40,
  columnBytes: 48,
} as const;
/** Column order, in the header's tables and in the body; the 8-byte columns come first so that all are aligned. */
export const COLUMNS = ["time", "value", "device", "metric", "kind", "status"] as const;
/** Bytes of one row in each raw column, in the order of {@link COLUMNS}. */
export const COLUMN_WIDTHS = [8, 8, 4, 4, 1, 1] as const;
/** Bytes of one row over all raw columns. */
export const ROW_BYTES = 26;

/** Rounds up to a multiple of eight. The number must be below 2^31. */
export const align8 = (bytes: number): number => (bytes + 7) & ~7;

/** A `frame.invalid` error that says what is wrong. */
export const invalidFrame = (what: string): WeirError => new WeirError("frame.invalid", what);

/** What {@link writeHeader} needs to know: rows, entries of devices/metrics/texts/blobs, bytes of the dictionary section. */
export interface HeaderFields {
  readonly rows: number;
  readonly counts: readonly [devices: number, metrics: number, texts: number, blobs: number];
  readonly dictionaryBytes: number;
}

/** Writes the header of a raw block without a checksum. The view must cover the whole block, and be zero there. */
export function writeHeader(view: DataView, fields: HeaderFields): void {
  view.setUint32(Header.magic, BLOCK_MAGIC, true);
  view.setUint8(Header.version, BLOCK_VERSION);
  view.setUint32(Header.length, view.byteLength, true);
  view.setUint32(Header.rows, fields.rows, true);
  for (let i = 0; i < 4; i++) view.setUint32(Header.devices + 4 * i, fields.counts[i] ?? 0, true);
  view.setUint32(Header.dictionaryBytes, fields.dictionaryBytes, true);
  for (let i = 0; i < 6; i++)
    view.setUint32(Header.columnBytes + 4 * i, fields.rows * (COLUMN_WIDTHS[i] ?? 0), true);
}

/**
 * A raw block with its header. The dictionary section and the columns hold whatever was in that memory: the caller writes every byte of
 * them.
 */
export function newBlock(fields: HeaderFields): ArrayBuffer {
  const dictionaryEnd = HEADER_BYTES + fields.dictionaryBytes;
  const body = align8(dictionaryEnd);
  // Its memory isn't zeroed first, which takes as long as filling it.
  const bytes = Buffer.allocUnsafeSlow(body + fields.rows * ROW_BYTES);
  new Float64Array(bytes.buffer, 0, HEADER_BYTES / 8).fill(0);
  for (let at = dictionaryEnd; at < body; at++) bytes[at] = 0;
  writeHeader(new DataView(bytes.buffer), fields);
  return bytes.buffer;
}

/** The parts of a block's header, measured against the bytes that are there. */
export interface BlockHeader extends HeaderFields {
  readonly flags: number;
  readonly crc: number;
  /** 0 raw or 1 packed, for each of {@link COLUMNS} */
  readonly encodings: readonly number[];
  readonly columnBytes: readonly number[];
}

/**
 * Reads and measures a block's header: sections add up to exactly `bytes`, and every count is within the limits. The
 * dictionary section and packed columns are not looked into.
 * @throws WeirError `frame.invalid`
 */
export function readHeader(bytes: Uint8Array): BlockHeader {
  if (bytes.byteLength < HEADER_BYTES)
    throw invalidFrame(`block of ${bytes.byteLength} bytes is shorter than its header`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u32 = (at: number): number => view.getUint32(at, true);
  if (u32(Header.magic) !== BLOCK_MAGIC) throw invalidFrame("not a block: wrong magic");
  const version = view.getUint8(Header.version);
  if (version !== BLOCK_VERSION) throw invalidFrame(`block version ${version}, this reads ${BLOCK_VERSION}`);
  if (view.getUint16(6, true) !== 0 || view.getUint16(46, true) !== 0)
    throw invalidFrame("reserved bytes are not 0");
  const flags = view.getUint8(Header.flags);
  if (flags > FLAG_CRC) throw invalidFrame(`unknown flags ${flags}`);
  const crc = u32(Header.crc);
  if (flags === 0 && crc !== 0) throw invalidFrame("a checksum without its flag");
  const length = u32(Header.length);
  if (length !== bytes.byteLength)
    throw invalidFrame(`block says ${length} bytes, ${bytes.byteLength} are there`);
  if (length > FrameLimits.bytes)
    throw invalidFrame(`block of ${length} bytes, the limit is ${FrameLimits.bytes}`);
  const rows = u32(Header.rows);
  if (rows > FrameLimits.rows) throw invalidFrame(`${rows} rows, the limit is ${FrameLimits.rows}`);
  const counts = [u32(Header.devices), u32(Header.metrics), u32(Header.texts), u32(Header.blobs)] as const;
  const dictionaryBytes = u32(Header.dictionaryBytes);
  if (dictionaryBytes > length - HEADER_BYTES)
    throw invalidFrame("dictionary section is longer than the block");
  if (4 * entriesOf(counts) > dictionaryBytes)
    throw invalidFrame("dictionary section is shorter than its table of lengths");
  const body = align8(HEADER_BYTES + dictionaryBytes);
  for (let i = HEADER_BYTES + dictionaryBytes; i < body; i++)
    if (bytes[i] !== 0) throw invalidFrame("padding is not 0");
  const encodings: number[] = [];
  const columnBytes: number[] = [];
  let end = body;
  for (let i = 0; i < COLUMNS.length; i++) {
    const encoding = view.getUint8(Header.encodings + i);
    const size = u32(Header.columnBytes + 4 * i);
    if (encoding > 1) throw invalidFrame(`column ${COLUMNS[i]}: unknown encoding ${encoding}`);
    if (encoding === 0 && size !== rows * (COLUMN_WIDTHS[i] ?? 0)) {
      throw invalidFrame(`column ${COLUMNS[i]}: ${size} bytes for ${rows} rows`);
    }
    encodings.push(encoding);
    columnBytes.push(size);
    end += size;
  }
  if (end !== length) throw invalidFrame(`sections end at ${end}, the block at ${length}`);
  return { rows, counts, dictionaryBytes, flags, crc, encodings, columnBytes };
}

/** All entries of the dictionary section: each metric has a unit beside it. */
export function entriesOf(counts: HeaderFields["counts"]): number {
  return counts[0] + 2 * counts[1] + counts[2] + counts[3];
}
