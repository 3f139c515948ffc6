/**
 * Variable-length whole numbers, as packed columns hold them (docs/specs/frame.md): LEB128, 1 to 8 bytes, below 2^53 so
 * that a double is exact. Signed ones go through zigzag: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
 */
import { invalidFrame } from "./block-header.ts";

/** Longest varint: 2^53 - 1 takes 8 bytes of 7 bits. */
export const VARINT_BYTES = 8;
const TWO_31 = 2 ** 31;
const TWO_32 = 2 ** 32;

/** Zigzag of a whole number within 2^52. By arithmetic: bit operations would cut it to 32 bits. */
export const zigzag = (n: number): number => (n < 0 ? -2 * n - 1 : 2 * n);

/** The number whose zigzag is `n`. */
export function unzigzag(n: number): number {
  if (n < TWO_31) return (n >>> 1) ^ -(n & 1);
  return n % 2 === 0 ? n / 2 : -(n + 1) / 2;
}

/** Writes one after the other into bytes that the caller has made large enough. */
export class VarintWriter {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  /** where the next one goes */
  at = 0;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  byte(byte: number): void {
    this.bytes[this.at++] = byte;
  }

  /** A whole number from 0 to 2^53 - 1. */
  varint(n: number): void {
    const { bytes } = this;
    let at = this.at;
    let rest = n;
    while (rest >= TWO_32) {
      bytes[at++] = (rest % 128) | 128;
      rest = Math.floor(rest / 128);
    }
    let small = rest >>> 0;
    while (small > 127) {
      bytes[at++] = (small & 127) | 128;
      small >>>= 7;
    }
    bytes[at++] = small;
    this.at = at;
  }

  float64(n: number): void {
    this.#view.setFloat64(this.at, n, true);
    this.at += 8;
  }
}

/** Reads what {@link VarintWriter} wrote. Every read is checked against the end and throws `frame.invalid`. */
export class VarintReader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  byte(): number {
    const byte = this.#bytes[this.#at++];
    if (byte === undefined) throw invalidFrame("a column ends early");
    return byte;
  }

  varint(): number {
    const byte = this.byte();
    return byte < 128 ? byte : this.#longVarint(byte & 127);
  }

  #longVarint(low: number): number {
    let result = low;
    let scale = 128;
    for (let i = 1; i < VARINT_BYTES; i++) {
      const byte = this.byte();
      result += (byte & 127) * scale;
      if (byte < 128) {
        if (result > Number.MAX_SAFE_INTEGER) break;
        return result;
      }
      scale *= 128;
    }
    throw invalidFrame("a varint is over 2^53");
  }

  float64(): number {
    const bytes = this.#bytes;
    if (this.#at + 8 > bytes.byteLength) throw invalidFrame("a column ends early");
    const value = new DataView(bytes.buffer, bytes.byteOffset + this.#at, 8).getFloat64(0, true);
    this.#at += 8;
    return value;
  }

  /** Everything must have been read. */
  end(): void {
    if (this.#at !== this.#bytes.byteLength) throw invalidFrame("bytes left over in a column");
  }
}
