/**
 * The dictionary section of a block (docs/specs/frame.md): where its entries lie, what they may be, and their decoding.
 * Checking works on bytes, so that a frame which only passes through is never decoded into strings.
 */
import { entriesOf, FrameLimits, HEADER_BYTES, Header, invalidFrame } from "./block-header.ts";

/** The dictionaries of a frame, decoded. `units[i]` belongs to `metrics[i]`. */
export interface Dictionaries {
  readonly devices: readonly string[];
  readonly metrics: readonly string[];
  /** UCUM; "" when unknown */
  readonly units: readonly string[];
  readonly texts: readonly string[];
  /** Views on the frame's buffer. */
  readonly blobs: readonly Uint8Array[];
}

/** Where a block's dictionary entries lie: entry `i` is bytes `starts[i]` to `starts[i + 1]`. */
export interface DictionaryIndex {
  /** the block up to the end of its dictionary section */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** devices, then metrics, units, texts, blobs; one more than there are entries */
  readonly starts: Uint32Array;
  readonly devices: number;
  readonly metrics: number;
  readonly texts: number;
  readonly blobs: number;
}

// A byte order mark is a character like any other: dropping it would make two entries equal.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Measures the dictionary section of a block whose header has been measured.
 * @throws WeirError `frame.invalid` when the entries do not fill the section exactly
 */
export function indexDictionaries(buffer: ArrayBuffer): DictionaryIndex {
  const header = new DataView(buffer);
  const count = (at: number): number => header.getUint32(at, true);
  const [devices, metrics, texts, blobs] = [
    count(Header.devices),
    count(Header.metrics),
    count(Header.texts),
    count(Header.blobs),
  ];
  const entries = entriesOf([devices, metrics, texts, blobs]);
  const end = HEADER_BYTES + count(Header.dictionaryBytes);
  const lengths = new Uint32Array(buffer, HEADER_BYTES, entries);
  const starts = new Uint32Array(entries + 1);
  let at = HEADER_BYTES + 4 * entries;
  for (let i = 0; i < entries; i++) {
    starts[i] = at;
    at += lengths[i] ?? 0;
    if (at > end) throw invalidFrame("dictionary entries run past their section");
  }
  if (at !== end) throw invalidFrame("bytes left over in the dictionary section");
  starts[entries] = end;
  return { bytes: new Uint8Array(buffer, 0, end), starts, devices, metrics, texts, blobs };
}

/**
 * Decodes the dictionaries of a block whose header has been measured.
 * @throws WeirError `frame.invalid` when an entry is not UTF-8
 */
export function readDictionaries(buffer: ArrayBuffer): Dictionaries {
  const index = indexDictionaries(buffer);
  const { bytes, starts } = index;
  let from = 0;
  const strings = (count: number): string[] => {
    const out = decodeStrings(bytes, starts, from, count);
    from += count;
    return out;
  };
  const dictionaries = {
    devices: strings(index.devices),
    metrics: strings(index.metrics),
    units: strings(index.metrics),
    texts: strings(index.texts),
  };
  const blobs: Uint8Array[] = [];
  for (let i = from; i < from + index.blobs; i++) blobs.push(bytes.subarray(starts[i], starts[i + 1]));
  return { ...dictionaries, blobs };
}

/** One decode for the whole dictionary when it is ASCII (the usual case: characters are bytes), else one per entry. */
function decodeStrings(bytes: Uint8Array, starts: Uint32Array, from: number, count: number): string[] {
  const out: string[] = new Array(count);
  const start = starts[from] ?? 0;
  const end = starts[from + count] ?? start;
  try {
    const all = utf8.decode(bytes.subarray(start, end));
    const ascii = all.length === end - start;
    for (let i = 0; i < count; i++) {
      const a = starts[from + i] ?? 0;
      const b = starts[from + i + 1] ?? 0;
      out[i] = ascii ? all.slice(a - start, b - start) : utf8.decode(bytes.subarray(a, b));
    }
  } catch {
    throw invalidFrame("a dictionary entry is not UTF-8");
  }
  return out;
}

const encoder = new TextEncoder();

/**
 * Writes texts and their lengths, in bytes of UTF-8.
 * @param texts well-formed; `joined` is all of them, one after the other
 * @returns how many bytes they are
 */
export function writeTexts(
  lengths: Uint32Array,
  into: Uint8Array,
  texts: readonly string[],
  joined: string,
): number {
  const { written } = encoder.encodeInto(joined, into);
  const ascii = written === joined.length;
  texts.forEach((text, i) => {
    lengths[i] = ascii ? text.length : utf8Length(text);
  });
  return written;
}

/**
 * Writes the dictionary section of a block, which has room for it: the table of lengths, then the entries.
 * @param texts well-formed; `joined` is all of them, one after the other
 * @returns the blobs' places in the block
 */
export function writeEntries(
  buffer: ArrayBuffer,
  texts: readonly string[],
  joined: string,
  blobs: readonly Uint8Array[],
): Uint8Array[] {
  const lengths = new Uint32Array(buffer, HEADER_BYTES, texts.length + blobs.length);
  const bytes = new Uint8Array(buffer);
  let at = HEADER_BYTES + lengths.byteLength;
  at += writeTexts(lengths, bytes.subarray(at), texts, joined);
  return blobs.map((blob, i) => {
    const place = bytes.subarray(at, at + blob.byteLength);
    place.set(blob);
    lengths[texts.length + i] = blob.byteLength;
    at += blob.byteLength;
    return place;
  });
}

const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;
const DEVICE_FORBIDDEN = /[/+#]/;

/** Bytes of a string in UTF-8; lone surrogates count as the three bytes of U+FFFD, which is how they are encoded. */
export function utf8Length(text: string): number {
  let bytes = text.length;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) continue;
    if (unit < 0x800) bytes += 1;
    else if (unit >= 0xd800 && unit < 0xdc00 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) {
      bytes += 2;
      i += 1;
    } else bytes += 2;
  }
  return bytes;
}

/**
 * Why a metric's or unit's name can't stand in a frame, or undefined when it can: 1-256 bytes of UTF-8 without control
 * characters. A lone surrogate has no UTF-8: U+FFFD in its place would let two names become one.
 */
export function nameProblem(name: string): string | undefined {
  if (name.length === 0) return "is empty";
  if (name.length > FrameLimits.nameBytes || utf8Length(name) > FrameLimits.nameBytes)
    return `is over ${FrameLimits.nameBytes} bytes`;
  if (CONTROL.test(name)) return "has a control character";
  return name.isWellFormed() ? undefined : "has a lone surrogate";
}

/** Like {@link nameProblem} for a device id, in which `/ + #` may not stand either: it becomes a level of MQTT topics. */
export function deviceProblem(name: string): string | undefined {
  return nameProblem(name) ?? (DEVICE_FORBIDDEN.test(name) ? "has one of / + #" : undefined);
}

const NON_ASCII = 1;
const CONTROL_BYTE = 2;
const TOPIC_BYTE = 4;
/** What a byte means for the rules of names. */
const CLASSES = Uint8Array.from({ length: 256 }, (_, byte) => {
  if (byte > 127) return NON_ASCII;
  if (byte < 32 || byte === 127) return CONTROL_BYTE;
  return byte === 0x2f || byte === 0x2b || byte === 0x23 ? TOPIC_BYTE : 0;
});

/**
 * Fills `into` with a hash of each slice `starts[i]` to `starts[i + 1]` of `bytes`. Whoever chose the bytes must not be able to tell
 * which slices share a hash, as under a random key.
 */
export type SliceHash = (bytes: Uint8Array, starts: Uint32Array, into: BigUint64Array) => void;

/** Differs in every process, so that nobody can prepare entries that share a hash. */
const SEED = Math.trunc(Math.random() * 2 ** 32);
/** Probes after which entries are taken to be made to collide; in a half-full table of honest ones it hardly happens. */
const MOST_PROBES = 64;

/** Hashes in JavaScript: FNV-1a from a random seed, and a nanosecond for each byte. */
const fnvSlices: SliceHash = (bytes, starts, into) => {
  const words = new Int32Array(into.buffer, into.byteOffset, 2 * into.length);
  for (let i = 0; i + 1 < starts.length; i++) {
    let h = SEED | 0;
    const end = starts[i + 1] ?? 0;
    for (let at = starts[i] ?? 0; at < end; at++) h = Math.imul(h ^ (bytes[at] ?? 0), 0x0100_0193);
    words[2 * i] = h ^ (h >>> 15);
  }
};

/**
 * Checks every entry of a frame's dictionaries: UTF-8, names, sizes, no duplicates.
 * @param hashSlices for finding duplicates; it may be weak: entries that collide cost time, and are still told apart
 * @throws WeirError `frame.invalid`, which names the offending entry
 */
export function checkDictionaries(index: DictionaryIndex, hashSlices: SliceHash = fnvSlices): void {
  const { devices, metrics, texts, blobs } = index;
  const digests = new BigUint64Array(index.starts.length - 1);
  hashSlices(index.bytes, index.starts, digests);
  const hashes = new Int32Array(digests.buffer);
  let from = 0;
  checkNames(index, "device", from, devices, deviceProblem, CONTROL_BYTE | TOPIC_BYTE, 1);
  checkUnique(index, "devices", from, devices, 0, hashes);
  from += devices;
  checkNames(index, "metric", from, metrics, nameProblem, CONTROL_BYTE, 1);
  checkNames(
    index,
    "unit",
    from + metrics,
    metrics,
    (unit) => (unit === "" ? undefined : nameProblem(unit)),
    CONTROL_BYTE,
    0,
  );
  // A metric's entry is its name and its unit together.
  checkUnique(index, "metrics", from, metrics, metrics, hashes);
  from += 2 * metrics;
  checkSizes(index, "text", from, texts, FrameLimits.textBytes);
  decodeStrings(index.bytes, index.starts, from, texts);
  checkUnique(index, "texts", from, texts, 0, hashes);
  from += texts;
  checkSizes(index, "blob", from, blobs, FrameLimits.blobBytes);
  checkUnique(index, "blobs", from, blobs, 0, hashes);
}

function checkNames(
  index: DictionaryIndex,
  what: string,
  from: number,
  count: number,
  problem: (name: string) => string | undefined,
  forbidden: number,
  least: number,
): void {
  const { bytes, starts } = index;
  for (let i = from; i < from + count; i++) {
    const start = starts[i] ?? 0;
    const end = starts[i + 1] ?? 0;
    let seen = 0;
    const size = end - start;
    if (size >= least && size <= FrameLimits.nameBytes) {
      for (let at = start; at < end; at++) seen |= CLASSES[bytes[at] ?? 0] ?? 0;
      if ((seen & (forbidden | NON_ASCII)) === 0) continue;
    }
    // Not plain: the rule for strings decides, and words the refusal.
    const [name = ""] = decodeStrings(bytes, starts, i, 1);
    const wrong = problem(name);
    if (wrong !== undefined) throw invalidFrame(`${what} ${JSON.stringify(name.slice(0, 64))} ${wrong}`);
  }
}

function checkSizes(index: DictionaryIndex, what: string, from: number, count: number, most: number): void {
  for (let i = from; i < from + count; i++) {
    if ((index.starts[i + 1] ?? 0) - (index.starts[i] ?? 0) > most)
      throw invalidFrame(`a ${what} is over ${most} bytes`);
  }
}

/**
 * Refuses a dictionary with two equal entries. `partner` is how far from each entry its second part lies (a metric's
 * unit), 0 when it has none. `hashes` has two words for each entry, of which the first counts. A hash table over the bytes:
 * open addressing, at most half full.
 */
function checkUnique(
  index: DictionaryIndex,
  what: string,
  from: number,
  count: number,
  partner: number,
  hashes: Int32Array,
): void {
  if (count < 2) return;
  const { bytes, starts } = index;
  const hashOf = (entry: number): number => {
    const h = hashes[2 * entry] ?? 0;
    return partner === 0 ? h : Math.imul(h, 0x9e37_79b1) ^ (hashes[2 * (entry + partner)] ?? 0);
  };
  const equal = (a: number, b: number): boolean => {
    const start = starts[a] ?? 0;
    const size = (starts[a + 1] ?? 0) - start;
    const other = starts[b] ?? 0;
    if ((starts[b + 1] ?? 0) - other !== size) return false;
    for (let i = 0; i < size; i++) if (bytes[start + i] !== bytes[other + i]) return false;
    return true;
  };
  const mask = 2 ** Math.ceil(Math.log2(2 * count)) - 1;
  const table = new Uint32Array(mask + 1); // entry - from + 1; 0 is free
  for (let i = 0; i < count; i++) {
    const entry = from + i;
    const h = hashOf(entry);
    let slot = h & mask;
    for (let probes = 0; ; probes++) {
      const taken = (table[slot] ?? 0) - 1;
      if (taken < 0) break;
      if (
        hashOf(from + taken) === h &&
        equal(from + taken, entry) &&
        (partner === 0 || equal(from + taken + partner, entry + partner))
      ) {
        throw invalidFrame(`${what} has a duplicate entry`);
      }
      if (probes === MOST_PROBES) {
        checkUniqueSlowly(index, what, from, count, partner);
        return;
      }
      slot = (slot + 1) & mask;
    }
    table[slot] = i + 1;
  }
}

/** {@link checkUnique} by the engine's own hash of strings, for entries that collide. */
function checkUniqueSlowly(
  index: DictionaryIndex,
  what: string,
  from: number,
  count: number,
  partner: number,
): void {
  const { bytes, starts } = index;
  const latin1 = (entry: number): string =>
    Buffer.from(bytes.buffer).toString("latin1", starts[entry], starts[entry + 1]);
  const seen = new Set<string>();
  for (let i = from; i < from + count; i++)
    seen.add(partner === 0 ? latin1(i) : `${latin1(i)}\u0100${latin1(i + partner)}`);
  if (seen.size !== count) throw invalidFrame(`${what} has a duplicate entry`);
}
