import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { crc32cTable as crc32c } from "../../src/addon/crc32c.ts";
import { looksLikeBlock, packBlock, readBlock } from "../../src/core/block.ts";
import { COLUMNS, CRC_START, HEADER_BYTES, Header } from "../../src/core/block-header.ts";
import { Frame, Kind } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { rawBlock } from "../helpers/raw-block.ts";

const SPEC = readFileSync(new URL("../../docs/specs/frame.md", import.meta.url), "utf8");

/** The frame of the example in docs/specs/frame.md. */
function exampleFrame(): Frame {
  const builder = new FrameBuilder();
  const metrics = [builder.metric("temp_c", "Cel"), builder.metric("on"), builder.metric("note")] as const;
  const devices = [builder.device("pump-1"), builder.device("pump-2")] as const;
  builder.add(devices[0], metrics[0], 1_763_640_000_123_000, Kind.number, 0, 71.2);
  builder.add(devices[0], metrics[1], 1_763_640_000_123_000, Kind.boolean, 0, 1);
  builder.add(devices[1], metrics[0], 1_763_640_000_140_000, Kind.number, 0, 68.9);
  builder.add(devices[1], metrics[2], 1_763_640_000_140_000, Kind.text, 0, builder.text("ok"));
  return builder.build();
}

/** A block of `rows` rows of device 0 and metric 0, one of whose columns holds these packed bytes. */
function withColumn(
  name: (typeof COLUMNS)[number],
  packed: readonly number[],
  rows = 3,
): Uint8Array<ArrayBuffer> {
  const raw = rawBlock({
    devices: ["d", "e"],
    metrics: ["m"],
    rows: Array.from({ length: rows }, () => ({})),
  });
  const frame = new Frame(raw.buffer);
  const body = frame.time.byteOffset;
  const column = COLUMNS.indexOf(name);
  const parts = COLUMNS.map((other) =>
    other === name ? Uint8Array.from(packed) : new Uint8Array(frame[other].byteLength),
  );
  const block = new Uint8Array(Buffer.concat([raw.subarray(0, body), ...parts]));
  const view = new DataView(block.buffer);
  view.setUint32(Header.length, block.byteLength, true);
  view.setUint8(Header.flags, 1);
  view.setUint8(Header.encodings + column, 1);
  view.setUint32(Header.columnBytes + 4 * column, packed.length, true);
  view.setUint32(Header.crc, crc32c(block.subarray(CRC_START)), true);
  return block;
}

const f64 = (value: number): number[] => [...new Uint8Array(Float64Array.of(value).buffer)];

describe("the specification's example", () => {
  const hex = /```block\n([0-9a-f\s]+)```/.exec(SPEC)?.[1] ?? "";
  const example = Buffer.from(hex.replaceAll(/\s/g, ""), "hex");

  test("is what packing its frame gives, byte for byte", () => {
    expect(Buffer.from(packBlock(exampleFrame(), crc32c)).toString("hex")).toBe(example.toString("hex"));
  });

  test("reads back as its frame", () => {
    expect(readBlock(example, crc32c).buffer).toStrictEqual(exampleFrame().buffer);
  });
});

describe("a block", () => {
  test("is known by its first bytes", () => {
    expect(looksLikeBlock(packBlock(exampleFrame(), crc32c))).toBe(true);
    expect(looksLikeBlock(Buffer.from('{"v":1}'.padEnd(HEADER_BYTES)))).toBe(false);
    expect(looksLikeBlock(Buffer.from("WBLK"))).toBe(false);
  });

  test("that is raw is read too, with and without a checksum", () => {
    const raw = new Uint8Array(exampleFrame().buffer);
    expect(readBlock(raw, crc32c).buffer).toStrictEqual(raw.buffer);
    new DataView(raw.buffer).setUint8(Header.flags, 1);
    expect(() => readBlock(raw, crc32c)).toThrow("checksum does not match");
    new DataView(raw.buffer).setUint32(Header.crc, crc32c(raw.subarray(CRC_START)), true);
    expect(readBlock(raw, crc32c).rows).toBe(4);
  });

  test("does not share memory with the bytes it was read from", () => {
    const block = packBlock(exampleFrame(), crc32c);
    const frame = readBlock(block, crc32c);
    block.fill(0xff);
    expect(frame.buffer).toStrictEqual(exampleFrame().buffer);
  });

  test("is the caller's own: packing another does not change it", () => {
    const block = packBlock(exampleFrame(), crc32c);
    const copy = Uint8Array.from(block);
    packBlock(Frame.empty(), crc32c);
    expect(block).toEqual(copy);
  });

  test("of a later version is refused with both versions named", () => {
    const block = packBlock(exampleFrame(), crc32c);
    block[Header.version] = 2;
    expect(() => readBlock(block, crc32c)).toThrow("block version 2, this reads 1");
  });

  test("leaves a column raw where packing would not make it smaller", () => {
    const builder = new FrameBuilder();
    const [device, metric] = [builder.device("d"), builder.metric("m")];
    for (const status of [0, 1, 2, 3])
      builder.add(device, metric, (status % 2) * Number.MAX_SAFE_INTEGER, Kind.number, status, 1);
    const block = packBlock(builder.build(), crc32c);
    expect([...block.subarray(Header.encodings, Header.encodings + 6)]).toEqual([0, 1, 1, 1, 1, 0]);
  });
});

describe("a packed column is refused when", () => {
  const time = (exponent: number, base: number, ...steps: number[]): number[] => [
    exponent,
    ...f64(base),
    ...steps,
  ];
  // varint(2 * zigzag(2^51 - 1)): the largest step
  const large = [0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
  test.each<[string, Parameters<typeof withColumn>, RegExp]>([
    ["it ends early", ["device", [0, 0]], /ends early/],
    ["bytes are left over", ["device", [0, 0, 0, 0]], /left over/],
    ["a run of steps is too long", ["device", [1, 2]], /does not fit/],
    ["a step leaves the dictionary", ["device", [0, 8, 0]], /row 1: .*out of its column's range/],
    ["a step goes below 0", ["device", [2, 0, 0]], /row 0: .*out of its column's range/],
    [
      "a step goes round below 0",
      ["device", [0xfe, 0xff, 0xff, 0xff, 0x3f, 0, 0]],
      /row 0: .*out of its column's range/,
    ],
    [
      "a step goes round above 2^32",
      ["device", [0x80, 0x80, 0x80, 0x80, 0x40, 0, 0]],
      /row 0: .*out of its column's range/,
    ],
    ["a varint is over 8 bytes", ["metric", [128, 128, 128, 128, 128, 128, 128, 128, 0]], /over 2\^53/],
    ["a varint is 2^53", ["metric", [128, 128, 128, 128, 128, 128, 128, 16]], /over 2\^53/],
    ["time's exponent is 10", ["time", time(10, 0, 1, 1)], /unknown exponent 10 of time/],
    ["time's base is a fraction", ["time", time(0, 0.5, 1, 1)], /base of time/],
    ["time's base is not a number", ["time", time(0, Number.NaN, 1, 1)], /base of time/],
    ["time's base is cut short", ["time", [0, 1, 2]], /ends early/],
    ["time leaves 2^53 by its exponent", ["time", time(9, 2 ** 40, 1, 1)], /row 0: .*range/],
    ["time leaves 2^53 by its steps", ["time", time(0, 2 ** 53 - 1, ...large, 1, 0)], /row 0: .*range/],
    ["a metric's exponent is 10", ["value", [10, 0, 0, 0]], /metric 0: unknown exponent 10/],
    [
      "a value leaves 2^53",
      ["value", [0, ...new Array(3).fill([254, 255, 255, 255, 255, 255, 255, 15]).flat()]],
      /over 2\^53/,
    ],
    ["a raw value is cut short", ["value", [255, ...f64(1), ...f64(2), 0]], /ends early/],
    ["a raw value is -0", ["value", [255, ...f64(1), ...f64(-0), ...f64(1)]], /row 1: value/],
    ["a run is empty", ["kind", [0, 0]], /does not fit/],
    ["a run is too long", ["kind", [0, 4]], /does not fit/],
    ["a kind is unknown", ["kind", [6, 3]], /kind 6/],
    ["a status is unknown", ["status", [64, 3]], /unknown status/],
  ])("%s", (_, parts, reason) => {
    expect(() => readBlock(withColumn(...parts), crc32c)).toThrow(reason);
  });

  test("and not when it is in order", () => {
    expect([...readBlock(withColumn("device", [0, 4, 2]), crc32c).device]).toEqual([0, 1, 0]);
    expect([...readBlock(withColumn("time", time(3, -1, 0, 5, 0)), crc32c).time]).toEqual([-1000, 0, 1000]);
    expect([...readBlock(withColumn("value", [1, 2, 2, 3]), crc32c).value]).toEqual([0.1, 0.2, 0]);
    // A long form of a varint is taken, though no writer makes one.
    expect([...readBlock(withColumn("status", [1, 0x83, 0]), crc32c).status]).toEqual([1, 1, 1]);
  });

  test("it would unpack to more than a frame may have", () => {
    const texts = Array.from({ length: 62 }, (_, i) => String(i).padStart(65_536, "x"));
    const builder = new FrameBuilder();
    for (const text of texts) builder.text(text);
    const block = packBlock(builder.build(), crc32c);
    const view = new DataView(block.buffer);
    view.setUint32(Header.rows, 65_536, true);
    const packed = new Uint8Array(Buffer.concat([block, new Uint8Array(6)]));
    const header = new DataView(packed.buffer);
    header.setUint32(Header.length, packed.byteLength, true);
    for (let i = 0; i < 6; i++) {
      header.setUint8(Header.encodings + i, 1);
      header.setUint32(Header.columnBytes + 4 * i, 1, true);
    }
    header.setUint32(Header.crc, crc32c(packed.subarray(CRC_START)), true);
    expect(() => readBlock(packed, crc32c)).toThrow(/unpacks to \d+ bytes, the limit is 4194304/);
  });
});

describe("the decoder in Python that the specification names", () => {
  test("prints the example", () => {
    const reader = new URL("../../docs/recipes/read_block.py", import.meta.url).pathname;
    const block = packBlock(exampleFrame(), crc32c);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(block.byteLength);
    const { stdout, status } = spawnSync("python3", [reader, "--stream"], {
      input: Buffer.concat([length, block]),
      encoding: "utf8",
    });
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      devices: ["pump-1", "pump-2"],
      units: ["Cel", "", ""],
      value: [71.2, 1, 68.9, 0],
    });
  });
});
