/**
 * The Frame: telemetry as columns, one ArrayBuffer with views on it.
 *
 * The buffer is a raw block (docs/specs/frame.md), so a frame is the same bytes in memory and on the pipe to the
 * plugin host. A frame is immutable once built. Transferring its buffer ends the sender's use.
 */
import {
  align8,
  FrameLimits,
  HEADER_BYTES,
  Header,
  invalidFrame,
  readHeader,
  writeHeader,
} from "./block-header.ts";
import {
  checkDictionaries,
  type Dictionaries,
  indexDictionaries,
  readDictionaries,
  type SliceHash,
} from "./dictionary.ts";

export * from "./block-header.ts";
export * from "./dictionary.ts";

/** What a row's `value` means. */
export const Kind = { number: 0, integer: 1, boolean: 2, text: 3, bytes: 4, null: 5 } as const;
/** One of the numbers of {@link Kind}. */
export type Kind = (typeof Kind)[keyof typeof Kind];

/** Bits of the `status` column: quality in bits 0-1, then flags. */
export const Status = {
  good: 0,
  uncertain: 1,
  bad: 2,
  stale: 3,
  qualityMask: 3,
  historical: 4,
  retained: 8,
  gatewayTime: 16,
  clockUnsynchronised: 32,
} as const;

/** Samples as columns over one buffer. Build one with FrameBuilder, or read one with {@link Frame.fromRaw}. */
export class Frame {
  /** The raw block. Do not write to it: a frame is immutable once built. */
  readonly buffer: ArrayBuffer;
  readonly rows: number;
  /** microseconds since the Unix epoch, whole numbers */
  readonly time: Float64Array<ArrayBuffer>;
  /** the number; 0 or 1; or the index into `texts` or `blobs` */
  readonly value: Float64Array<ArrayBuffer>;
  /** index into `devices` */
  readonly device: Uint32Array<ArrayBuffer>;
  /** index into `metrics` */
  readonly metric: Uint32Array<ArrayBuffer>;
  readonly kind: Uint8Array<ArrayBuffer>;
  readonly status: Uint8Array<ArrayBuffer>;
  #dictionaries: Dictionaries | undefined;

  /**
   * Views over a raw block whose structure is known to be right (a builder's, or one that {@link Frame.fromRaw} has
   * measured). `dictionaries` saves decoding them again.
   */
  constructor(buffer: ArrayBuffer, dictionaries?: Dictionaries) {
    const header = new DataView(buffer);
    const rows = header.getUint32(Header.rows, true);
    let at = align8(HEADER_BYTES + header.getUint32(Header.dictionaryBytes, true));
    this.buffer = buffer;
    this.rows = rows;
    this.time = new Float64Array(buffer, at, rows);
    at += rows * 8;
    this.value = new Float64Array(buffer, at, rows);
    at += rows * 8;
    this.device = new Uint32Array(buffer, at, rows);
    at += rows * 4;
    this.metric = new Uint32Array(buffer, at, rows);
    at += rows * 4;
    this.kind = new Uint8Array(buffer, at, rows);
    at += rows;
    this.status = new Uint8Array(buffer, at, rows);
    this.#dictionaries = dictionaries;
  }

  /** Length of the block in bytes. */
  get byteLength(): number {
    return this.buffer.byteLength;
  }

  get devices(): readonly string[] {
    return this.dictionaries.devices;
  }
  get metrics(): readonly string[] {
    return this.dictionaries.metrics;
  }
  get units(): readonly string[] {
    return this.dictionaries.units;
  }
  get texts(): readonly string[] {
    return this.dictionaries.texts;
  }
  get blobs(): readonly Uint8Array[] {
    return this.dictionaries.blobs;
  }

  /** All dictionaries; decoded at the first use. Throws `frame.invalid` when a name is not UTF-8. */
  get dictionaries(): Dictionaries {
    this.#dictionaries ??= readDictionaries(this.buffer);
    return this.#dictionaries;
  }

  /** An empty frame. */
  static empty(): Frame {
    const buffer = new ArrayBuffer(HEADER_BYTES);
    writeHeader(new DataView(buffer), { rows: 0, counts: [0, 0, 0, 0], dictionaryBytes: 0 });
    return new Frame(buffer);
  }

  /**
   * A frame over bytes from outside, which must be one whole raw block. Checks structure and every invariant of
   * docs/specs/frame.md. The frame takes the buffer over when the bytes fill it, else copies.
   * @param hashSlices for finding equal entries of dictionaries; see {@link checkDictionaries}
   * @throws WeirError `frame.invalid` (reject)
   */
  static fromRaw(bytes: Uint8Array<ArrayBuffer>, hashSlices?: SliceHash): Frame {
    const header = readHeader(bytes);
    if (header.flags !== 0) throw invalidFrame("a raw block without a checksum was expected");
    if (header.encodings.some((encoding) => encoding !== 0))
      throw invalidFrame("a raw block was expected, a column is packed");
    const whole = bytes.byteOffset === 0 && bytes.byteLength === bytes.buffer.byteLength;
    // Not bytes.slice(): a Buffer's is a view on the same memory.
    const frame = new Frame(whole ? bytes.buffer : new Uint8Array(bytes).buffer);
    validate(frame, hashSlices);
    return frame;
  }
}

/**
 * Checks every invariant of docs/specs/frame.md that the structure alone does not give, without decoding the
 * dictionaries.
 * @throws WeirError `frame.invalid`, which names the first offending row or entry
 */
export function validate(frame: Frame, hashSlices?: SliceHash): void {
  if (frame.byteLength > FrameLimits.bytes)
    throw invalidFrame(`${frame.byteLength} bytes, the limit is ${FrameLimits.bytes}`);
  if (frame.rows > FrameLimits.rows)
    throw invalidFrame(`${frame.rows} rows, the limit is ${FrameLimits.rows}`);
  const index = indexDictionaries(frame.buffer);
  checkDictionaries(index, hashSlices);
  validateRows(frame, index.devices, index.metrics, index.texts, index.blobs);
}

function validateRows(frame: Frame, devices: number, metrics: number, texts: number, blobs: number): void {
  const { device, metric, time, kind, status, value } = frame;
  for (let row = 0; row < frame.rows; row++) {
    const v = value[row] ?? Number.NaN;
    const t = time[row] ?? Number.NaN;
    if ((device[row] ?? devices) >= devices) throw invalidFrame(`row ${row}: device index out of range`);
    if ((metric[row] ?? metrics) >= metrics) throw invalidFrame(`row ${row}: metric index out of range`);
    if (!Number.isSafeInteger(t))
      throw invalidFrame(`row ${row}: time is not a whole number of microseconds`);
    if ((status[row] ?? 255) > 63) throw invalidFrame(`row ${row}: unknown status bits`);
    if (!Number.isFinite(v) || Object.is(v, -0))
      throw invalidFrame(`row ${row}: value is not finite, or is -0`);
    if (Object.is(t, -0)) throw invalidFrame(`row ${row}: time is -0`);
    let good: boolean;
    switch (kind[row]) {
      case Kind.number:
        good = true;
        break;
      case Kind.integer:
        good = Number.isSafeInteger(v);
        break;
      case Kind.boolean:
        good = v === 0 || v === 1;
        break;
      case Kind.text:
        good = Number.isInteger(v) && v >= 0 && v < texts;
        break;
      case Kind.bytes:
        good = Number.isInteger(v) && v >= 0 && v < blobs;
        break;
      case Kind.null:
        good = v === 0;
        break;
      default:
        good = false;
    }
    if (!good) throw invalidFrame(`row ${row}: value ${v} does not fit kind ${kind[row]}`);
  }
}
