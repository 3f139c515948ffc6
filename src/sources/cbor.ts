/**
 * CBOR payloads (RFC 8949), read as the JSON that they stand for (section 6.1): byte strings as base64url, integers by
 * their digits, tags by what they hold. Bounded in depth, items and output; refuses what has no JSON.
 */

const DEPTH = 32;
const ITEMS = 16_384;
const OUTPUT = 1024 * 1024;

class CborError extends Error {}
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The JSON text of one whole CBOR item, or `{reason}` why there is none. */
export function cborToJson(bytes: Uint8Array): string | { readonly reason: string } {
  try {
    const reader = new Reader(bytes);
    const json = reader.item(0);
    if (!reader.atEnd) return { reason: "bytes after the CBOR item" };
    return json;
  } catch (thrown) {
    if (thrown instanceof CborError) return { reason: `not usable CBOR: ${thrown.message}` };
    throw thrown;
  }
}

class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;
  #items = 0;
  #output = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.byteLength;
  }

  item(depth: number): string {
    if (depth > DEPTH) throw new CborError(`nested deeper than ${DEPTH} levels`);
    if (++this.#items > ITEMS) throw new CborError(`more than ${ITEMS} items`);
    const initial = this.#byte();
    const major = initial >> 5;
    const info = initial & 31;
    if (major === 7) return this.#simple(info);
    if (major >= 2 && major <= 5 && info === 31) return this.#indefinite(major, depth);
    const argument = this.#argument(info);
    switch (major) {
      case 0:
        return this.#put(String(argument));
      case 1:
        return this.#put(String(-1n - argument));
      case 2:
        return this.#data(this.#take(argument));
      case 3:
        return this.#text(this.#take(argument));
      case 4:
        return this.#array(Number(argument), depth);
      case 5:
        return this.#map(Number(argument), depth);
      default:
        // A bignum is no number of ours; other tags say how to read what JSON has no other word for.
        if (argument === 2n || argument === 3n) throw new CborError("a bignum");
        return this.item(depth + 1);
    }
  }

  #array(length: number, depth: number): string {
    if (length > ITEMS) throw new CborError(`more than ${ITEMS} items`);
    const parts: string[] = [];
    for (let i = 0; i < length; i++) parts.push(this.item(depth + 1));
    return `[${parts.join(",")}]`;
  }

  #map(length: number, depth: number): string {
    if (length > ITEMS) throw new CborError(`more than ${ITEMS} items`);
    const parts: string[] = [];
    for (let i = 0; i < length; i++) parts.push(this.#member(depth));
    return `{${parts.join(",")}}`;
  }

  /** Keys are text, or integers by their digits. */
  #member(depth: number): string {
    const major = (this.#bytes[this.#at] ?? 0xff) >> 5;
    const key = this.item(depth + 1);
    if (major > 1 && major !== 3) throw new CborError("a key that is neither text nor an integer");
    return `${major === 3 ? key : JSON.stringify(key)}:${this.item(depth + 1)}`;
  }

  /** Items until the break code (RFC 8949, 3.2). */
  #indefinite(major: number, depth: number): string {
    const parts: string[] = [];
    const chunks: Uint8Array[] = [];
    while (this.#bytes[this.#at] !== 0xff) {
      if (major === 4) parts.push(this.item(depth + 1));
      else if (major === 5) parts.push(this.#member(depth));
      else {
        if (++this.#items > ITEMS) throw new CborError(`more than ${ITEMS} items`);
        const initial = this.#byte();
        if (initial >> 5 !== major || (initial & 31) === 31) throw new CborError("a chunk of another type");
        chunks.push(this.#take(this.#argument(initial & 31)));
      }
    }
    this.#at += 1;
    if (major === 4) return `[${parts.join(",")}]`;
    if (major === 5) return `{${parts.join(",")}}`;
    return major === 2 ? this.#data(Buffer.concat(chunks)) : this.#text(Buffer.concat(chunks));
  }

  #simple(info: number): string {
    switch (info) {
      case 20:
        return "false";
      case 21:
        return "true";
      case 22:
      case 23:
        return "null";
      case 25:
        return this.#number(half(this.#view.getUint16(this.#skip(2))));
      case 26:
        return this.#number(this.#view.getFloat32(this.#skip(4)));
      case 27:
        return this.#number(this.#view.getFloat64(this.#skip(8)));
      default:
        throw new CborError(`a simple value (${info})`);
    }
  }

  #number(value: number): string {
    if (!Number.isFinite(value)) throw new CborError("not a finite number");
    // With an exponent: a float stays a number beyond 2^53, where an integer becomes its digits.
    return this.#put(
      Number.isInteger(value) && !Number.isSafeInteger(value) ? value.toExponential() : String(value),
    );
  }

  #text(bytes: Uint8Array): string {
    try {
      return this.#put(JSON.stringify(utf8.decode(bytes)));
    } catch {
      throw new CborError("text that is not UTF-8");
    }
  }

  #data(bytes: Uint8Array): string {
    return this.#put(JSON.stringify(Buffer.from(bytes).toString("base64url")));
  }

  #argument(info: number): bigint {
    if (info < 24) return BigInt(info);
    switch (info) {
      case 24:
        return BigInt(this.#byte());
      case 25:
        return BigInt(this.#view.getUint16(this.#skip(2)));
      case 26:
        return BigInt(this.#view.getUint32(this.#skip(4)));
      case 27:
        return this.#view.getBigUint64(this.#skip(8));
      default:
        throw new CborError("a reserved length");
    }
  }

  #byte(): number {
    return this.#view.getUint8(this.#skip(1));
  }

  #take(length: bigint): Uint8Array {
    if (length > BigInt(this.#bytes.byteLength)) throw new CborError("it ends early");
    const at = this.#skip(Number(length));
    return this.#bytes.subarray(at, at + Number(length));
  }

  #skip(length: number): number {
    const at = this.#at;
    if (at + length > this.#bytes.byteLength) throw new CborError("it ends early");
    this.#at = at + length;
    return at;
  }

  #put(text: string): string {
    this.#output += text.length;
    if (this.#output > OUTPUT) throw new CborError(`more than ${OUTPUT} characters`);
    return text;
  }
}

/** A half-precision number (RFC 8949, appendix D). */
function half(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  const size =
    exponent === 0
      ? mantissa * 2 ** -24
      : exponent === 31
        ? mantissa === 0
          ? Number.POSITIVE_INFINITY
          : Number.NaN
        : (mantissa + 1024) * 2 ** (exponent - 25);
  return (bits & 0x8000) === 0 ? size : -size;
}
