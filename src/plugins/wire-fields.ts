/**
 * Fields of a message's `meta` on a plugin's socketpair (wire.ts): u8, u32, f64, and bytes or UTF-8 with a u32 length before them, all
 * little-endian. Whatever is read is hostile: every length is checked against the bytes that are there.
 */
import { WeirError } from "../core/errors.ts";

/** A `plugin.failed` error for bytes that are not what they should be. */
export const brokenWire = (what: string): WeirError =>
  new WeirError("plugin.failed", `broke the protocol: ${what}`);

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Writes the fields of a meta section. */
export class FieldWriter {
  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #at = 0;

  u8(value: number): this {
    this.#room(1);
    this.#bytes[this.#at++] = value;
    return this;
  }

  u32(value: number): this {
    this.#room(4);
    this.#view.setUint32(this.#at, value, true);
    this.#at += 4;
    return this;
  }

  f64(value: number): this {
    this.#room(8);
    this.#view.setFloat64(this.#at, value, true);
    this.#at += 8;
    return this;
  }

  bytes(value: Uint8Array): this {
    this.u32(value.byteLength);
    this.#room(value.byteLength);
    this.#bytes.set(value, this.#at);
    this.#at += value.byteLength;
    return this;
  }

  text(value: string): this {
    return this.bytes(encoder.encode(value));
  }

  /** What was written, a view. */
  done(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#at);
  }

  #room(more: number): void {
    if (this.#at + more <= this.#bytes.byteLength) return;
    const wider = new Uint8Array(Math.max(2 * this.#bytes.byteLength, this.#at + more));
    wider.set(this.#bytes);
    this.#bytes = wider;
    this.#view = new DataView(wider.buffer);
  }
}

/** Reads the fields of a meta section; throws `plugin.failed` where they don't fit it. */
export class FieldReader {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  f64(): number {
    return this.#view.getFloat64(this.#take(8), true);
  }

  /** A count of things of at least one byte each, so that a forged one can't make the reader allocate. */
  count(): number {
    const count = this.u32();
    if (count > this.#bytes.byteLength - this.#at)
      throw brokenWire(`${count} entries in ${this.#bytes.byteLength} bytes`);
    return count;
  }

  /** A copy. */
  bytes(most: number): Uint8Array<ArrayBuffer> {
    const length = this.u32();
    if (length > most) throw brokenWire(`a field of ${length} bytes, the limit is ${most}`);
    const start = this.#take(length);
    return this.#bytes.slice(start, start + length);
  }

  text(most: number): string {
    const bytes = this.bytes(most);
    try {
      return decoder.decode(bytes);
    } catch {
      throw brokenWire("a text is not UTF-8");
    }
  }

  /** Nothing may be left. */
  end(): void {
    if (this.#at !== this.#bytes.byteLength) throw brokenWire("bytes left over");
  }

  #take(length: number): number {
    const start = this.#at;
    if (length > this.#bytes.byteLength - start) throw brokenWire("fields end early");
    this.#at = start + length;
    return start;
  }
}
