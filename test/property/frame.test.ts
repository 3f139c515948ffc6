import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { WeirError } from "../../src/core/errors.ts";
import { deviceProblem, Frame, nameProblem, utf8Length, validate } from "../../src/core/frame.ts";
import { concat, FrameBuilder, select, slice } from "../../src/core/frame-builder.ts";
import { rawBlock } from "../helpers/raw-block.ts";
import { addRows, damaged, frameOf, rowsOf, someDamage, someRows } from "./frame-arbitrary.ts";

const bytesOf = (frame: Frame): Uint8Array<ArrayBuffer> => new Uint8Array(frame.buffer.slice(0));

/** Any UTF-16 at all: lone surrogates, pairs, controls. */
const utf16 = fc
  .array(fc.oneof(fc.nat(0x2ff), fc.integer({ min: 0xd7ff, max: 0xe001 }), fc.nat(0xffff)), {
    maxLength: 300,
  })
  .map((units) => String.fromCharCode(...units));

/** Whether the check of bytes from outside lets them pass; anything but `frame.invalid` fails the test. */
function accepts(bytes: Uint8Array<ArrayBuffer>): boolean {
  try {
    Frame.fromRaw(bytes);
    return true;
  } catch (error) {
    if (error instanceof WeirError && error.code === "frame.invalid") return false;
    throw error;
  }
}

describe("a frame", () => {
  test("comes back from its bytes as it was built", () => {
    fc.assert(
      fc.property(someRows, (rows) => {
        const built = frameOf(rows);
        const read = Frame.fromRaw(bytesOf(built));
        expect(rowsOf(built)).toEqual(rows);
        expect(rowsOf(read)).toEqual(rows);
        expect(read.dictionaries).toEqual(built.dictionaries);
      }),
    );
  });

  test("is as large as its builder said", () => {
    fc.assert(
      fc.property(someRows, (rows) => {
        const builder = new FrameBuilder(1);
        addRows(builder, rows);
        const expected = builder.byteLength;
        expect(builder.build().byteLength).toBe(expected);
      }),
    );
  });

  test("is read from any place in a larger buffer", () => {
    fc.assert(
      fc.property(someRows, fc.nat(9), (rows, offset) => {
        const raw = bytesOf(frameOf(rows));
        // A Buffer, as sockets give them: its slice() would not copy.
        const pool = Buffer.alloc(offset + raw.byteLength + 3, 0xaa);
        pool.set(raw, offset);
        const frame = Frame.fromRaw(pool.subarray(offset, offset + raw.byteLength));
        pool.fill(0xbb);
        expect(rowsOf(frame)).toEqual(rows);
      }),
    );
  });

  test("from damaged bytes is valid or refused as frame.invalid, never anything else", () => {
    fc.assert(
      fc.property(someRows, fc.array(someDamage, { minLength: 1, maxLength: 3 }), (rows, damages) => {
        const bytes = damages.reduce(damaged, bytesOf(frameOf(rows)));
        if (!accepts(bytes)) return;
        const frame = Frame.fromRaw(bytes);
        expect(rowsOf(concat([frame, Frame.empty()]))).toEqual(rowsOf(frame));
      }),
      { numRuns: 1000 },
    );
  });

  test("cut short anywhere is refused", () => {
    fc.assert(
      fc.property(someRows, fc.double({ min: 0, max: 0.9999, noNaN: true }), (rows, part) => {
        const bytes = bytesOf(frameOf(rows));
        expect(accepts(bytes.slice(0, Math.floor(part * bytes.byteLength)))).toBe(false);
      }),
    );
  });
});

describe("cutting and joining frames", () => {
  test("slice gives those rows and no entry that they do not use", () => {
    fc.assert(
      fc.property(someRows, fc.nat(60), fc.nat(60), (rows, a, b) => {
        const [from, to] = [Math.min(a, b, rows.length), Math.min(Math.max(a, b), rows.length)];
        const part = slice(frameOf(rows), from, to);
        validate(part);
        expect(rowsOf(part)).toEqual(rows.slice(from, to));
        expect(part.byteLength).toBe(frameOf(rows.slice(from, to)).byteLength);
      }),
    );
  });

  test("select gives the rows that were marked, in order", () => {
    fc.assert(
      fc.property(someRows, fc.infiniteStream(fc.boolean()), (rows, marks) => {
        const keep = Uint8Array.from(rows, () => (marks.next().value ? 1 : 0));
        const part = select(frameOf(rows), keep);
        const kept = rows.filter((_, row) => keep[row] === 1);
        validate(part);
        expect(rowsOf(part)).toEqual(kept);
        expect(part.byteLength).toBe(frameOf(kept).byteLength);
      }),
    );
  });

  test("concat gives the rows of each in turn, over merged dictionaries", () => {
    fc.assert(
      fc.property(fc.array(someRows, { maxLength: 4 }), (parts) => {
        const whole = concat(parts.map(frameOf));
        validate(whole);
        expect(rowsOf(whole)).toEqual(parts.flat());
      }),
    );
  });
});

describe("a builder", () => {
  test("that was used before builds the same bytes as a new one", () => {
    fc.assert(
      fc.property(someRows, someRows, (before, rows) => {
        const builder = new FrameBuilder(1);
        addRows(builder, before);
        const first = builder.build();
        addRows(builder, rows);
        expect(builder.build().buffer).toStrictEqual(frameOf(rows).buffer);
        expect(rowsOf(first)).toEqual(before);
      }),
    );
  });
});

describe("names", () => {
  test("have the length in bytes that the encoder gives them", () => {
    fc.assert(
      fc.property(utf16, (text) => {
        expect(utf8Length(text)).toBe(Buffer.byteLength(text));
      }),
    );
  });

  test("are judged alike as strings and as bytes", () => {
    const name = fc.oneof(
      fc.string({ unit: "binary", maxLength: 300 }),
      fc.string({ unit: "binary-ascii", maxLength: 300 }),
    );
    fc.assert(
      fc.property(name, (text) => {
        expect(accepts(rawBlock({ devices: [text] }))).toBe(deviceProblem(text) === undefined);
        expect(accepts(rawBlock({ metrics: [text] }))).toBe(nameProblem(text) === undefined);
        expect(accepts(rawBlock({ metrics: ["m"], units: [text] }))).toBe(
          text === "" || nameProblem(text) === undefined,
        );
      }),
      { numRuns: 500 },
    );
  });

  test("with a lone surrogate are refused, and texts with one hold U+FFFD", () => {
    fc.assert(
      fc.property(utf16, (text) => {
        fc.pre(!text.isWellFormed());
        expect(nameProblem(text)).toBeDefined();
        expect(() => new FrameBuilder().device(text)).toThrow(WeirError);
        const builder = new FrameBuilder();
        expect(builder.text(text)).toBe(builder.text(text.toWellFormed()));
        expect(Frame.fromRaw(bytesOf(builder.build())).texts).toEqual([text.toWellFormed()]);
      }),
    );
  });

  test("in bytes that are not UTF-8 are refused", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 8 }), (bytes) => {
        const decoded = Buffer.from(bytes).toString("utf8");
        const isUtf8 = Buffer.from(decoded).equals(bytes);
        expect(accepts(rawBlock({ texts: [bytes] }))).toBe(isUtf8);
        expect(accepts(rawBlock({ devices: [bytes] }))).toBe(isUtf8 && deviceProblem(decoded) === undefined);
      }),
      { numRuns: 1000 },
    );
  });

  test("that repeat are found exactly when they do", () => {
    const few = fc.string({ unit: fc.constantFrom("a", "b", "é"), maxLength: 3 });
    const entries = fc.array(few, { maxLength: 12 });
    const pairs = fc.array(
      fc.tuple(
        few.filter((name) => name !== ""),
        few,
      ),
      { maxLength: 8 },
    );
    fc.assert(
      fc.property(entries, pairs, (texts, metrics) => {
        expect(accepts(rawBlock({ texts }))).toBe(new Set(texts).size === texts.length);
        const blobs = texts.map((entry) => Buffer.from(entry));
        expect(accepts(rawBlock({ blobs }))).toBe(new Set(texts).size === texts.length);
        const block = rawBlock({
          metrics: metrics.map(([name]) => name),
          units: metrics.map(([, unit]) => unit),
        });
        expect(accepts(block)).toBe(new Set(metrics.map((pair) => pair.join("|"))).size === metrics.length);
      }),
      { numRuns: 500 },
    );
  });
});
