import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Frame, Kind, Status, validate } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { cborToJson } from "../../src/sources/cbor.ts";
import { type DeviceRule, deviceRuleSchema } from "../../src/sources/options.ts";
import { Router } from "../../src/sources/router.ts";
import { RuleDecoder } from "../../src/sources/rules.ts";

const NOW_US = 1_700_000_000_000_000;
const rules = (options: object): DeviceRule[] => [
  deviceRuleSchema.parse({ topic: "d/{device}", ...options }),
];

function decode(payload: Uint8Array, options: object): Frame | string {
  const list = rules(options);
  const { route } = new Router(list).resolve("d/a");
  if (route === undefined) throw new Error("no route");
  const builder = new FrameBuilder();
  const message = {
    topic: "d/a",
    route,
    payload,
    timeUs: NOW_US,
    qos: 1,
    retained: false,
    settle: undefined,
  } as const;
  const reason = new RuleDecoder(list).decode(message, builder);
  expect(builder.rows === 0).toBe(reason !== undefined);
  const frame = builder.build();
  validate(frame);
  return reason ?? frame;
}

function rowsOf(frame: Frame | string): unknown[][] {
  if (typeof frame === "string") throw new Error(frame);
  return Array.from(frame.value, (value, row) => {
    const m = frame.metric[row] ?? 0;
    const kind = frame.kind[row];
    const cell =
      kind === Kind.text
        ? frame.texts[value]
        : kind === Kind.bytes
          ? Buffer.from(frame.blobs[value] ?? []).toString()
          : kind === Kind.boolean
            ? value === 1
            : value;
    return [frame.metrics[m], frame.units[m], frame.time[row], frame.status[row], cell];
  });
}

const senml = (pack: unknown) =>
  decode(Buffer.from(typeof pack === "string" ? pack : JSON.stringify(pack)), { decoder: "senml" });
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(" ", ""), "hex");

describe("SenML", () => {
  it("the example with base fields resolves as RFC 8428 says (5.1.2)", () => {
    const frame = senml([
      {
        bn: "urn:dev:ow:10e2073a0108006:",
        bt: 1.276020076001e9,
        bu: "A",
        bver: 5,
        n: "voltage",
        u: "V",
        v: 120.1,
      },
      { n: "current", t: -5, v: 1.2 },
      { n: "current", v: 1.7 },
    ]);
    expect(rowsOf(frame)).toEqual([
      ["urn:dev:ow:10e2073a0108006:voltage", "V", 1_276_020_076_001_000, 0, 120.1],
      ["urn:dev:ow:10e2073a0108006:current", "A", 1_276_020_071_001_000, 0, 1.2],
      ["urn:dev:ow:10e2073a0108006:current", "A", 1_276_020_076_001_000, 0, 1.7],
    ]);
  });

  it("times are relative to the arrival when small, values of every type, units in UCUM", () => {
    const g = Status.gatewayTime;
    const frame = senml([
      { n: "t", u: "%RH", v: 20, t: -2 },
      { n: "on", vb: true },
      { n: "name", vs: "\u00e9" },
      { n: "raw", vd: "aGk" },
      { n: "energy", u: "kWh", v: 3, s: 7 },
      { bv: 10, n: "offset", v: 1 },
    ]);
    expect(rowsOf(frame)).toEqual([
      ["t", "%{RH}", NOW_US - 2_000_000, g, 20],
      ["on", "", NOW_US, g, true],
      ["name", "", NOW_US, g, "\u00e9"],
      ["raw", "", NOW_US, g, "hi"],
      ["energy", "kW.h", NOW_US, g, 3],
      ["energy.sum", "kW.h", NOW_US, g, 7],
      ["offset", "", NOW_US, g, 11],
    ]);
  });

  for (const [what, pack, reason] of [
    ["an object", { n: "a", v: 1 }, "is an array"],
    ["a later version", [{ bver: 11, n: "a", v: 1 }], "SenML version 11"],
    ["a field that must be understood", [{ n: "a", v: 1, secret_: 1 }], "must be understood"],
    ["two values", [{ n: "a", v: 1, vs: "x" }], "more than one value"],
    ["no name", [{ v: 1 }], "name that is empty"],
    ["a value of another type", [{ n: "a", v: "1" }], "no finite number as v"],
    ["only base fields", [{ bn: "a" }], "no values"],
    ["a number beyond a double", '[{"n":"a","v":1e400}]', "no finite number"],
    ["a sum beyond a double", [{ bv: 1e308, n: "a", v: 1e308 }], "beyond a double"],
    ["a NUL in the name", [{ n: "a\0", v: 1 }], "control character"],
    ["too many records", Array.from({ length: 2049 }, () => ({ n: "a", v: 1 })), "more than 2048"],
    ["depth 100,000", "[".repeat(100_000) + "]".repeat(100_000), "is no object"],
    ["a time that is far away", [{ n: "a", v: 1, t: 1e300 }], "after 2200"],
  ] as const) {
    it(`${what} is rejected as a whole: ${reason}`, () => expect(senml(pack)).toContain(reason));
  }

  it("of any JSON comes a valid frame or a reason", () => {
    const field = fc.constantFrom(
      "bn",
      "bt",
      "bu",
      "bv",
      "bs",
      "bver",
      "n",
      "u",
      "v",
      "vs",
      "vb",
      "vd",
      "s",
      "t",
      "__proto__",
    );
    const value = fc.oneof(
      fc.double(),
      fc.string({ maxLength: 5 }),
      fc.boolean(),
      fc.constant("a"),
      fc.integer(),
    );
    fc.assert(
      fc.property(fc.array(fc.dictionary(field, value), { maxLength: 5 }), (pack) => void senml(pack)),
      { numRuns: 2000 },
    );
  });
});

describe("CBOR", () => {
  for (const [bytes, json] of [
    ["00", "0"],
    ["1bffffffffffffffff", "18446744073709551615"],
    ["3903e7", "-1000"],
    ["f93c00", "1"],
    ["f90001", "5.960464477539063e-8"],
    ["fb3ff199999999999a", "1.1"],
    ["fa47c35000", "100000"],
    ["f4", "false"],
    ["f6", "null"],
    ["4401020304", '"AQIDBA"'],
    ["62 c3bc", '"\u00fc"'],
    ["83010203", "[1,2,3]"],
    ["a201020304", '{"1":2,"3":4}'],
    ["a26161016162820203", '{"a":1,"b":[2,3]}'],
    ["5f42010243030405ff", '"AQIDBAU"'],
    ["9f018202039f0405ffff", "[1,[2,3],[4,5]]"],
    ["bf6346756ef563416d7421ff", '{"Fun":true,"Amt":-2}'],
    ["c11a514b67b0", "1363896240"],
  ] as const) {
    it(`${bytes} stands for ${json} (RFC 8949, appendix A)`, () => expect(cborToJson(hex(bytes))).toBe(json));
  }

  for (const [what, bytes, reason] of [
    ["nothing", "", "ends early"],
    ["a text that ends early", "7b7fffffffffffffff61", "ends early"],
    ["an array that claims 2^32 items", "9affffffff", "more than 16384 items"],
    ["arrays 100,000 deep", "81".repeat(100_000), "deeper than 32"],
    ["tags 100,000 deep", "c1".repeat(100_000), "deeper than 32"],
    ["a bignum", "c249010000000000000000", "bignum"],
    ["NaN", "f97e00", "finite"],
    ["bytes after it", "0000", "bytes after"],
    ["a break where none belongs", "ff", "simple value"],
    ["text that is not UTF-8", "61ff", "not UTF-8"],
    ["an array as a key", "a18001", "a key that is neither"],
  ] as const) {
    it(`${what} is rejected: ${reason}`, () => {
      expect(cborToJson(hex(bytes))).toMatchObject({ reason: expect.stringContaining(reason) });
      expect(decode(hex(bytes), { decoder: "cbor" })).toEqual(expect.any(String));
    });
  }

  it("a message goes through the same rules as JSON: names, times, exact integers, __proto__", () => {
    const frame = decode(
      hex(
        "a4 61 74 1a 691f0200 61 76 fb3ff199999999999a 62 6964 1b0020000000000001 69 5f5f70726f746f5f5f 01",
      ),
      {
        decoder: "cbor",
        time: "$.t",
      },
    );
    const timeUs = 0x691f0200 * 1e6;
    expect(rowsOf(frame)).toEqual([
      ["v", "", timeUs, 0, 1.1],
      ["id", "", timeUs, 0, "9007199254740993"],
      ["__proto__", "", timeUs, 0, 1],
    ]);
  });

  it("never throws, and what comes out is JSON, of any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        const json = cborToJson(bytes);
        if (typeof json === "string") JSON.parse(json);
        decode(bytes, { decoder: "cbor" });
      }),
      { numRuns: 5000 },
    );
  });
});
