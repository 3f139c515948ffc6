import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import type { DeviceMessage } from "../../src/core/ports.ts";
import { DeviceDecoder } from "../../src/sources/decode.ts";
import { type DeviceRule, deviceRuleSchema } from "../../src/sources/options.ts";

const RULES = [
  deviceRuleSchema.parse({ topic: "devices/{device}/{channel}" }),
  deviceRuleSchema.parse({ topic: "t/{device}", time: "$.Time" }),
  deviceRuleSchema.parse({ topic: "a/{device}", values: "$.object", time: "$.time" }),
];

/** What lies behind a payload in what was read: it could go on any value. */
const BEHIND = ['2"}', "}", '"', "1.5e3}"].map((text) => Buffer.from(text));

const message = (payload: Uint8Array, rule = 0): DeviceMessage => ({
  topic: "devices/d/c",
  route: { device: "d", channel: "c", plugin: undefined, rule },
  payload,
  bytes: Buffer.concat([Buffer.from("{1"), payload, BEHIND[payload.length % BEHIND.length] ?? payload]),
  from: 2,
  to: 2 + payload.length,
  timeUs: 1_763_640_000_000_000,
  qos: 1,
  retained: false,
  settle: undefined,
});

/** What a decoder makes of the payloads, one after the other. */
function decoded(
  decoder: (rules: DeviceRule[]) => DeviceDecoder[],
  payloads: readonly Uint8Array[],
  rule: number,
) {
  const builder = new FrameBuilder();
  const decoders = decoder(RULES);
  const answers = payloads.map((payload, i) => {
    const problem = decoders[i % decoders.length]?.decode(message(payload, rule), builder);
    return problem?.replace(/position.*/, "");
  });
  const { buffer } = builder.build();
  return { answers, bytes: Buffer.from(buffer).toString("base64") };
}

/** One decoder for all of them learns and scans; a fresh one for each never does. */
function same(payloads: readonly Uint8Array[], rule: number): void {
  const scanned = decoded((rules) => [new DeviceDecoder(rules)], payloads, rule);
  const plain = decoded((rules) => payloads.map(() => new DeviceDecoder(rules)), payloads, rule);
  expect(scanned).toEqual(plain);
}

const scalar = fc.oneof(
  fc.integer(),
  fc.double(),
  fc.maxSafeInteger(),
  fc.string({ unit: "grapheme", maxLength: 8 }),
  fc.constantFrom("2026-01-01T00:00:00Z", "ON", "", "\\", '"', "é", null, true, false, 0, -0, 1e21, 5e-324),
);
const number = fc.constantFrom(
  "-0",
  "0.1",
  "1e3",
  "1E-2",
  "-0.0",
  "123456789012345678",
  "9007199254740993",
  "1e400",
);
const odd = fc.constantFrom(
  "01",
  "+1",
  "1.",
  ".5",
  "-",
  "1e",
  "NaN",
  "tru",
  "nulll",
  '"a',
  '"\\u00e9"',
  '"\u0001"',
  "[]",
  "{}",
);
const blank = fc.constantFrom("", " ", "\n", "\t ", "\v");

/** Texts of one structure, with other values and now and then something else in a value's place. */
const family = fc
  .record({
    keys: fc.uniqueArray(fc.constantFrom("a", "b", "é", "__proto__", "x y", "Time", "1", "temp"), {
      minLength: 1,
      maxLength: 4,
    }),
    separators: fc.array(blank, { minLength: 8, maxLength: 8 }),
    rows: fc.array(
      fc.array(
        fc.oneof({ weight: 6, arbitrary: scalar.map((value) => JSON.stringify(value)) }, number, odd),
        {
          minLength: 4,
          maxLength: 4,
        },
      ),
      { minLength: 2, maxLength: 12 },
    ),
    nested: fc.constantFrom("", "o", "l"),
    end: fc.array(blank, { minLength: 12, maxLength: 12 }),
  })
  .map(({ keys, separators, rows, nested, end }) =>
    rows.map((values, row) => {
      const members = keys.map(
        (key, i) => `${separators[i]}${JSON.stringify(key)}${separators[i + 4]}:${values[i]}`,
      );
      const inner = nested === "o" ? `{${members[0]}}` : `[${values[0]},${values[1]}]`;
      const all = nested === "" ? members : [`"n":${inner}`, ...members];
      return Buffer.from(`{${all.join(",")}}${end[row]}`);
    }),
  );

describe("the scanner", () => {
  it("makes of every message what the decoder makes of it, whatever came before", () => {
    fc.assert(
      fc.property(family, fc.constantFrom(0, 1), (payloads, rule) => same(payloads, rule)),
      { numRuns: process.env["WEIR_LONG"] === "1" ? 100_000 : 1500 },
    );
  });

  it("also where the values and their time lie inside", () => {
    const wrapped = family.map((payloads) =>
      payloads.map((payload, i) =>
        Buffer.from(
          `{"time":${i % 3 === 0 ? '"2026-01-01T00:00:00Z"' : 1.7e9 + i},"object":${payload},"z":1}`,
        ),
      ),
    );
    fc.assert(
      fc.property(wrapped, (payloads) => same(payloads, 2)),
      { numRuns: 500 },
    );
  });

  it("also when bytes of a message are changed, cut off or added", () => {
    fc.assert(
      fc.property(
        family,
        fc.array(fc.record({ at: fc.nat(80), byte: fc.nat(255), cut: fc.boolean() }), {
          minLength: 12,
          maxLength: 12,
        }),
        (payloads, edits) => {
          const damaged = payloads.flatMap((payload, i) => {
            const bytes = Buffer.from(payload);
            const { at = 0, byte = 0, cut = false } = edits[i] ?? {};
            bytes[at % bytes.length] = byte;
            return [payload, cut ? bytes.subarray(0, at % bytes.length) : bytes];
          });
          same(damaged, 0);
        },
      ),
      { numRuns: 1500 },
    );
  });

  it("gives the decoder's numbers to the last bit", () => {
    const digits = fc.stringMatching(/^-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,3})?$/);
    fc.assert(
      fc.property(fc.array(digits, { minLength: 3, maxLength: 20 }), (numbers) =>
        same(
          numbers.map((text) => Buffer.from(`{"v":${text}}`)),
          0,
        ),
      ),
      { numRuns: 1500 },
    );
  });
});
