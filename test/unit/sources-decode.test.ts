import { describe, expect, it } from "vitest";
import { type Frame, Kind, Status, validate } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { DeviceDecoder } from "../../src/sources/decode.ts";
import { type DeviceRule, deviceRuleSchema, sourcesSchema } from "../../src/sources/options.ts";
import { Router } from "../../src/sources/router.ts";

const ARRIVED_US = 1_700_000_000_000_000;
const KIND_NAMES = Object.keys(Kind);

/** Routes and decodes one message, and answers the frame or the reason. */
function decode(
  topic: string,
  payload: string | Uint8Array,
  rules: readonly DeviceRule[] = sourcesSchema.parse({}).devices,
): Frame | string {
  const { route } = new Router(rules).resolve(topic);
  if (route === undefined) throw new Error(`no rule for ${topic}`);
  const builder = new FrameBuilder();
  const bytes = typeof payload === "string" ? Buffer.from(payload) : payload;
  const message = {
    topic,
    route,
    payload: bytes,
    timeUs: ARRIVED_US,
    qos: 1,
    retained: false,
    settle: undefined,
  } as const;
  const reason = new DeviceDecoder(rules).decode(message, builder);
  if (reason !== undefined) {
    expect(builder.rows).toBe(0);
    return reason;
  }
  const frame = builder.build();
  validate(frame);
  return frame;
}

const cellOf = (frame: Frame, row: number): unknown => {
  const value = frame.value[row] ?? Number.NaN;
  if (frame.kind[row] === Kind.text) return frame.texts[value];
  if (frame.kind[row] === Kind.boolean) return value === 1;
  return frame.kind[row] === Kind.null ? null : value;
};

const samplesOf = (result: Frame | string): [metric: string, value: unknown][] => {
  if (typeof result === "string") throw new Error(result);
  return Array.from({ length: result.rows }, (_, row) => [
    result.metrics[result.metric[row] ?? -1] ?? "",
    cellOf(result, row),
  ]);
};

const rule = (options: object): DeviceRule[] => [deviceRuleSchema.parse({ topic: "d/{device}", ...options })];

describe("JSON", () => {
  it("kinds follow JSON's types and never the value", () => {
    const frame = decode(
      "devices/a/x",
      '{"whole":1,"part":1.5,"yes":true,"no":false,"text":"1","none":null}',
    );
    if (typeof frame === "string") throw new Error(frame);
    expect(Array.from(frame.kind, (kind) => KIND_NAMES[kind])).toEqual([
      "number",
      "number",
      "boolean",
      "boolean",
      "text",
      "null",
    ]);
  });

  it("nested members and array positions are joined by dots; what is empty has no values", () => {
    expect(samplesOf(decode("devices/a/x", '{"a":{"b":{"c":1}},"l":[5,[6,{"m":7}]],"e":{},"f":[]}'))).toEqual(
      [
        ["a.b.c", 1],
        ["l.0", 5],
        ["l.1.0", 6],
        ["l.1.1.m", 7],
      ],
    );
  });

  it("an array or a scalar at the top is named by the channel", () => {
    expect(samplesOf(decode("devices/a/phases", "[230,231]"))).toEqual([
      ["phases.0", 230],
      ["phases.1", 231],
    ]);
    expect(samplesOf(decode("devices/a/state", '"on"'))).toEqual([["state", "on"]]);
  });

  it("integers beyond 2^53 stay exact, as text; everything around them is as ever", () => {
    expect(
      samplesOf(
        decode(
          "devices/a/x",
          '{"id":9007199254740993,"neg":-12345678901234567890,"max":9007199254740991,"x":1e300,"t":1.5}',
        ),
      ),
    ).toEqual([
      ["id", "9007199254740993"],
      ["neg", "-12345678901234567890"],
      ["max", 9007199254740991],
      ["x", 1e300],
      ["t", 1.5],
    ]);
    expect(samplesOf(decode("devices/a/n", "12345678901234567890"))).toEqual([["n", "12345678901234567890"]]);
  });

  it("members named like parts of JavaScript are members like any other", () => {
    expect(
      samplesOf(decode("devices/a/x", '{"__proto__":{"polluted":1},"constructor":2,"toString":3}')),
    ).toEqual([
      ["__proto__.polluted", 1],
      ["constructor", 2],
      ["toString", 3],
    ]);
    expect(Object.hasOwn(Object.prototype, "polluted")).toBe(false);
  });

  it("of a duplicate key the last value stands", () => {
    expect(samplesOf(decode("devices/a/x", '{"a":1,"a":2}'))).toEqual([["a", 2]]);
  });

  it("lone surrogates in text become U+FFFD, so that equal bytes stay one dictionary entry", () => {
    expect(samplesOf(decode("devices/a/x", '{"a":"\\ud800","b":"\\ufffd"}'))).toEqual([
      ["a", "\ufffd"],
      ["b", "\ufffd"],
    ]);
  });

  it("text may hold a NUL", () => {
    expect(samplesOf(decode("devices/a/x", '{"a":"x\\u0000y"}'))).toEqual([["a", "x\0y"]]);
  });

  it("-0 becomes 0", () => {
    expect(Object.is(samplesOf(decode("devices/a/x", '{"a":-0}'))[0]?.[1], 0)).toBe(true);
  });
});

describe("plain values", () => {
  for (const [payload, value] of [
    ["21.5", 21.5],
    ["+5", 5],
    ["007", 7],
    [".5", 0.5],
    ["-1e3", -1000],
    ["true", true],
    ["null", null],
    ['"21.5"', "21.5"],
    ["ON", "ON"],
    ["21.5 °C", "21.5 °C"],
    ["0x10", "0x10"],
    ["True", "True"],
    ["  on \r\n", "on"],
    ["\ufeff21.5", 21.5],
  ] as const) {
    it(`${JSON.stringify(payload)} is ${JSON.stringify(value)}, named by the channel`, () => {
      expect(samplesOf(decode("devices/a/temp", payload))).toEqual([["temp", value]]);
    });
  }

  it("one whose topic names no channel is called value", () => {
    expect(samplesOf(decode("zigbee2mqtt/lamp/availability", "online"))).toEqual([["value", "online"]]);
  });
});

describe("what is rejected, with the reason", () => {
  const deep = (open: string, inner: string, close: string) =>
    open.repeat(100_000) + inner + close.repeat(100_000);
  for (const [what, payload, reason] of [
    ["nothing", "", "empty"],
    ["blanks", " \n", "blank"],
    ["a JSON object without values", '{"a":{},"b":[]}', "no values"],
    ["JSON that ends early", '{"a":1', "not valid JSON"],
    ["arrays 100,000 deep", deep("[", "1", "]"), "nested deeper than 32 levels"],
    ["objects 100,000 deep", deep('{"a":', "1", "}"), "nested deeper than 32 levels"],
    ["a big integer below 100,000 arrays", `[12345678901234567890,${deep("[", "1", "]")}]`, "nested"],
    ["a number beyond a double", '{"a":1e400}', "beyond a double"],
    ["a plain number beyond a double", "-1e400", "beyond a double"],
    ["NaN in JSON", '{"a":NaN}', "not valid JSON"],
    ["a plain NaN", "NaN", "not a finite number"],
    ["a plain infinity", "-inf", "not a finite number"],
    ["an empty name", '{"":1}', "is empty"],
    ["a name with a NUL", '{"a\\u0000b":1}', "control character"],
    ["a name over 256 bytes", JSON.stringify({ ["é".repeat(129)]: 1 }), "over 256 bytes"],
    [
      "a path over 256 bytes",
      JSON.stringify({ ["a".repeat(200)]: { ["b".repeat(100)]: 1 } }),
      "over 256 bytes",
    ],
    ["a name with a lone surrogate", '{"\\ud800":1}', "not valid Unicode"],
    ["text over 64 KiB", JSON.stringify({ a: "x".repeat(65_537) }), "over 65536 bytes"],
    ["text over 64 KiB in UTF-8", JSON.stringify({ a: "é".repeat(32_769) }), "over 65536 bytes"],
    ["plain text over 64 KiB", "x".repeat(65_537), "over 65536 bytes"],
    ["2,049 values", JSON.stringify(Array(2049).fill(0)), "more than 2048 values"],
    ["bytes that are not UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), "not UTF-8"],
    ["binary", Buffer.from([1, 2, 3]), "neither JSON nor text"],
  ] as const) {
    it(what, () => {
      expect(decode("devices/a/x", payload)).toContain(reason);
    });
  }

  it("leaves nothing of a rejected message behind in the frame of the next", () => {
    const rules = sourcesSchema.parse({}).devices;
    const decoder = new DeviceDecoder(rules);
    const builder = new FrameBuilder();
    const route = { device: "a", channel: "x", plugin: undefined, rule: 0 };
    const message = {
      topic: "devices/a/x",
      route,
      timeUs: ARRIVED_US,
      qos: 1,
      retained: false,
      settle: undefined,
    } as const;
    expect(
      decoder.decode({ ...message, payload: Buffer.from('{"bad":1,"t":"text","x":1e400}') }, builder),
    ).toBeDefined();
    expect(decoder.decode({ ...message, payload: Buffer.from('{"good":1}') }, builder)).toBeUndefined();
    const frame = builder.build();
    expect([frame.metrics, frame.texts, frame.rows]).toEqual([["good"], [], 1]);
  });

  it("a topic whose device id is too long", () => {
    expect(decode(`devices/${"é".repeat(200)}/x`, "1")).toContain("device id");
  });

  it("a long row of digits that is no number, at once", { timeout: 15_000 }, () => {
    // By the square of its length it would take half a minute.
    for (const end of ["x", ".5.", "e", "-"])
      expect(decode("devices/a/b", `${"7".repeat(260 * 1024)}${end}`)).toContain("is over 65536 bytes");
  });

  it("a channel that can't be a metric's name", () => {
    expect(decode("devices/a/b\tc", "1")).toContain("control character");
  });
});

describe("options of a rule", () => {
  it("values names the part of the JSON that counts", () => {
    expect(
      samplesOf(decode("d/a", '{"meta":{"n":1},"object":{"v":{"t":2}}}', rule({ values: "$.object" }))),
    ).toEqual([["v.t", 2]]);
    expect(decode("d/a", '{"meta":1}', rule({ values: "$.object" }))).toContain("nothing at $.object");
    expect(decode("d/a", "12", rule({ values: "$.object" }))).toContain("nothing at $.object");
    expect(decode("d/a", "{}", rule({ values: "$.constructor" }))).toContain("nothing at $.constructor");
  });

  for (const [time, us] of [
    ["1763640000", 1_763_640_000_000_000],
    ["1763640000.5", 1_763_640_000_500_000],
    ["1763640000123", 1_763_640_000_123_000],
    ["1763640000123456", 1_763_640_000_123_456],
    ["1763640000123456789", 1_763_640_000_123_457],
    ['"1763640000123"', 1_763_640_000_123_000],
    ['"2025-11-20T12:00:00Z"', 1_763_640_000_000_000],
    ['"2025-11-20T13:00:00.123456+01:00"', 1_763_640_000_123_456],
    ['"2025-11-20 13:00+0100"', 1_763_640_000_000_000],
    ['"2025-11-20T13:00:00+01"', 1_763_640_000_000_000],
  ] as const) {
    it(`time ${time} is understood, and is no sample`, () => {
      const frame = decode("d/a", `{"at":${time},"t":1}`, rule({ time: "$.at" }));
      expect(samplesOf(frame)).toEqual([["t", 1]]);
      if (typeof frame === "string") return;
      expect(Math.abs((frame.time[0] ?? 0) - us)).toBeLessThanOrEqual(1);
      expect(frame.status[0]).toBe(0);
    });
  }

  it("without a time in the message, one without a zone, or one of a clock that was never set, the gateway's stands and is marked", () => {
    const times = ["null", '"2025-11-20T12:00:00"', "0", "86400", '"1970-01-01T00:00:12Z"'];
    for (const payload of ['{"t":1}', ...times.map((time) => `{"at":${time},"t":1}`)]) {
      const frame = decode("d/a", payload, rule({ time: "$.at" }));
      if (typeof frame === "string") throw new Error(frame);
      expect([frame.time[0], frame.status[0], frame.rows]).toEqual([ARRIVED_US, Status.gatewayTime, 1]);
    }
  });

  for (const time of ['"soon"', "true", "-5", "1e30", '"2025-13-45T00:00:00Z"', "{}"]) {
    it(`a message whose time is ${time} is rejected`, () => {
      expect(decode("d/a", `{"at":${time},"t":1}`, rule({ time: "$.at" }))).toContain("no time");
    });
  }

  it("a time below the values is no sample, one of the same name elsewhere is", () => {
    const rules = rule({ values: "$.o", time: "$.o.m.at" });
    expect(samplesOf(decode("d/a", '{"o":{"at":1,"m":{"at":1763640000,"x":2}}}', rules))).toEqual([
      ["at", 1],
      ["m.x", 2],
    ]);
  });
});
