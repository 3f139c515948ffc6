/** Learning the shape of a JSON message: what stands between its values, and which metrics they are. */

/** A message's shape. */
export interface ShapePlan {
  /** the bytes between values, one after the other: the first up to the first value, the last from the last value on */
  readonly literals: Uint8Array;
  /** where each of them ends; one more than there are values */
  readonly ends: Uint32Array;
  /** what each value is: 0 a sample, 1 the device's time, 2 nothing that is read */
  readonly roles: Uint8Array;
  /** the metrics of the samples */
  readonly names: readonly string[];
}

/** Values of a message, at most. */
export const SHAPE_VALUES = 128;
/** Greatest message of which a shape is kept, in bytes. */
const BYTES = 4096;
/** A key that JavaScript would put before others: then rows don't come in the order of the text. */
const INDEX = /^(?:0|[1-9]\d{0,9})$/;

interface Slot {
  readonly from: number;
  readonly to: number;
  readonly role: 0 | 1 | 2;
  readonly name: string;
}

/**
 * The shape of `payload`, an object in JSON that the decoder has taken, or undefined when it has one that is not worth it:
 * too big, with a key twice, with keys that are numbers.
 * @param values names on the way to the values
 * @param time names on the way to the device's time
 */
export function learnShape(
  payload: Uint8Array,
  values: readonly string[],
  time: readonly string[] | undefined,
): ShapePlan | undefined {
  if (payload.length > BYTES) return undefined;
  // One character a byte; names are decoded where they are.
  const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString("latin1");
  const slots: Slot[] = [];
  if (!new Walk(text, values, time, slots).walk() || slots.length > SHAPE_VALUES) return undefined;
  const parts: Uint8Array[] = [];
  const ends = new Uint32Array(slots.length + 1);
  let at = 0;
  let size = 0;
  const cut = (to: number, index: number): void => {
    parts.push(payload.subarray(at, to));
    size += to - at;
    ends[index] = size;
  };
  for (const [index, { from, to }] of slots.entries()) {
    cut(from, index);
    at = to;
  }
  cut(text.lastIndexOf("}") + 1, slots.length);
  return {
    literals: Uint8Array.from(Buffer.concat(parts)),
    ends,
    roles: Uint8Array.from(slots, ({ role }) => role),
    names: slots.filter(({ role }) => role === 0).map(({ name }) => name),
  };
}

/** A walk through a text that is JSON. */
class Walk {
  readonly #text: string;
  readonly #values: readonly string[];
  readonly #time: readonly string[] | undefined;
  readonly #slots: Slot[];
  #at = 0;

  constructor(text: string, values: readonly string[], time: readonly string[] | undefined, slots: Slot[]) {
    this.#text = text;
    this.#values = values;
    this.#time = time;
    this.#slots = slots;
  }

  /** Notes every value. False when the text can't have a shape. */
  walk(): boolean {
    return this.#value([]);
  }

  #value(path: readonly string[]): boolean {
    this.#blanks();
    const first = this.#text[this.#at];
    if (first === "{") return this.#object(path);
    if (first === "[") return this.#array(path);
    const from = this.#at;
    if (first === '"') this.#string();
    else
      while (this.#at < this.#text.length && !/[ \t\n\r,\]}]/.test(this.#text[this.#at] ?? "")) this.#at += 1;
    const isTime = this.#time !== undefined && equal(path, this.#time);
    const isValue = startsWith(path, this.#values);
    // A value that stands at `values` itself is named by its topic.
    if (isValue && path.length === this.#values.length) return false;
    const role = isTime ? 1 : isValue ? 0 : 2;
    this.#slots.push({ from, to: this.#at, role, name: path.slice(this.#values.length).join(".") });
    return true;
  }

  #object(path: readonly string[]): boolean {
    const seen = new Set<string>();
    this.#at += 1;
    this.#blanks();
    while (this.#text[this.#at] === '"') {
      const from = this.#at;
      this.#string();
      const key: unknown = JSON.parse(Buffer.from(this.#text.slice(from, this.#at), "latin1").toString());
      if (typeof key !== "string" || seen.has(key) || INDEX.test(key)) return false;
      seen.add(key);
      this.#blanks();
      this.#at += 1; // the colon
      if (!this.#value([...path, key])) return false;
      this.#blanks();
      if (this.#text[this.#at] === ",") this.#at += 1;
      this.#blanks();
    }
    this.#at += 1;
    return true;
  }

  #array(path: readonly string[]): boolean {
    // Paths are made of member names: what they find in an array is not for here to say.
    if (startsWith(this.#values, path) || (this.#time !== undefined && startsWith(this.#time, path)))
      return false;
    this.#at += 1;
    this.#blanks();
    for (let index = 0; this.#text[this.#at] !== "]"; index++) {
      if (!this.#value([...path, String(index)])) return false;
      this.#blanks();
      if (this.#text[this.#at] === ",") this.#at += 1;
      this.#blanks();
    }
    this.#at += 1;
    return true;
  }

  #string(): void {
    this.#at += 1;
    while (this.#text[this.#at] !== '"') this.#at += this.#text[this.#at] === "\\" ? 2 : 1;
    this.#at += 1;
  }

  #blanks(): void {
    while (/[ \t\n\r]/.test(this.#text[this.#at] ?? "")) this.#at += 1;
  }
}

const equal = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && startsWith(a, b);

/** Whether `path` begins with all of `start`. */
const startsWith = (path: readonly string[], start: readonly string[]): boolean =>
  start.length <= path.length && start.every((name, i) => path[i] === name);
