/**
 * What generated code (jco's) asks of the engine for every name and list, in a plugin's thread: lifting is metered, and the calls
 * that it makes thousands of times in a call are made quick. The canonical ABI of WebAssembly's component model names it so: lowering is writing
 * into a component's memory, lifting is reading from it.
 */

/** Puts all of it in place of the engine's own; before generated code is imported. */
export function replaceEngineCalls(): void {
  meterLifting();
  quickenLowering();
  globalThis.DataView = KnownView;
}

/** Asking a view for its buffer is a call into the engine; a field is not. */
class KnownView<T extends ArrayBufferLike> extends DataView<T> {
  override readonly buffer: T;

  constructor(buffer: T, byteOffset?: number, byteLength?: number) {
    super(buffer, byteOffset, byteLength);
    this.buffer = buffer;
  }
}

/**
 * Remembers a memory's buffer, which it is asked for at each number and name. Growing detaches it, which leaves it with no bytes. Measured, with
 * {@link KnownView}: 14 → 5 ns.
 */
export function quickenMemory(memory: WebAssembly.Memory): void {
  const ask = Object.getOwnPropertyDescriptor(WebAssembly.Memory.prototype, "buffer")?.get;
  if (ask === undefined) return;
  let { buffer } = memory;
  Object.defineProperty(memory, "buffer", {
    get: () => {
      if (buffer.byteLength === 0) buffer = ask.call(memory);
      return buffer;
    },
  });
}

/**
 * Bytes that may still be lifted out of the component's memory in this call. A list can point at the same megabytes
 * thousands of times: without this, lifting it would take all memory of the process.
 */
let budget = Number.POSITIVE_INFINITY;
let fullBudget = Number.POSITIVE_INFINITY;

/** Sets how many bytes one call may lift. */
export function limitLifting(bytes: number): void {
  fullBudget = bytes;
}

/** A call into the component begins. */
export function beginCall(): void {
  refillLifting();
  lifted = 0;
}

/** The component calls out: what its arguments lift is limited by itself. */
export function refillLifting(): void {
  budget = fullBudget;
}

function charge(bytes: number): void {
  budget -= bytes + 64;
  if (budget < 0) throw new RangeError("returned more than its limits allow");
}

/** Names up to this length are lowered and compared here: a call into the engine takes longer than their bytes. */
const SHORT = 32;
/**
 * The short names that the call before has lifted, in their order, and their bytes, {@link SHORT} for each: mostly the same come
 * again. Measured: 60 → 18 ns for 9 characters.
 */
const MOST_LIFTED = 4_096;
const liftedBytes = new Uint8Array(MOST_LIFTED * SHORT);
const liftedNames: (string | undefined)[] = [];
let lifted = 0;

/** It lifts lists and texts with these two. */
function meterLifting(): void {
  const { slice } = ArrayBuffer.prototype;
  ArrayBuffer.prototype.slice = function (this: ArrayBuffer, start = 0, end = this.byteLength): ArrayBuffer {
    charge(Math.max(0, end - start));
    return slice.call(this, start, end);
  };
  const { decode } = TextDecoder.prototype;
  TextDecoder.prototype.decode = function (this: TextDecoder, input, options): string {
    const length = input?.byteLength ?? 0;
    charge(length);
    if (length > SHORT || lifted === MOST_LIFTED || !(input instanceof Uint8Array))
      return decode.call(this, input, options);
    const at = lifted++;
    const known = liftedNames[at];
    if (known?.length === length && isAt(input, at * SHORT)) return known;
    const text = decode.call(this, input, options);
    // Of what is ASCII every decoder of UTF-8 makes the same.
    const ascii = input.every((byte) => byte < 0x80);
    liftedNames[at] = ascii ? text : undefined;
    if (ascii) liftedBytes.set(input, at * SHORT);
    return text;
  };
}

/** Whether these bytes are remembered at a place. */
function isAt(input: Uint8Array, start: number): boolean {
  for (let i = 0; i < input.length; i++) if (input[i] !== liftedBytes[start + i]) return false;
  return true;
}

/** It lowers each name with this; a thousand devices are a thousand calls. Measured: 51 → 31 ns for 9 characters. */
function quickenLowering(): void {
  const { encodeInto } = TextEncoder.prototype;
  TextEncoder.prototype.encodeInto = function (this: TextEncoder, text, into) {
    const { length } = text;
    if (length > SHORT || into.length < length) return encodeInto.call(this, text, into);
    for (let i = 0; i < length; i++) {
      const unit = text.charCodeAt(i);
      if (unit >= 0x80) return encodeInto.call(this, text, into);
      into[i] = unit;
    }
    return { read: length, written: length };
  };
}
