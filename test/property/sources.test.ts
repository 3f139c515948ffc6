import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { DeviceNews } from "../../src/core/device.ts";
import { deviceProblem, validate } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { AboutDecoder } from "../../src/sources/about.ts";
import { DeviceDecoder } from "../../src/sources/decode.ts";
import { deviceRuleSchema } from "../../src/sources/options.ts";
import { PacketGuard } from "../../src/sources/packet-guard.ts";
import { deviceId } from "../../src/sources/router.ts";
import { patternProblem, TopicPattern } from "../../src/sources/topic-pattern.ts";
import { TopicTree } from "../../src/sources/topic-tree.ts";

const level = fc.constantFrom("a", "b", "", "{", "*");
const topic = fc.array(level, { minLength: 1, maxLength: 6 }).map((levels) => levels.join("/"));
const literally = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

describe("topic patterns", () => {
  const part = fc.constantFrom("a", "b", "", "+", "*", "#", "{device}", "{device+}", "{channel}");
  const pattern = fc.array(part, { minLength: 1, maxLength: 5 }).map((parts) => parts.join("/"));

  /** The same meaning, said as a regular expression. */
  function reference(text: string): RegExp {
    const one: Record<string, string> = {
      "+": "[^/]*",
      "*": ".*",
      "{device}": "(?<device>[^/]+)",
      "{device+}": "(?<device>.+)",
      "{channel}": "(?<channel>[^/]+)",
    };
    let source = "";
    for (const [i, part] of text.split("/").entries()) {
      if (part === "#") source += i === 0 ? ".*" : "(?:/.*)?";
      else source += (i === 0 ? "" : "/") + (one[part] ?? literally(part));
    }
    return new RegExp(`^${source}$`, "s");
  }

  it("match what their meaning as a regular expression matches, and find the same", () => {
    fc.assert(
      fc.property(pattern, topic, (text, name) => {
        fc.pre(patternProblem(text, true) === undefined);
        const found = new TopicPattern(text).match(name.split("/"));
        const groups = reference(text).exec(name)?.groups;
        expect(found).toEqual(groups && { device: groups["device"], channel: groups["channel"] ?? "" });
      }),
      { numRuns: 5000 },
    );
  });

  it("any text is a pattern or has a problem, and a pattern takes any topic", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary" }),
        fc.string({ unit: "binary" }),
        fc.boolean(),
        (text, name, captures) => {
          if (patternProblem(text, captures) === undefined) new TopicPattern(text).match(name.split("/"));
        },
      ),
    );
  });

  it("whatever a topic says, its device id can stand in a frame and differs from every other's", () => {
    const name = fc.string({ unit: "grapheme", minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(name, name, (a, b) => {
        fc.pre(deviceId(a) !== "");
        expect(deviceProblem(deviceId(a))).toBeUndefined();
        expect(deviceId(a) === deviceId(b)).toBe(a === b);
      }),
    );
  });
});

describe("subscriptions", () => {
  const filter = fc
    .tuple(fc.array(fc.constantFrom("a", "b", "", "+"), { minLength: 1, maxLength: 4 }), fc.boolean())
    .map(([levels, rest]) => [...levels, ...(rest ? ["#"] : [])].join("/"));

  function matches(filter: string, name: string): boolean {
    const [levels, names] = [filter.split("/"), name.split("/")];
    for (const [i, level] of levels.entries()) {
      if (level === "#") return true;
      if (i >= names.length || (level !== "+" && level !== names[i])) return false;
    }
    return levels.length === names.length;
  }

  it("a topic finds exactly the filters that match it, after any are taken away", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(filter, fc.boolean()), { maxLength: 12 }), topic, (filters, name) => {
        const tree = new TopicTree<number>();
        for (const [i, [text]] of filters.entries()) tree.add(text, i);
        for (const [i, [text, gone]] of filters.entries()) if (gone) tree.remove(text, i);
        const expected = filters.flatMap(([text, gone], i) => (!gone && matches(text, name) ? [i] : []));
        expect(tree.match(name).sort((a, b) => a - b)).toEqual(expected);
      }),
      { numRuns: 2000 },
    );
  });
});

describe("the packet guard", () => {
  it("passes every byte of what is small enough and tells of the rest, however they are cut into chunks", () => {
    const packet = fc.record({
      size: fc.integer({ min: 8, max: 400 }),
      qos: fc.constantFrom(0 as const, 1 as const, 2 as const),
      id: fc.integer({ min: 1, max: 65_535 }),
    });
    fc.assert(
      fc.property(
        fc.array(packet, { maxLength: 8 }),
        fc.array(fc.integer({ min: 1, max: 300 }), { maxLength: 40 }),
        (packets, cuts) => {
          const small: Buffer[] = [];
          const large: unknown[] = [];
          const all = packets.map(({ size, qos, id }, i) => {
            const body = Buffer.alloc(size, i);
            body.writeUInt16BE(3, 0);
            body.write(`t/${i}`, 2);
            body.writeUInt16BE(id, 5);
            const length = size < 128 ? [size] : [(size & 127) | 128, size >> 7];
            const whole = Buffer.concat([Buffer.from([0x30 | (qos << 1), ...length]), body]);
            if (size <= 300) small.push(whole);
            else large.push({ topic: `t/${i}`, qos, id: qos === 0 ? 0 : id, bytes: size });
            return whole;
          });
          const passed: Buffer[] = [];
          const skipped: unknown[] = [];
          const guard = new PacketGuard(
            300,
            (part) => passed.push(Buffer.from(part)),
            (one) => skipped.push(one),
          );
          const bytes = Buffer.concat(all);
          let at = 0;
          for (const cut of [...cuts, bytes.length]) {
            expect(guard.feed(bytes.subarray(at, at + cut))).toBe(true);
            at += cut;
          }
          expect(Buffer.concat(passed)).toEqual(Buffer.concat(small));
          expect(skipped).toEqual(large);
        },
      ),
      { numRuns: 1000 },
    );
  });
});

describe("what is said of devices", () => {
  it("never throws, whatever it is, and tells of devices by ids that fit a topic", () => {
    const text = fc.string({ unit: "binary", maxLength: 300 });
    const part = fc.letrec((tie) => ({
      any: fc.oneof(
        { depthSize: "small" },
        text,
        fc.constant(null),
        fc.integer(),
        fc.array(tie("any")),
        fc.dictionary(
          fc.oneof(
            text,
            fc.constantFrom(
              "friendly_name",
              "definition",
              "exposes",
              "features",
              "property",
              "nodes",
              "homie",
              "t",
              "md",
              "fw_ver",
              "metrics",
              "name",
              "properties",
              "unit",
            ),
          ),
          tie("any"),
        ),
      ),
    })).any;
    const news: DeviceNews[] = [];
    const decoder = new AboutDecoder((some) => news.push(...some));
    const route = { device: "d", channel: "", plugin: undefined, rule: 0 };
    fc.assert(
      fc.property(
        fc.oneof(
          part.map((value) => JSON.stringify(value)),
          text,
        ),
        (payload) => {
          const message = {
            topic: "a/$about",
            route,
            payload: Buffer.from(payload),
            timeUs: 1,
            qos: 0,
            retained: false,
          } as const;
          decoder.decode({ ...message, settle: undefined }, new FrameBuilder());
          for (const { device } of news.splice(0)) expect(device).toMatch(/^[^/+#]+$/);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe("decoding", () => {
  const rules = [
    deviceRuleSchema.parse({ topic: "d/{device}/{channel}" }),
    deviceRuleSchema.parse({ topic: "t/{device}", values: "$.v", time: "$.time" }),
  ];
  const decoder = new DeviceDecoder(rules);
  const decode = (
    payload: Uint8Array,
    rule: number,
  ): { reason: string | undefined; builder: FrameBuilder } => {
    const builder = new FrameBuilder();
    const route = { device: "d", channel: "c", plugin: undefined, rule };
    const message = {
      topic: "x",
      route,
      payload,
      timeUs: 1,
      qos: 0,
      retained: false,
      settle: undefined,
    } as const;
    return { reason: decoder.decode(message, builder), builder };
  };

  it("never throws, and makes a valid frame or no row at all, of any bytes", () => {
    const json = fc.json({ maxDepth: 6 }).map((text) => Buffer.from(text));
    const timed = fc.json().map((text) => Buffer.from(`{"v":{"a":1},"time":${text}}`));
    const cut = fc.tuple(json, fc.nat(40)).map(([bytes, at]) => bytes.subarray(0, at));
    const any = fc.oneof(
      json,
      timed,
      cut,
      fc.uint8Array({ maxLength: 60 }),
      fc.string({ unit: "binary" }).map((text) => Buffer.from(text)),
    );
    fc.assert(
      fc.property(any, fc.nat(1), (payload, rule) => {
        const { reason, builder } = decode(payload, rule);
        expect(builder.rows === 0).toBe(reason !== undefined);
        validate(builder.build());
      }),
      { numRuns: 3000 },
    );
  });

  it("every number of a flat object comes out as the double that it is", () => {
    const members = fc.dictionary(
      fc.stringMatching(/^[a-z]{1,8}$/),
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      { minKeys: 1 },
    );
    fc.assert(
      fc.property(members, (object) => {
        // An integer beyond 2^53 is another matter: it stays as its digits.
        const values = Object.entries(object).filter(
          ([, value]) => !Number.isInteger(value) || Number.isSafeInteger(value),
        );
        fc.pre(values.length > 0);
        const { reason, builder } = decode(Buffer.from(JSON.stringify(Object.fromEntries(values))), 0);
        expect(reason).toBeUndefined();
        const frame = builder.build();
        const found = Array.from(frame.value, (value, row) => [
          frame.metrics[frame.metric[row] ?? -1],
          value,
        ]);
        expect(found).toEqual(values.map(([name, value]) => [name, value + 0]));
      }),
    );
  });

  it("every integer comes out exact, as a number or as its digits", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 80n), max: 2n ** 80n }), (integer) => {
        const { reason, builder } = decode(Buffer.from(`{"n":${integer}}`), 0);
        expect(reason).toBeUndefined();
        const frame = builder.build();
        expect(frame.texts[0] === undefined ? BigInt(frame.value[0] ?? 0.5) : BigInt(frame.texts[0])).toBe(
          integer,
        );
      }),
    );
  });
});
