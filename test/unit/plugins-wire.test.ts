/** The plugin host's wire format against chunks of any size and bytes of any kind. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { WeirError } from "../../src/core/errors.ts";
import { readAnswer, readVetted } from "../../src/plugins/vetted.ts";
import {
  decodeResult,
  encodeHead,
  encodeResult,
  MessageReader,
  type ResultFields,
  type WireMessage,
} from "../../src/plugins/wire.ts";
import { FieldReader, FieldWriter } from "../../src/plugins/wire-fields.ts";

const caps = { metaBytes: 1_000, blockBytes: 1_000 };

function readAll(reader: MessageReader, bytes: Uint8Array, sizes: readonly number[]): WireMessage[] {
  const messages: WireMessage[] = [];
  for (let at = 0, i = 0; at < bytes.byteLength; i++) {
    const size = sizes[i % sizes.length] ?? 1;
    reader.push(bytes.subarray(at, at + size), (message) => messages.push(message));
    at += size;
  }
  return messages;
}

const small = fc.uint8Array({ maxLength: 200 });
const message = fc.record({ type: fc.nat(255), id: fc.nat(0xffff_ffff), meta: small, block: small });

test("messages come out as they went in, however the stream is cut", () => {
  fc.assert(
    fc.property(
      fc.array(message, { maxLength: 6 }),
      fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 5 }),
      (messages, sizes) => {
        const bytes = Buffer.concat(
          messages.flatMap(({ type, id, meta, block }) => [
            encodeHead(type, id, meta, block.byteLength),
            block,
          ]),
        );
        const read = readAll(new MessageReader(caps), bytes, sizes);
        expect(
          read.map(({ type, id, meta, block }) => ({ type, id, meta: [...meta], block: [...block] })),
        ).toEqual(
          messages.map(({ type, id, meta, block }) => ({ type, id, meta: [...meta], block: [...block] })),
        );
        // A frame takes the block over: nothing else may share its buffer.
        for (const { block } of read) expect(block.buffer.byteLength).toBe(block.byteLength);
      },
    ),
  );
});

test.each([
  ["fields", encodeHead(66, 1, new Uint8Array(1_001), 0)],
  ["a block", encodeHead(66, 1, new Uint8Array(0), 1_001)],
  ["4 GiB", Buffer.from([66, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])],
])("a header that announces more than the cap of %s is refused before anything is kept for it", (_, head) => {
  expect(() => new MessageReader(caps).push(head, () => {})).toThrow(WeirError);
});

const text = fc.string({ maxLength: 40, unit: "grapheme" });
const result: fc.Arbitrary<ResultFields> = fc.record({
  state: fc.array(fc.record({ scope: text, key: text, value: fc.option(small, { nil: undefined }) }), {
    maxLength: 4,
  }),
  effects: fc.array(
    fc.oneof(
      fc.record({
        type: fc.constant("publish" as const),
        topic: text,
        payload: small,
        qos: fc.constantFrom(0 as const, 1 as const),
        retain: fc.boolean(),
      }),
      fc.record({
        type: fc.constant("alarm" as const),
        device: text,
        code: text,
        active: fc.boolean(),
        severity: fc.constantFrom("info" as const, "warning" as const, "critical" as const),
        message: text,
      }),
    ),
    { maxLength: 4 },
  ),
  rejected: fc.array(fc.record({ index: fc.nat(0xffff_ffff), reason: text }), { maxLength: 4 }),
});

describe("results", () => {
  test("come back as they were", () => {
    fc.assert(
      fc.property(result, (fields) => {
        expect(decodeResult(encodeResult(fields).slice())).toEqual(fields);
      }),
    );
  });

  test("made of any bytes are read or refused, never anything else", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        try {
          decodeResult(bytes.slice());
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(WeirError);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test("with one byte changed are read or refused", () => {
    fc.assert(
      fc.property(result, fc.nat(), fc.integer({ min: 1, max: 255 }), (fields, where, flip) => {
        const bytes = encodeResult(fields).slice();
        fc.pre(bytes.byteLength > 0);
        const at = where % bytes.byteLength;
        bytes[at] = (bytes[at] ?? 0) ^ flip;
        try {
          decodeResult(bytes);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(WeirError);
        }
      }),
    );
  });

  test("with a forged count are refused before anything is allocated for it", () => {
    expect(() => decodeResult(new FieldWriter().u32(0xffff_ffff).done().slice())).toThrow(
      "4294967295 entries",
    );
  });
});

test("fields keep to their caps, their bytes and UTF-8", () => {
  const fields = () => new FieldReader(new FieldWriter().text("12345").done().slice());
  expect(fields().text(5)).toBe("12345");
  expect(() => fields().text(4)).toThrow("the limit is 4");
  expect(() => fields().f64() + fields().f64()).not.toThrow();
  expect(() => fields().end()).toThrow("left over");
  const bad = new FieldReader(
    new FieldWriter()
      .bytes(new Uint8Array([0xff]))
      .done()
      .slice(),
  );
  expect(() => bad.text(9)).toThrow("UTF-8");
});

describe("what a vetting child answers", () => {
  const files = [
    { name: "component.js", size: 1 },
    { name: "component.core.wasm", size: 2 },
  ];
  const exports = { lifecycle: "weir:plugin/lifecycle@0.1.0", transform: "weir:plugin/transform@0.1.0" };
  const good = { ok: true, exports, memories: 1, files };

  test("is read whole, from the child and from the cache", () => {
    expect(readAnswer(good)).toEqual(good);
    expect(readAnswer({ ok: false, reason: "no" })).toEqual({ ok: false, reason: "no" });
    const { ok: _, ...kept } = good;
    expect(readVetted(kept)).toEqual(kept);
  });

  test.each([
    null,
    [],
    "ok",
    { ...good, ok: "yes" },
    { ...good, more: 1 },
    { ok: true, exports, memories: 1 },
    { ok: false },
    { ok: false, reason: "x".repeat(1001) },
    { ...good, ok: false, reason: "both" },
    { ...good, memories: 1.5 },
    { ...good, memories: 65 },
    { ...good, exports: {} },
    { ...good, exports: { ...exports, timer: 1 } },
    { ...good, exports: { ...exports, other: "x" } },
    { ...good, exports: { lifecycle: "x".repeat(101) } },
    { ...good, files: files.slice(1) },
    { ...good, files: Array(101).fill(files[0]) },
    { ...good, files: [...files, { name: "../component.js", size: 1 }] },
    { ...good, files: [...files, { name: "component.core2.wasm", size: 0 }] },
    { ...good, files: [...files, { name: "component.core2.wasm", size: 2 ** 27 }] },
    { ...good, files: [...files, { name: "component.core2.wasm", size: 1, mode: 7 }] },
  ])("is refused: %j", (answer) => expect(() => readAnswer(answer)).toThrow("not what vetting answers"));
});
