/** Collects rows and dictionaries, and lays them out as one Frame. */
import { writeEntries } from "./dictionary.ts";
import {
  align8,
  Frame,
  FrameLimits,
  HEADER_BYTES,
  invalidFrame,
  Kind,
  newBlock,
  ROW_BYTES,
  utf8Length,
} from "./frame.ts";

/**
 * A reusable builder. Dictionary entries are interned. The builder sees to UTF-8 and to the sizes of entries; callers
 * check names (`nameProblem`, `deviceProblem`) and values, because rows are on the hot path.
 */
export class FrameBuilder {
  /** Changes with each {@link build}: indexes from before are void then. */
  generation = 0;
  #capacity: number;
  #rows = 0;
  #time: Float64Array;
  #value: Float64Array;
  #device: Uint32Array;
  #metric: Uint32Array;
  #kind: Uint8Array;
  #status: Uint8Array;
  readonly #devices = new Interner("device", FrameLimits.nameBytes);
  readonly #metrics = new Interner("metric", FrameLimits.nameBytes);
  readonly #texts = new Interner("text", FrameLimits.textBytes);
  readonly #blobs = new Interner("blob", FrameLimits.blobBytes);
  #units: string[] = [];
  #blobBytes: Uint8Array[] = [];

  /** `initialCapacity`: rows to make room for at first; it grows. */
  constructor(initialCapacity = 256) {
    const capacity = Math.max(1, initialCapacity);
    this.#capacity = capacity;
    this.#time = new Float64Array(capacity);
    this.#value = new Float64Array(capacity);
    this.#device = new Uint32Array(capacity);
    this.#metric = new Uint32Array(capacity);
    this.#kind = new Uint8Array(capacity);
    this.#status = new Uint8Array(capacity);
  }

  get rows(): number {
    return this.#rows;
  }

  /** Bytes of the frame that {@link build} would make. */
  get byteLength(): number {
    return align8(HEADER_BYTES + this.#dictionaryBytes) + this.#rows * ROW_BYTES;
  }

  get #dictionaryBytes(): number {
    const entries = this.#devices.size + 2 * this.#metrics.size + this.#texts.size + this.#blobs.size;
    return 4 * entries + this.#devices.bytes + this.#metrics.bytes + this.#texts.bytes + this.#blobs.bytes;
  }

  /**
   * Index of a device id that has passed `deviceProblem`.
   * @throws WeirError `frame.invalid` when it is over 256 bytes or has a lone surrogate
   */
  device(name: string): number {
    return this.#devices.index(name, name);
  }

  /**
   * Index of a metric with its UCUM unit ("" when unknown): both together are the entry. Both have passed `nameProblem`.
   * @throws WeirError `frame.invalid` when one is over 256 bytes or has a lone surrogate
   */
  metric(name: string, unit = ""): number {
    const before = this.#metrics.size;
    const index =
      unit === "" ? this.#metrics.index(name, name) : this.#metrics.index(`${name}\0${unit}`, name, unit);
    if (this.#metrics.size !== before) this.#units.push(unit);
    return index;
  }

  /**
   * Index of a text. A lone surrogate in it becomes U+FFFD, as in every encoder of UTF-8.
   * @throws WeirError `frame.invalid` when it is over 64 KiB
   */
  text(text: string): number {
    const wellFormed = text.isWellFormed() ? text : text.toWellFormed();
    return this.#texts.index(wellFormed, wellFormed);
  }

  /**
   * Index of a blob; equal blobs share an entry. The bytes are copied.
   * @throws WeirError `frame.invalid` when it is over 256 KiB
   */
  blob(bytes: Uint8Array): number {
    const before = this.#blobs.size;
    const index = this.#blobs.indexBytes(bytes);
    if (this.#blobs.size !== before) this.#blobBytes.push(new Uint8Array(bytes));
    return index;
  }

  /** Adds a row. `device`, `metric` and an index in `value` come from this builder since its last {@link build}. */
  add(device: number, metric: number, timeUs: number, kind: Kind, status: number, value: number): void {
    const row = this.#rows;
    if (row === this.#capacity) this.#grow();
    this.#device[row] = device;
    this.#metric[row] = metric;
    this.#time[row] = timeUs + 0; // -0 + 0 is 0
    this.#kind[row] = kind;
    this.#status[row] = status;
    this.#value[row] = value + 0;
    this.#rows = row + 1;
  }

  /** Adds rows `from` to `to` (exclusive) of a frame, in order; with `keep`, only those where `keep[row]` is not 0. */
  append(frame: Frame, from = 0, to: number = frame.rows, keep?: Uint8Array): void {
    const { devices, metrics, units, texts, blobs } = frame.dictionaries;
    const deviceMap = new Int32Array(devices.length).fill(-1);
    const metricMap = new Int32Array(metrics.length).fill(-1);
    for (let row = from; row < to; row++) {
      if (keep !== undefined && keep[row] === 0) continue;
      const d = frame.device[row] ?? 0;
      const m = frame.metric[row] ?? 0;
      let device = deviceMap[d] ?? 0;
      if (device < 0) device = deviceMap[d] = this.device(devices[d] ?? "");
      let metric = metricMap[m] ?? 0;
      if (metric < 0) metric = metricMap[m] = this.metric(metrics[m] ?? "", units[m]);
      const kind = (frame.kind[row] ?? Kind.null) as Kind;
      let value = frame.value[row] ?? 0;
      if (kind === Kind.text) value = this.text(texts[value] ?? "");
      else if (kind === Kind.bytes) value = this.blob(blobs[value] ?? new Uint8Array());
      this.add(device, metric, frame.time[row] ?? 0, kind, frame.status[row] ?? 0, value);
    }
  }

  /**
   * The frame of all rows so far; the builder is empty afterwards and can be used again.
   * @throws WeirError `frame.invalid` over the limits of rows or bytes; the builder then keeps everything
   */
  build(): Frame {
    const rows = this.#rows;
    if (rows > FrameLimits.rows) throw invalidFrame(`${rows} rows, the limit is ${FrameLimits.rows}`);
    if (this.byteLength > FrameLimits.bytes)
      throw invalidFrame(`${this.byteLength} bytes, the limit is ${FrameLimits.bytes}`);
    const dictionaryBytes = this.#dictionaryBytes;
    const dictionaries = {
      devices: this.#devices.take(),
      metrics: this.#metrics.take(),
      units: this.#units,
      texts: this.#texts.take(),
      blobs: this.#blobBytes,
    };
    this.#blobs.take();
    this.#units = [];
    this.#blobBytes = [];
    this.#rows = 0;
    this.generation += 1;

    const { devices, metrics, units, texts, blobs } = dictionaries;
    const counts = [devices.length, metrics.length, texts.length, blobs.length] as const;
    const buffer = newBlock({ rows, counts, dictionaryBytes });
    const entries = [...devices, ...metrics, ...units, ...texts];
    const blobViews = writeEntries(buffer, entries, entries.join(""), blobs);
    const frame = new Frame(buffer, { ...dictionaries, blobs: blobViews });
    frame.time.set(this.#time.subarray(0, rows));
    frame.value.set(this.#value.subarray(0, rows));
    frame.device.set(this.#device.subarray(0, rows));
    frame.metric.set(this.#metric.subarray(0, rows));
    frame.kind.set(this.#kind.subarray(0, rows));
    frame.status.set(this.#status.subarray(0, rows));
    return frame;
  }

  #grow(): void {
    const capacity = this.#capacity * 2;
    const wider = <T extends Float64Array | Uint32Array | Uint8Array>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.#time = wider(new Float64Array(capacity), this.#time);
    this.#value = wider(new Float64Array(capacity), this.#value);
    this.#device = wider(new Uint32Array(capacity), this.#device);
    this.#metric = wider(new Uint32Array(capacity), this.#metric);
    this.#kind = wider(new Uint8Array(capacity), this.#kind);
    this.#status = wider(new Uint8Array(capacity), this.#status);
    this.#capacity = capacity;
  }
}

/** What an interner has seen. */
interface Known {
  /** of the frame that the index is in */
  frame: number;
  index: number;
  /** UTF-8 bytes, its unit's included */
  readonly bytes: number;
}

/** What a dictionary remembers from frame to frame: so many entries and bytes, else nothing. */
const MOST_KNOWN = 4096;
const MOST_KNOWN_BYTES = 262_144;

/** Entries in order of first use, each once. They are remembered from frame to frame, as most come again. */
class Interner {
  readonly #what: string;
  readonly #most: number;
  readonly #known = new Map<string, Known>();
  #knownBytes = 0;
  #frame = 0;
  #entries: string[] = [];
  /** UTF-8 bytes of all entries, units included */
  bytes = 0;

  /** `most`: bytes of one entry. */
  constructor(what: string, most: number) {
    this.#what = what;
    this.#most = most;
  }

  get size(): number {
    return this.#entries.length;
  }

  /** The index of `key`, whose entry is `entry`; its `unit` is kept by the caller. */
  index(key: string, entry: string, unit = ""): number {
    const known = this.#known.get(key);
    if (known !== undefined) return known.frame === this.#frame ? known.index : this.#enter(known, entry);
    if (!entry.isWellFormed() || !unit.isWellFormed())
      throw invalidFrame(`a ${this.#what} has a lone surrogate`);
    return this.#learn(key, entry, utf8Length(entry), utf8Length(unit));
  }

  /** The index of an entry whose bytes are kept by the caller. */
  indexBytes(bytes: Uint8Array): number {
    const key = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
    const known = this.#known.get(key);
    if (known === undefined) return this.#learn(key, "", bytes.byteLength, 0);
    return known.frame === this.#frame ? known.index : this.#enter(known, "");
  }

  /** All entries; the interner has none afterwards. */
  take(): string[] {
    const entries = this.#entries;
    this.#entries = [];
    this.bytes = 0;
    this.#frame += 1;
    if (this.#known.size > MOST_KNOWN || this.#knownBytes > MOST_KNOWN_BYTES) {
      this.#known.clear();
      this.#knownBytes = 0;
    }
    return entries;
  }

  #learn(key: string, entry: string, size: number, unitSize: number): number {
    if (size > this.#most || unitSize > this.#most)
      throw invalidFrame(`a ${this.#what} is over ${this.#most} bytes`);
    const known = { frame: -1, index: 0, bytes: size + unitSize };
    this.#known.set(key, known);
    this.#knownBytes += known.bytes;
    return this.#enter(known, entry);
  }

  #enter(known: Known, entry: string): number {
    known.frame = this.#frame;
    known.index = this.#entries.length;
    this.#entries.push(entry);
    this.bytes += known.bytes;
    return known.index;
  }
}

/** Rows `from` to `to` (exclusive) of a frame, as a frame of their own with only the dictionary entries they use. */
export function slice(frame: Frame, from: number, to: number): Frame {
  const builder = new FrameBuilder(to - from);
  builder.append(frame, from, to);
  return builder.build();
}

/** The rows where `keep[row]` is not 0, in order, with only the dictionary entries they use. */
export function select(frame: Frame, keep: Uint8Array): Frame {
  const builder = new FrameBuilder(frame.rows);
  builder.append(frame, 0, frame.rows, keep);
  return builder.build();
}

/**
 * The rows of all frames, one after the other, over merged dictionaries.
 * @throws WeirError `frame.invalid` when the result is over a frame's limits
 */
export function concat(frames: readonly Frame[]): Frame {
  const [only] = frames;
  if (only !== undefined && frames.length === 1) return only;
  const builder = new FrameBuilder(frames.reduce((sum, frame) => sum + frame.rows, 0));
  for (const frame of frames) builder.append(frame);
  return builder.build();
}
