import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { milliseconds } from "../../src/uplink/encode-json.ts";
import { JsonWriter } from "../../src/uplink/json-writer.ts";

const RUNS = process.env["WEIR_LONG"] === "1" ? 200_000 : 3_000;
const writer = new JsonWriter();
const taken = (): string => Buffer.from(writer.take()).toString();

/** Numbers as devices send them: few digits, some of them decimals. */
const short = fc
  .tuple(fc.integer({ min: -(10 ** 9), max: 10 ** 9 }), fc.integer({ min: 0, max: 9 }))
  .map(([digits, decimals]) => digits / 10 ** decimals);
const edges = [0, 1e8 - 1, 1e8, 1e8 + 0.5, 999_999_999_999_999, 1e15, 1e21, 1e-6, 1e-7, 5e-324, 0.1 + 0.2];

describe("the writer of JSON", () => {
  it("writes a number as String does", () => {
    const number = fc.oneof(
      short,
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      fc.maxSafeInteger(),
      fc.constantFrom(...edges),
    );
    fc.assert(
      fc.property(number, (value) => {
        writer.number(Float64Array.of(value), 0);
        expect(taken()).toBe(String(value));
      }),
      { numRuns: RUNS },
    );
  });

  it("writes microseconds as milliseconds without losing one", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }), (timeUs) => {
        expect(writer.milliseconds(Float64Array.of(timeUs), 0)).toBe(true);
        expect(taken()).toBe(milliseconds(timeUs));
      }),
      { numRuns: RUNS },
    );
  });
});
