/**
 * JSON written as bytes. A string that grows by a piece at a time is a tree of its pieces until it is asked for: at 100,000 values a
 * second, building and collecting these trees took twice as long as what they are made of.
 */

/** Room to begin with, and the most that is kept from one text to the next, in bytes. */
const FIRST_BYTES = 16 * 1024;
const MOST_KEPT_BYTES = 512 * 1024;
/** The most digits, sign and point that a number has here or by `String`. */
const NUMBER_BYTES = 32;
/** Decimals that are looked for: 10 to their number is exact, and so is what it is divided into. */
const MOST_DECIMALS = 6;
/** Any 15 digits are told apart as doubles. */
const MOST_DIGITS = 1e15;
const HALF = 1e8;
const POWERS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7];

const encoder = new TextEncoder();

/** Writes one text after the other into a buffer that is kept. */
export class JsonWriter {
  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array(FIRST_BYTES);
  #at = 0;

  /** Bytes of the text so far. */
  get length(): number {
    return this.#at;
  }

  /** Bytes as they are. */
  raw(part: Uint8Array): void {
    const { length } = part;
    this.#room(length);
    const bytes = this.#bytes;
    const at = this.#at;
    // A call into the engine takes longer than so many bytes.
    if (length > 48) bytes.set(part, at);
    else for (let i = 0; i < length; i++) bytes[at + i] = part[i] ?? 0;
    this.#at = at + length;
  }

  /** One ASCII character, by its code. */
  code(code: number): void {
    this.#room(1);
    this.#bytes[this.#at++] = code;
  }

  /** A string, in UTF-8. */
  text(text: string): void {
    this.#room(3 * text.length);
    this.#at += encoder.encodeInto(text, this.#bytes.subarray(this.#at)).written;
  }

  /** A finite number of a column, as `String` writes it. By its place: handing over a double takes an object for it. */
  number(values: Float64Array, row: number): void {
    this.#room(NUMBER_BYTES);
    const value = values[row] ?? 0;
    const whole = value < 0 ? -value : value;
    let scaled = whole;
    let decimals = 0;
    // The fewest decimals whose quotient is this very double: with at most 15 digits, no other text of it is as short.
    for (let power = 1; scaled / power !== whole || scaled !== Math.floor(scaled); ) {
      decimals += 1;
      if (decimals > MOST_DECIMALS) break;
      power *= 10;
      scaled = Math.round(whole * power);
    }
    if (decimals > MOST_DECIMALS || scaled >= MOST_DIGITS) this.#latin(String(value));
    else {
      if (value < 0) this.#bytes[this.#at++] = 0x2d;
      if (scaled < HALF) this.#digits(scaled | 0, decimals + 1, decimals);
      else this.#long(scaled, decimals);
    }
  }

  /** Microseconds of a column as milliseconds: exact, with up to three decimals. False when they are left to the caller. */
  milliseconds(times: Float64Array, row: number): boolean {
    const timeUs = times[row] ?? 0;
    if (timeUs < 0) return false;
    this.#room(NUMBER_BYTES);
    const whole = Math.floor(timeUs / 1000);
    let fraction = timeUs - whole * 1000;
    if (whole < HALF) this.#digits(whole | 0, 1, 0);
    else this.#long(whole, 0);
    if (fraction === 0) return true;
    let digits = 3;
    while (fraction % 10 === 0) {
      fraction /= 10;
      digits -= 1;
    }
    this.#bytes[this.#at++] = 0x2e;
    this.#digits(fraction | 0, digits, 0);
    return true;
  }

  /** The text, over a buffer of its own; the next one begins. */
  take(): Uint8Array<ArrayBuffer> {
    const taken = this.#bytes.slice(0, this.#at);
    this.#at = 0;
    if (this.#bytes.length > MOST_KEPT_BYTES) this.#bytes = new Uint8Array(FIRST_BYTES);
    return taken;
  }

  /** A whole number of 9 to 15 digits, with a point before the last `decimals` of them: at most six. */
  #long(value: number, decimals: number): void {
    const high = Math.floor(value / HALF);
    this.#digits(high | 0, 1, 0);
    this.#digits((value - high * HALF) | 0, 8, decimals);
  }

  /** Digits of a whole number below 10^8, at least so many. */
  #digits(value: number, least: number, decimals: number): void {
    let left = value;
    let count = least;
    for (let limit = POWERS[count] ?? HALF; count < 8 && left >= limit; limit *= 10) count += 1;
    const end = this.#at + count + (decimals > 0 ? 1 : 0);
    const point = decimals > 0 ? end - 1 - decimals : -1;
    const bytes = this.#bytes;
    for (let at = end - 1; at >= this.#at; at--) {
      if (at === point) {
        bytes[at] = 0x2e;
        continue;
      }
      const rest = (left / 10) | 0;
      bytes[at] = 0x30 + left - 10 * rest;
      left = rest;
    }
    this.#at = end;
  }

  #latin(text: string): void {
    for (let i = 0; i < text.length; i++) this.#bytes[this.#at++] = text.charCodeAt(i);
  }

  #room(more: number): void {
    if (this.#at + more <= this.#bytes.length) return;
    const wider = new Uint8Array(Math.max(2 * this.#bytes.length, this.#at + more));
    wider.set(this.#bytes);
    this.#bytes = wider;
  }
}
