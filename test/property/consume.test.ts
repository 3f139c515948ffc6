import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Deduper } from "../../src/consume/dedupe.ts";
import { readGap } from "../../src/consume/gap.ts";

const span = (seq: number, length: number) => ({
  gateway: "g",
  epoch: "e",
  stream: "data",
  seq,
  span: length,
});

describe("dedupe by key", () => {
  it("gives the verdict and the holes that a set of every single number gives", () => {
    const ranges = fc.array(fc.tuple(fc.nat(120), fc.integer({ min: 1, max: 12 })), { maxLength: 60 });
    fc.assert(
      fc.property(ranges, (list) => {
        const deduper = new Deduper();
        const seen = new Set<number>();
        for (const [seq, length] of list) {
          const numbers = Array.from({ length }, (_, i) => seq + i);
          const before = numbers.filter((number) => seen.has(number)).length;
          const verdict = before === 0 ? "new" : before === length ? "duplicate" : "overlap";
          expect(deduper.take(span(seq, length))).toBe(verdict);
          for (const number of numbers) seen.add(number);
        }
        const missing = deduper
          .holes()
          .flatMap(({ from, to }) => Array.from({ length: to - from + 1 }, (_, i) => from + i));
        const most = Math.max(-1, ...seen);
        expect(missing).toEqual(
          Array.from({ length: most + 1 }, (_, i) => i).filter((number) => !seen.has(number)),
        );
      }),
    );
  });

  it("stays bounded under holes and under new epochs, and says what it gave up", () => {
    const deduper = new Deduper({ series: 2, intervals: 3 });
    for (let i = 0; i < 10; i++) deduper.take(span(i * 10, 1));
    expect(deduper.holes()).toHaveLength(2);
    expect(deduper.givenUp).toBe(7 * 9);
    expect(deduper.take(span(0, 1))).toBe("duplicate");
    for (const epoch of ["a", "b"]) deduper.take({ ...span(0, 1), epoch });
    expect(deduper.take(span(0, 1))).toBe("new");
  });

  it("refuses numbers that are none", () => {
    for (const [seq, length] of [
      [-1, 1],
      [0, 0],
      [0.5, 1],
      [2 ** 53, 1],
      [Number.NaN, 1],
    ] as const)
      expect(() => new Deduper().take(span(seq, length))).toThrow(RangeError);
  });
});

it("an announced gap is read, and anything else is not", () => {
  const gap = { v: 1, gateway: "g", epoch: "e", stream: "data", from: 3, to: 5, reason: "ttl" };
  const bytes = (value: unknown) => Buffer.from(JSON.stringify(value));
  expect(readGap(bytes(gap))).toEqual({ ...span(3, 3), reason: "ttl" });
  for (const wrong of [null, [], { ...gap, from: 6 }, { ...gap, from: -1 }, { ...gap, v: 2 }, 7])
    expect(readGap(bytes(wrong))).toBeUndefined();
  fc.assert(
    fc.property(fc.uint8Array(), (any) => {
      readGap(any);
    }),
  );
});
