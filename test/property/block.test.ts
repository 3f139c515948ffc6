import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { crc32cTable as crc32c } from "../../src/addon/crc32c.ts";
import { packBlock, readBlock } from "../../src/core/block.ts";
import { CRC_START, FrameLimits, Header } from "../../src/core/block-header.ts";
import { WeirError } from "../../src/core/errors.ts";
import { type Frame, Kind, validate } from "../../src/core/frame.ts";
import {
  damaged,
  frameOf,
  HOSTILE_NUMBERS,
  type ModelRow,
  rowsOf,
  someDamage,
  someRows,
} from "./frame-arbitrary.ts";

/** The frame of a block, or undefined when it is refused as it should be; any other error fails the test. */
function tryRead(bytes: Uint8Array): Frame | undefined {
  try {
    return readBlock(bytes, crc32c);
  } catch (error) {
    if (error instanceof WeirError && error.code === "frame.invalid") return undefined;
    throw error;
  }
}

/** Makes the checksum right again, as a hostile sender would. */
function sealed(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (bytes.byteLength >= CRC_START)
    new DataView(bytes.buffer).setUint32(Header.crc, crc32c(bytes.subarray(CRC_START)), true);
  return bytes;
}

const row = (part: Partial<ModelRow>): ModelRow => ({
  device: "d",
  metric: "m",
  unit: "",
  timeUs: 0,
  kind: Kind.number,
  status: 0,
  value: 0,
  ...part,
});

/** Reads back the very bytes of the frame, and is never larger. */
function expectExact(rows: readonly ModelRow[]): void {
  const frame = frameOf(rows);
  const block = packBlock(frame, crc32c);
  expect(block.byteLength).toBeLessThanOrEqual(frame.byteLength);
  const read = readBlock(block, crc32c);
  expect(Buffer.from(read.buffer).equals(Buffer.from(frame.buffer))).toBe(true);
}

describe("a packed block", () => {
  test("gives back the very bytes of the frame, and is never larger than they are", () => {
    fc.assert(fc.property(someRows, expectExact), { numRuns: 500 });
  });

  test("keeps every hostile number, alone and in company of its metric", () => {
    for (const value of HOSTILE_NUMBERS) {
      expectExact([row({ value })]);
      expectExact([row({ value: 71.2 }), row({ value }), row({ value: -3 }), row({ value: 0.000_000_001 })]);
      expectExact(HOSTILE_NUMBERS.map((other) => row({ value: other })).concat(row({ value })));
    }
  });

  test("keeps times at the ends of their range, and those that go back", () => {
    const { MAX_SAFE_INTEGER: most } = Number;
    const ends = [
      0,
      -1,
      1,
      most,
      -most,
      most - 1,
      1 - most,
      2 ** 52,
      -(2 ** 52),
      2 ** 51,
      999_999,
      -1_000_000,
      1_763_640_000_000_000,
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...ends), { maxLength: 6 }), (times) => {
        expectExact(times.map((timeUs) => row({ timeUs })));
      }),
      { numRuns: 500 },
    );
  });

  test("holds a frame at the limits, in both directions", () => {
    const rows = Array.from({ length: FrameLimits.rows }, (_, i) =>
      row({
        device: `d${(i * 7919) % 1000}`,
        metric: `m${(i * 31) % 97}`,
        timeUs: i % 2 === 0 ? i : -i,
        value: Math.sin(i),
        status: i % 64,
      }),
    );
    expectExact(rows);
  });

  test("with any single bit turned is refused", () => {
    fc.assert(
      fc.property(someRows, (rows) => {
        const block = packBlock(frameOf(rows.slice(0, 12)), crc32c);
        for (let bit = 0; bit < 8 * block.byteLength; bit++) {
          block[bit >> 3] = (block[bit >> 3] ?? 0) ^ (1 << (bit & 7));
          if (tryRead(block) !== undefined) throw new Error(`bit ${bit} was not noticed`);
          block[bit >> 3] = (block[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        }
        expect(tryRead(block)).toBeDefined();
      }),
      { numRuns: 20 },
    );
  });

  test("cut short anywhere, or with bytes after its end, is refused", () => {
    fc.assert(
      fc.property(someRows, fc.uint8Array({ minLength: 1, maxLength: 9 }), (rows, more) => {
        const block = packBlock(frameOf(rows.slice(0, 12)), crc32c);
        for (let length = 0; length < block.byteLength; length++)
          expect(tryRead(sealed(block.slice(0, length)))).toBeUndefined();
        expect(tryRead(sealed(new Uint8Array(Buffer.concat([block, more]))))).toBeUndefined();
      }),
      { numRuns: 30 },
    );
  });

  test("damaged and sealed again is a valid frame within the limits, or frame.invalid", () => {
    let valid = 0;
    let refused = 0;
    fc.assert(
      fc.property(someRows, fc.array(someDamage, { minLength: 1, maxLength: 3 }), (rows, damages) => {
        const frame = tryRead(sealed(damages.reduce(damaged, packBlock(frameOf(rows), crc32c))));
        if (frame === undefined) {
          refused += 1;
          return;
        }
        valid += 1;
        validate(frame);
        expect(frame.byteLength).toBeLessThanOrEqual(FrameLimits.bytes);
        expectExact(rowsOf(frame));
      }),
      { numRuns: 3000 },
    );
    // Both happen, or the test would show nothing.
    expect(valid).toBeGreaterThan(20);
    expect(refused).toBeGreaterThan(20);
  });

  test("with columns of noise is a valid frame or frame.invalid", () => {
    fc.assert(
      fc.property(someRows, fc.uint8Array({ minLength: 64, maxLength: 64 }), (rows, noise) => {
        const block = packBlock(frameOf(rows), crc32c);
        const frame = frameOf(rows);
        for (let at = frame.time.byteOffset; at < block.byteLength; at++)
          block[at] = noise[at % noise.byteLength] ?? 0;
        const read = tryRead(sealed(block));
        if (read !== undefined) validate(read);
      }),
      { numRuns: 1000 },
    );
  });
});
