/**
 * The packed form of a block (docs/specs/frame.md): the same header and dictionaries as a raw block, columns made small,
 * and a CRC32C. Packing is exact: reading gives the very same bytes of a raw block back.
 *
 *     device, metric   steps from 0
 *     time             a decimal exponent (u8) and a base (f64), then steps from the base: time = step * 10^exponent
 *     value            a decimal exponent (u8) for each metric, then the values in series order:
 *                      exponent 0-9: round(value * 10^e), as zigzag varint of the difference to the one before in its metric
 *                      exponent 255: raw f64
 *     kind             runs in series order: the byte, then how many rows as a varint
 *     status           runs in row order
 *
 * Steps: a token for each row or run of rows, varint(2 * zigzag(difference to the row before) + more); with `more` = 1 a
 * varint follows: the same difference holds for that many rows + 2. Series order: rows by (metric, device, row).
 *
 * A column that would not be smaller is left raw. A value goes by its decimal only if dividing back gives the same double.
 */
import {
  align8,
  BLOCK_MAGIC,
  COLUMN_WIDTHS,
  COLUMNS,
  CRC_START,
  FLAG_CRC,
  FrameLimits,
  HEADER_BYTES,
  Header,
  invalidFrame,
  ROW_BYTES,
  readHeader,
  writeHeader,
} from "./block-header.ts";
import { Frame, validate } from "./frame.ts";
import { unzigzag, VARINT_BYTES, VarintReader, VarintWriter, zigzag } from "./varint.ts";

/** CRC32C (Castagnoli, RFC 3720 appendix B.4) of bytes, as an unsigned 32-bit number. */
export type Crc32c = (bytes: Uint8Array) => number;

const RAW_EXPONENT = 255;
const MAX_EXPONENT = 9;
const POWERS = Array.from({ length: MAX_EXPONENT + 1 }, (_, e) => 10 ** e);
/** Exponents tried for time: seconds, milliseconds, microseconds. */
const TIME_EXPONENTS = [6, 3, 0];
/** Bounds that keep a number's varint below 2^53: of a step, and of a scaled value whose differences go by zigzag. */
const MAX_STEP = 2 ** 51 - 1;
const MAX_SCALED = 2 ** 51 - 1;
/** Bytes that one row can take at most while packing: time, value, device and metric, then two runs. */
const ROW_MOST = 4 * VARINT_BYTES + 4;

let scratch = new VarintWriter(new Uint8Array(256 * 1024));

/** A frame as a packed block with a checksum. The result is the caller's own. */
export function packBlock(frame: Frame, crc32c: Crc32c): Uint8Array<ArrayBuffer> {
  const { rows } = frame;
  const source = new DataView(frame.buffer);
  const devices = source.getUint32(Header.devices, true);
  const metrics = source.getUint32(Header.metrics, true);
  const body = frame.time.byteOffset;
  const most = body + rows * ROW_MOST + metrics + 64;
  if (scratch.bytes.byteLength < most) scratch = new VarintWriter(new Uint8Array(most));
  const out = scratch;
  out.bytes.set(new Uint8Array(frame.buffer, 0, body));
  out.at = body;
  const order = seriesOrder(frame, devices, metrics);
  const encodings: number[] = [];
  const columnBytes: number[] = [];
  const pack = (column: Float64Array | Uint32Array | Uint8Array, work: () => boolean): void => {
    const start = out.at;
    const packed = work() && out.at - start < column.byteLength;
    if (!packed) {
      out.bytes.set(new Uint8Array(column.buffer, column.byteOffset, column.byteLength), start);
      out.at = start + column.byteLength;
    }
    encodings.push(packed ? 1 : 0);
    columnBytes.push(out.at - start);
  };
  pack(frame.time, () => packTime(out, frame.time));
  pack(frame.value, () => packValues(out, frame, order, metrics));
  pack(frame.device, () => packSteps(out, frame.device, 0, 1));
  pack(frame.metric, () => packSteps(out, frame.metric, 0, 1));
  pack(frame.kind, () => packRuns(out, frame.kind, order));
  pack(frame.status, () => packRuns(out, frame.status, undefined));

  const block = out.bytes.slice(0, out.at);
  const view = new DataView(block.buffer);
  view.setUint32(Header.length, block.byteLength, true);
  view.setUint8(Header.flags, FLAG_CRC);
  for (let i = 0; i < COLUMNS.length; i++) {
    view.setUint8(Header.encodings + i, encodings[i] ?? 0);
    view.setUint32(Header.columnBytes + 4 * i, columnBytes[i] ?? 0, true);
  }
  view.setUint32(Header.crc, crc32c(block.subarray(CRC_START)), true);
  return block;
}

/**
 * The frame of a block in any mix of raw and packed columns. Checks the checksum where there is one, and every
 * invariant of a frame.
 * @throws WeirError `frame.invalid`
 */
export function readBlock(bytes: Uint8Array, crc32c: Crc32c): Frame {
  const header = readHeader(bytes);
  if ((header.flags & FLAG_CRC) !== 0 && crc32c(bytes.subarray(CRC_START)) !== header.crc)
    throw invalidFrame("checksum does not match");
  const { rows, counts, encodings, columnBytes } = header;
  const body = align8(HEADER_BYTES + header.dictionaryBytes);
  const size = body + rows * ROW_BYTES;
  if (size > FrameLimits.bytes)
    throw invalidFrame(`unpacks to ${size} bytes, the limit is ${FrameLimits.bytes}`);
  const buffer = new ArrayBuffer(size);
  new Uint8Array(buffer).set(bytes.subarray(HEADER_BYTES, body), HEADER_BYTES);
  writeHeader(new DataView(buffer), header);
  const frame = new Frame(buffer);

  const starts: number[] = [];
  let start = body;
  let raw = body;
  for (let i = 0; i < COLUMNS.length; i++) {
    const end = start + (columnBytes[i] ?? 0);
    if (encodings[i] === 0) new Uint8Array(buffer).set(bytes.subarray(start, end), raw);
    starts.push(start);
    start = end;
    raw += rows * (COLUMN_WIDTHS[i] ?? 0);
  }
  starts.push(start);
  const unpack = (column: number, work: (reader: VarintReader) => void): void => {
    if (encodings[column] === 0) return;
    const reader = new VarintReader(bytes.subarray(starts[column], starts[column + 1]));
    work(reader);
    reader.end();
  };
  unpack(0, (reader) => unpackTime(reader, frame.time));
  unpack(2, (reader) => unpackSteps(reader, frame.device, 0, 1, counts[0] - 1));
  unpack(3, (reader) => unpackSteps(reader, frame.metric, 0, 1, counts[1] - 1));
  if (encodings[1] === 1 || encodings[4] === 1) {
    // An index out of range makes this order wrong, never a fault: validate refuses the frame.
    const order = seriesOrder(frame, counts[0], counts[1]);
    unpack(1, (reader) => unpackValues(reader, frame, order, counts[1]));
    unpack(4, (reader) => unpackRuns(reader, frame.kind, order));
  }
  unpack(5, (reader) => unpackRuns(reader, frame.status, undefined));
  validate(frame);
  return frame;
}

/** Whether bytes begin like a block. */
export function looksLikeBlock(bytes: Uint8Array): boolean {
  return (
    bytes.byteLength >= HEADER_BYTES &&
    new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true) === BLOCK_MAGIC
  );
}

/** Row numbers by (metric, device, row): two counting sorts. */
function seriesOrder(frame: Frame, devices: number, metrics: number): Uint32Array {
  const { rows, device, metric } = frame;
  const byDevice = new Uint32Array(rows);
  const order = new Uint32Array(rows);
  let next = startsOf(device, devices);
  for (let row = 0; row < rows; row++) {
    const d = device[row] ?? 0;
    const place = next[d] ?? 0;
    byDevice[place] = row;
    next[d] = place + 1;
  }
  next = startsOf(metric, metrics);
  for (let i = 0; i < rows; i++) {
    const row = byDevice[i] ?? 0;
    const m = metric[row] ?? 0;
    const place = next[m] ?? 0;
    order[place] = row;
    next[m] = place + 1;
  }
  return order;
}

/** Where the rows of each index begin when rows are grouped by it. */
function startsOf(indexes: Uint32Array, count: number): Uint32Array {
  const starts = new Uint32Array(count + 1);
  for (let row = 0; row < indexes.length; row++) {
    const next = (indexes[row] ?? 0) + 1;
    starts[next] = (starts[next] ?? 0) + 1;
  }
  for (let i = 0; i < count; i++) starts[i + 1] = (starts[i + 1] ?? 0) + (starts[i] ?? 0);
  return starts;
}

/** @returns false when a difference is too large to be packed */
function packSteps(
  out: VarintWriter,
  column: Float64Array | Uint32Array,
  base: number,
  unit: number,
): boolean {
  const rows = column.length;
  let before = base;
  for (let row = 0; row < rows; ) {
    let value = (column[row] ?? 0) / unit;
    const step = value - before;
    if (step > MAX_STEP || step < -MAX_STEP) return false;
    let end = row + 1;
    for (; end < rows; end++) {
      const next = (column[end] ?? 0) / unit;
      if (next - value !== step) break;
      value = next;
    }
    before = value;
    if (end - row === 1) out.varint(2 * zigzag(step));
    else {
      out.varint(2 * zigzag(step) + 1);
      out.varint(end - row - 2);
    }
    row = end;
  }
  return true;
}

function unpackSteps(
  reader: VarintReader,
  column: Float64Array | Uint32Array,
  base: number,
  unit: number,
  most: number,
): void {
  const least = column instanceof Float64Array ? -most : 0;
  let value = base;
  for (let row = 0; row < column.length; ) {
    const token = reader.varint();
    const more = token % 2;
    const step = unzigzag((token - more) / 2);
    const end = row + (more === 0 ? 1 : reader.varint() + 2);
    if (end > column.length) throw invalidFrame("a run does not fit its column");
    for (; row < end; row++) {
      value += step;
      const full = value * unit;
      if (full > most || full < least)
        throw invalidFrame(`row ${row}: a packed number is out of its column's range`);
      column[row] = full;
    }
  }
}

function packTime(out: VarintWriter, time: Float64Array): boolean {
  const exponent = TIME_EXPONENTS.find((e) => isMultiple(time, POWERS[e] ?? 1)) ?? 0;
  const unit = POWERS[exponent] ?? 1;
  const base = (time[0] ?? 0) / unit;
  out.byte(exponent);
  out.float64(base);
  return packSteps(out, time, base, unit);
}

/** Whether every time is a multiple of `unit`. Below 2^53, a quotient by 10^6 or less never rounds to a whole number. */
function isMultiple(time: Float64Array, unit: number): boolean {
  for (let row = 0; row < time.length; row++) {
    const quotient = (time[row] ?? 0) / unit;
    // Not Number.isInteger: handing it a double takes an object for it.
    if (quotient !== Math.floor(quotient)) return false;
  }
  return true;
}

function unpackTime(reader: VarintReader, time: Float64Array): void {
  const exponent = reader.byte();
  const unit = POWERS[exponent];
  if (unit === undefined) throw invalidFrame(`unknown exponent ${exponent} of time`);
  const base = reader.float64();
  if (!Number.isSafeInteger(base)) throw invalidFrame("the base of time is not a whole number within 2^53");
  unpackSteps(reader, time, base, unit, Number.MAX_SAFE_INTEGER);
}

function packRuns(out: VarintWriter, column: Uint8Array, order: Uint32Array | undefined): boolean {
  const rows = column.length;
  for (let i = 0; i < rows; ) {
    const value = column[order === undefined ? i : (order[i] ?? 0)] ?? 0;
    let end = i + 1;
    while (end < rows && column[order === undefined ? end : (order[end] ?? 0)] === value) end++;
    out.byte(value);
    out.varint(end - i);
    i = end;
  }
  return true;
}

function unpackRuns(reader: VarintReader, column: Uint8Array, order: Uint32Array | undefined): void {
  for (let i = 0; i < column.length; ) {
    const value = reader.byte();
    const run = reader.varint();
    const end = i + run;
    if (run === 0 || end > column.length) throw invalidFrame("a run does not fit its column");
    if (order === undefined) column.fill(value, i, end);
    else for (; i < end; i++) column[order[i] ?? 0] = value;
    i = end;
  }
}

function packValues(out: VarintWriter, frame: Frame, order: Uint32Array, metrics: number): boolean {
  const { metric, value, rows } = frame;
  const exponents = out.at;
  out.bytes.fill(0, exponents, exponents + metrics);
  out.at += metrics;
  for (let from = 0; from < rows; ) {
    const m = metric[order[from] ?? 0] ?? 0;
    let to = from + 1;
    while (to < rows && metric[order[to] ?? 0] === m) to++;
    out.bytes[exponents + m] = packGroup(out, value, order, from, to);
    from = to;
  }
  return true;
}

/** Writes one metric's values, and gives the exponent: the least by which every one is exact, or 255. */
function packGroup(
  out: VarintWriter,
  value: Float64Array,
  order: Uint32Array,
  from: number,
  to: number,
): number {
  const start = out.at;
  let exponent = 0;
  let power = 1;
  let before = 0;
  for (let i = from; i < to; i++) {
    const v = value[order[i] ?? 0] ?? 0;
    const scaled = Math.round(v * power);
    if (scaled / power === v && scaled <= MAX_SCALED && scaled >= -MAX_SCALED) {
      out.varint(zigzag(scaled - before));
      before = scaled;
      continue;
    }
    // Not exact: once more from the group's start with the next exponent that suits this value, if there is one.
    do power = POWERS[++exponent] ?? 0;
    while (power !== 0 && Math.round(v * power) / power !== v);
    out.at = start;
    if (power === 0) {
      for (let k = from; k < to; k++) out.float64(value[order[k] ?? 0] ?? 0);
      return RAW_EXPONENT;
    }
    before = 0;
    i = from - 1;
  }
  return exponent;
}

function unpackValues(reader: VarintReader, frame: Frame, order: Uint32Array, metrics: number): void {
  const { metric, value, rows } = frame;
  const exponents = new Uint8Array(metrics);
  for (let m = 0; m < metrics; m++) {
    const exponent = reader.byte();
    if (exponent > MAX_EXPONENT && exponent !== RAW_EXPONENT)
      throw invalidFrame(`metric ${m}: unknown exponent ${exponent}`);
    exponents[m] = exponent;
  }
  for (let i = 0; i < rows; ) {
    const m = metric[order[i] ?? 0] ?? 0;
    const power = POWERS[exponents[m] ?? 0];
    let scaled = 0;
    for (; i < rows && metric[order[i] ?? 0] === m; i++) {
      const row = order[i] ?? 0;
      if (power === undefined) {
        value[row] = reader.float64();
        continue;
      }
      scaled += unzigzag(reader.varint());
      if (!Number.isSafeInteger(scaled)) throw invalidFrame(`row ${row}: a packed value is over 2^53`);
      value[row] = scaled / power;
    }
  }
}
