import { describe, expect, test } from "vitest";
import { align8, FrameLimits, HEADER_BYTES, Header } from "../../src/core/block-header.ts";
import { checkDictionaries, indexDictionaries, type SliceHash } from "../../src/core/dictionary.ts";
import { WeirError } from "../../src/core/errors.ts";
import { Frame, Kind, Status, validate } from "../../src/core/frame.ts";
import { concat, FrameBuilder } from "../../src/core/frame-builder.ts";
import { FrameTemplate } from "../../src/core/frame-template.ts";
import { type RawParts, type RawRow, rawBlock } from "../helpers/raw-block.ts";

const NAMES = { devices: ["pump-1"], metrics: ["temp_c"], texts: ["ok"], blobs: [Buffer.of(1, 2)] };

/** Why bytes are refused, or undefined when they are taken. */
function refusal(bytes: Uint8Array<ArrayBuffer>): string | undefined {
  try {
    Frame.fromRaw(bytes);
    return undefined;
  } catch (error) {
    if (error instanceof WeirError && error.code === "frame.invalid") return error.message;
    throw error;
  }
}
const refusalOf = (parts: RawParts): string | undefined => refusal(rawBlock(parts));
const rowRefusal = (row: RawRow): string | undefined => refusalOf({ ...NAMES, rows: [{}, row] });

/** A valid block with one field of its header changed. */
function withHeader(offset: number, bytes: 1 | 2 | 4, value: number): Uint8Array<ArrayBuffer> {
  const block = rawBlock({ ...NAMES, rows: [{ value: 71.2 }] });
  const view = new DataView(block.buffer);
  if (bytes === 1) view.setUint8(offset, value);
  else if (bytes === 2) view.setUint16(offset, value, true);
  else view.setUint32(offset, value, true);
  return block;
}

/** The worst of hashes: every entry collides with every other. */
const allEqual: SliceHash = (_bytes, _starts, into) => into.fill(7n);

const checkColliding = (parts: RawParts): void =>
  checkDictionaries(indexDictionaries(rawBlock(parts).buffer), allEqual);

describe("a row is refused when", () => {
  test.each<[string, RawRow, RegExp]>([
    ["its device is not in the dictionary", { device: 1 }, /row 1: device index/],
    ["its metric is not in the dictionary", { metric: 1 }, /row 1: metric index/],
    ["its time is a fraction", { time: 0.5 }, /row 1: time/],
    ["its time is beyond 2^53", { time: 2 ** 53 }, /row 1: time/],
    ["its time is not a number", { time: Number.NaN }, /row 1: time/],
    ["its time is -0", { time: -0 }, /row 1: time is -0/],
    ["its status has unknown bits", { status: 64 }, /row 1: unknown status/],
    ["its value is not a number", { value: Number.NaN }, /row 1: value is not finite/],
    ["its value is infinite", { value: Number.NEGATIVE_INFINITY }, /row 1: value is not finite/],
    ["its value is -0", { value: -0 }, /row 1: value is not finite, or is -0/],
    ["its kind is unknown", { kind: 6 }, /row 1: .*kind 6/],
    ["its integer is a fraction", { kind: Kind.integer, value: 1.5 }, /kind 1/],
    ["its integer is beyond 2^53", { kind: Kind.integer, value: 2 ** 53 }, /kind 1/],
    ["its boolean is 2", { kind: Kind.boolean, value: 2 }, /kind 2/],
    ["its text is not in the dictionary", { kind: Kind.text, value: 1 }, /kind 3/],
    ["its text's index is negative", { kind: Kind.text, value: -1 }, /kind 3/],
    ["its text's index is a fraction", { kind: Kind.text, value: 0.5 }, /kind 3/],
    ["its blob is not in the dictionary", { kind: Kind.bytes, value: 1 }, /kind 4/],
    ["its null has a value", { kind: Kind.null, value: 1 }, /kind 5/],
  ])("%s", (_, row, reason) => {
    expect(rowRefusal(row)).toMatch(reason);
  });

  test("and not when it is at the ends of what is allowed", () => {
    for (const value of [Number.MAX_VALUE, -Number.MAX_VALUE, Number.MIN_VALUE])
      expect(rowRefusal({ value })).toBeUndefined();
    for (const end of [Number.MAX_SAFE_INTEGER, -Number.MAX_SAFE_INTEGER]) {
      expect(rowRefusal({ time: end, kind: Kind.integer, value: end, status: 63 })).toBeUndefined();
    }
    for (const kind of Object.values(Kind)) expect(rowRefusal({ kind })).toBeUndefined();
  });
});

describe("a dictionary is refused when", () => {
  const long = "x".repeat(257);
  test.each<[string, RawParts, RegExp]>([
    ["a device is empty", { devices: [""] }, /device "" is empty/],
    ["a device is over 256 bytes", { devices: [long] }, /is over 256 bytes/],
    ["a device is over 256 bytes in fewer characters", { devices: ["é".repeat(129)] }, /is over 256 bytes/],
    ["a device has a slash", { devices: ["a/b"] }, /has one of/],
    ["a device has a plus", { devices: ["a+"] }, /has one of/],
    ["a device has a hash", { devices: ["#"] }, /has one of/],
    ["a device has a control character", { devices: ["a\u0000b"] }, /control character/],
    ["a device has a C1 control character", { devices: ["a\u0085b"] }, /control character/],
    ["a device has a delete character", { devices: ["\u007f"] }, /control character/],
    ["a device is not UTF-8", { devices: [Buffer.of(0x61, 0xff)] }, /not UTF-8/],
    ["a device is an encoded surrogate", { devices: [Buffer.of(0xed, 0xa0, 0x80)] }, /not UTF-8/],
    ["a character spans two devices", { devices: [Buffer.of(0xc3), Buffer.of(0xa9)] }, /not UTF-8/],
    ["devices repeat", { devices: ["a", "b", "a"] }, /devices has a duplicate/],
    ["a metric is empty", { metrics: [""] }, /metric "" is empty/],
    ["a metric is over 256 bytes", { metrics: [long] }, /is over 256 bytes/],
    ["a metric has a control character", { metrics: ["a\n"] }, /control character/],
    [
      "metric and unit repeat together",
      { metrics: ["m", "m"], units: ["V", "V"] },
      /metrics has a duplicate/,
    ],
    ["a unit is over 256 bytes", { metrics: ["m"], units: [long] }, /unit .* is over 256/],
    ["a unit has a control character", { metrics: ["m"], units: ["\t"] }, /unit .* control/],
    ["a text is over 64 KiB", { texts: ["x".repeat(65_537)] }, /a text is over 65536/],
    ["a text is not UTF-8", { texts: [Buffer.of(0xc0, 0x80)] }, /not UTF-8/],
    ["texts repeat", { texts: ["", "a", ""] }, /texts has a duplicate/],
    ["a blob is over 256 KiB", { blobs: [Buffer.alloc(262_145)] }, /a blob is over 262144/],
    ["blobs repeat", { blobs: [Buffer.of(255), Buffer.of(255)] }, /blobs has a duplicate/],
  ])("%s", (_, parts, reason) => {
    expect(refusalOf(parts)).toMatch(reason);
  });

  test("and not when it is at the ends of what is allowed", () => {
    const name = "x".repeat(256);
    const parts = {
      devices: [name, "é".repeat(128), "\uFEFFa", "a", "a b", "%2F", "\u00a0"],
      metrics: ["m", "m", "mV", name, "a/b+c#;le=0.5"],
      units: ["V", "", "", name, "m/s"],
      texts: ["", "\u0000", "x".repeat(65_536), "\uFEFF"],
      blobs: [Buffer.of(), Buffer.alloc(262_144)],
    };
    const bytes = rawBlock(parts);
    expect(refusal(bytes)).toBeUndefined();
    const { devices, metrics, units, texts } = new Frame(bytes.buffer);
    expect({ devices, metrics, units, texts }).toEqual({ ...parts, blobs: undefined });
  });

  test("a name and its unit are told apart from another cut of the same letters", () => {
    expect(refusalOf({ metrics: ["ab", "a"], units: ["c", "bc"] })).toBeUndefined();
  });

  test("all of its entries share a hash, and one is there twice", () => {
    const names = Array.from({ length: 200 }, (_, i) => `n${i}`);
    expect(() => checkColliding({ devices: names })).not.toThrow();
    expect(() => checkColliding({ devices: [...names, "n150"] })).toThrow("devices has a duplicate entry");
  });

  test("and not when entries merely share a hash", () => {
    expect(() => checkColliding({ devices: ["a", "b"] })).not.toThrow();
    expect(() => checkColliding({ metrics: ["m", "m"], units: ["a", "b"] })).not.toThrow();
  });
});

describe("a raw block is refused when", () => {
  test.each<[string, Uint8Array<ArrayBuffer>, RegExp]>([
    ["it is shorter than a header", new Uint8Array(HEADER_BYTES - 1), /shorter than its header/],
    ["it has another magic", withHeader(Header.magic, 1, 0x58), /wrong magic/],
    ["its version is unknown", withHeader(Header.version, 1, 2), /block version 2/],
    ["a flag is unknown", withHeader(Header.flags, 1, 2), /unknown flags/],
    ["it says it has a checksum", withHeader(Header.flags, 1, 1), /without a checksum/],
    ["it has a checksum without the flag", withHeader(Header.crc, 4, 1), /checksum without its flag/],
    ["reserved bytes are not 0", withHeader(6, 2, 1), /reserved/],
    ["more reserved bytes are not 0", withHeader(46, 2, 256), /reserved/],
    ["its length is another", withHeader(Header.length, 4, 200), /block says 200 bytes/],
    ["it has more rows than there are", withHeader(Header.rows, 4, 2), /column time: 8 bytes for 2 rows/],
    ["it has more rows than are allowed", withHeader(Header.rows, 4, 65_537), /^65537 rows, the limit/],
    [
      "it has more rows than a u32 can index",
      withHeader(Header.rows, 4, 0xffff_ffff),
      /^4294967295 rows, the limit/,
    ],
    ["a column is packed", withHeader(Header.encodings + 5, 1, 1), /a column is packed/],
    ["an encoding is unknown", withHeader(Header.encodings, 1, 2), /unknown encoding 2/],
    ["a column has another size", withHeader(Header.columnBytes, 4, 16), /column time: 16 bytes/],
    ["it has fewer devices than it says", withHeader(Header.devices, 4, 2), /dictionary/],
    ["it has four thousand million metrics", withHeader(Header.metrics, 4, 0xffff_ffff), /table of lengths/],
    [
      "its dictionaries run past it",
      withHeader(Header.dictionaryBytes, 4, 0xffff_fff8),
      /longer than the block/,
    ],
    [
      "its dictionaries run past an int32",
      withHeader(Header.dictionaryBytes, 4, 0x7fff_fff8),
      /longer than the block/,
    ],
    ["its dictionary section is larger", withHeader(Header.dictionaryBytes, 4, 44), /./],
    ["an entry runs past its section", withHeader(HEADER_BYTES, 4, 0xffff_ffff), /run past their section/],
    ["an entry is shorter than its place", withHeader(HEADER_BYTES, 4, 5), /left over/],
  ])("%s", (_, bytes, reason) => {
    expect(refusal(bytes)).toMatch(reason);
  });

  test("its padding is not 0", () => {
    const bytes = rawBlock({ ...NAMES, rows: [] });
    const dictionaryBytes = new DataView(bytes.buffer).getUint32(Header.dictionaryBytes, true);
    expect(align8(dictionaryBytes)).toBeGreaterThan(dictionaryBytes);
    bytes[bytes.byteLength - 1] = 1;
    expect(refusal(bytes)).toMatch(/padding/);
  });

  test("it is over 4 MiB", () => {
    const texts = Array.from({ length: 64 }, (_, i) => String(i).padStart(65_536, "x"));
    expect(refusalOf({ texts })).toMatch(/^block of \d+ bytes, the limit is 4194304/);
    expect(refusalOf({ texts: texts.slice(1) })).toBeUndefined();
  });
});

describe("a frame", () => {
  test("without rows is valid", () => {
    expect(refusal(new Uint8Array(Frame.empty().buffer))).toBeUndefined();
    expect(Frame.empty().devices).toEqual([]);
  });

  test("takes over a buffer that its bytes fill", () => {
    const bytes = rawBlock({ ...NAMES, rows: [{ value: 3 }] });
    expect(Frame.fromRaw(bytes).buffer).toBe(bytes.buffer);
  });

  test("is checked again by validate, as after a plugin had its buffer", () => {
    const frame = Frame.fromRaw(rawBlock({ ...NAMES, rows: [{ value: 3 }] }));
    frame.value[0] = Number.NaN;
    expect(() => validate(frame)).toThrow("row 0: value is not finite");
  });

  test("has status bits as the contract numbers them", () => {
    expect(
      Status.stale | Status.historical | Status.retained | Status.gatewayTime | Status.clockUnsynchronised,
    ).toBe(63);
  });
});

describe("a builder", () => {
  test("copies blobs, and stores equal ones once", () => {
    const builder = new FrameBuilder();
    const bytes = Buffer.from([1, 2, 3]);
    expect(builder.blob(bytes)).toBe(0);
    bytes.fill(9);
    expect(builder.blob(Buffer.from([1, 2, 3]))).toBe(0);
    expect(builder.build().blobs).toEqual([Uint8Array.of(1, 2, 3)]);
  });

  test("keeps one entry for each pair of metric and unit", () => {
    const builder = new FrameBuilder();
    expect([
      builder.metric("u"),
      builder.metric("u", "V"),
      builder.metric("u", "mV"),
      builder.metric("u", "V"),
    ]).toEqual([0, 1, 2, 1]);
    const frame = builder.build();
    expect([frame.metrics, frame.units]).toEqual([
      ["u", "u", "u"],
      ["", "V", "mV"],
    ]);
  });

  test("gives frame after frame only the entries that it uses, in the order of their first use, however many there were", () => {
    const fill = (builder: FrameBuilder, names: readonly string[]): Uint8Array => {
      for (const name of names)
        builder.add(builder.device(name), builder.metric(name, "K"), 1, Kind.text, 0, builder.text(name));
      return new Uint8Array(builder.build().buffer);
    };
    const builder = new FrameBuilder();
    const frame = (names: readonly string[]): void =>
      expect(fill(builder, names)).toEqual(fill(new FrameBuilder(), names));
    for (const names of [["a", "b"], ["b", "c", "a"], ["é"], [], ["a", "a", "é"]]) frame(names);
    for (let round = 0; round < 3; round++)
      frame(Array.from({ length: 5000 }, (_, i) => `${round} ${i} ${i % 2 === 0 ? "x" : "y".repeat(100)}`));
    frame(["b", "a"]);
  });

  test("makes -0 into 0, as value and as time", () => {
    const builder = new FrameBuilder(0);
    builder.add(builder.device("d"), builder.metric("m"), -0, Kind.number, 0, -0);
    expect(refusal(new Uint8Array(builder.build().buffer))).toBeUndefined();
  });

  test("refuses entries that are too long or have a lone surrogate, and stays usable", () => {
    const builder = new FrameBuilder();
    expect(() => builder.device("x".repeat(257))).toThrow("a device is over 256 bytes");
    expect(() => builder.metric("m", "x".repeat(257))).toThrow("a metric is over 256 bytes");
    expect(() => builder.metric("m", "\ud800")).toThrow("a metric has a lone surrogate");
    expect(() => builder.text("é".repeat(32_769))).toThrow("a text is over 65536 bytes");
    expect(() => builder.blob(new Uint8Array(262_145))).toThrow("a blob is over 262144 bytes");
    expect(builder.build().byteLength).toBe(HEADER_BYTES);
  });

  test("refuses more than 65,536 rows", () => {
    const builder = new FrameBuilder(FrameLimits.rows);
    const [device, metric] = [builder.device("d"), builder.metric("m")];
    for (let i = 0; i < FrameLimits.rows; i++) builder.add(device, metric, i, Kind.number, 0, i);
    const frame = builder.build();
    expect(frame.rows).toBe(FrameLimits.rows);
    expect(() => concat([frame, frame])).toThrow("131072 rows, the limit is 65536");
  });

  test("refuses more than 4 MiB", () => {
    const builder = new FrameBuilder();
    for (let i = 0; i < 64; i++) builder.text(String(i).padStart(65_536, "x"));
    expect(() => builder.build()).toThrow("the limit is 4194304");
  });
});

test.each([[["ok", "run"]], [["ok", "läuft", "🎉"]], [[]]])(
  "a frame of a template with texts %j is the one that a builder makes",
  (texts) => {
    const builder = new FrameBuilder();
    const device = builder.device("pump-ä");
    const metrics = [builder.metric("temp_c", "Cel"), builder.metric("rpm")];
    for (const text of texts) builder.text(text);
    for (const metric of metrics) builder.add(device, metric, 5, Kind.number, Status.good, 1.5);
    const built = builder.build();
    const template = new FrameTemplate("pump-ä", [
      ["temp_c", "Cel"],
      ["rpm", ""],
    ]);
    const frame = template.frame(built.rows, texts);
    for (const column of ["time", "value", "device", "metric", "kind", "status"] as const)
      frame[column].set(built[column]);
    expect(Buffer.from(frame.buffer)).toEqual(Buffer.from(built.buffer));
    expect(frame.dictionaries).toEqual(new Frame(built.buffer).dictionaries);
  },
);
