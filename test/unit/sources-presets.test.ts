/** Payloads as devices and bridges send them, through the rules that stand without a configuration; and what rules can say beyond them. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type DeviceNews, mergeAbout } from "../../src/core/device.ts";
import { Kind, Status } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { deviceRuleSchema, sourcesSchema } from "../../src/sources/options.ts";
import { Router } from "../../src/sources/router.ts";
import { RuleDecoder } from "../../src/sources/rules.ts";

interface Golden {
  readonly topic: string;
  readonly payload: string;
  readonly device: string;
  readonly timeUs: number | null;
  readonly samples: Readonly<Record<string, unknown>>;
  readonly quality?: string;
  /** metrics of bad quality */
  readonly bad?: readonly string[];
}

const folder = new URL("../fixtures/payloads/", import.meta.url);
const goldens = readdirSync(folder).filter((name) => name.endsWith(".json"));
const NOW = 1_800_000_000_000_000;

/** Decodes one message; what came out, row by row, or the reason why nothing did. */
function decode(rules: readonly object[] | undefined, topic: string, payload: string) {
  const list = (rules === undefined ? sourcesSchema.parse({}) : sourcesSchema.parse({ devices: rules }))
    .devices;
  const { route } = new Router(list).resolve(topic);
  if (route === undefined) throw new Error(`no rule for ${topic}`);
  const builder = new FrameBuilder();
  const message = {
    topic,
    route,
    payload: Buffer.from(payload),
    timeUs: NOW,
    qos: 1 as const,
    retained: false,
    settle: undefined,
  };
  const decoder = new RuleDecoder(list);
  // The third time a shape that was learnt may take it: the rows are the same.
  let reason = decoder.decode(message, builder);
  let frame = builder.build();
  for (let i = 0; i < 3; i++) {
    const before = frame;
    reason = decoder.decode(message, builder);
    frame = builder.build();
    expect(frame.buffer).toStrictEqual(before.buffer);
  }
  const rows = Array.from(frame.value, (value, row) => {
    const kind = frame.kind[row];
    const shown = kind === Kind.text ? frame.texts[value] : kind === Kind.boolean ? value === 1 : value;
    return {
      device: frame.devices[frame.device[row] ?? 0],
      metric: frame.metrics[frame.metric[row] ?? 0] ?? "",
      unit: frame.units[frame.metric[row] ?? 0],
      time: frame.time[row],
      kind,
      status: frame.status[row] ?? 0,
      value: kind === Kind.null ? null : shown,
    };
  });
  return { reason, rows };
}

describe("without a configuration", () => {
  it.each(goldens)("%s becomes its samples", (name) => {
    const golden: Golden = JSON.parse(readFileSync(new URL(name, folder), "utf8"));
    const { reason, rows } = decode(undefined, golden.topic, golden.payload);
    expect(reason).toBeUndefined();
    expect(Object.fromEntries(rows.map(({ metric, value }) => [metric, value]))).toEqual(golden.samples);
    for (const { device, metric, time, status } of rows) {
      expect(device).toBe(golden.device);
      expect(time).toBe(golden.timeUs ?? NOW);
      expect(status & Status.gatewayTime).toBe(golden.timeUs === null ? Status.gatewayTime : 0);
      const quality = golden.quality === "stale" ? Status.stale : Status.good;
      expect(status & Status.qualityMask).toBe(golden.bad?.includes(metric) ? Status.bad : quality);
    }
  });
});

it("commands to a lamp of Zigbee2MQTT are none of its values, on whatever topic they go", () => {
  const router = new Router(sourcesSchema.parse({}).devices);
  for (const tail of ["set", "set/state", "get", "get/state"])
    expect(router.resolve(`zigbee2mqtt/hall/lamp/${tail}`).route).toBeUndefined();
  expect(router.resolve("zigbee2mqtt/hall/lamp").route?.device).toBe("hall%2Flamp");
});

describe("Neuron", () => {
  const rules = [{ topic: "n/{device}", decoder: "neuron" }];

  it("may have read no tag of a group", () => {
    for (const payload of ['{"values":{},"errors":{"a":2014}}', '{"tags":[{"name":"a","error":2014}]}']) {
      const { reason, rows } = decode(rules, "n/plc", payload);
      expect(reason).toBeUndefined();
      expect(rows).toMatchObject([
        { metric: "a", kind: Kind.null, time: NOW, status: Status.bad | Status.gatewayTime },
      ]);
    }
  });

  it.each([
    ["{", "not valid JSON"],
    ["[]", "neither values nor tags"],
    ['{"values":[]}', "no object at $.values"],
    ['{"values":{"a":1},"errors":7}', "no object at $.errors"],
    ['{"tags":{}}', "no array at $.tags"],
    ['{"tags":[]}', "no values in it"],
    ['{"tags":[{"name":"a","value":1},{"value":1}]}', "no name at $.name"],
    ['{"tags":[{"name":"a","value":1},{"name":"b"}]}', 'neither value nor error of the tag "b"'],
    ['{"tags":[{"name":"a","value":1}],"timestamp":"soon"}', "is no time"],
    [`{"values":{"a":${"[".repeat(40)}${"]".repeat(40)}}}`, "nested deeper"],
    [`{"tags":[${'{"name":"a","error":1},'.repeat(2048)}{"name":"b","value":1}]}`, "more than 2048 values"],
  ])("rejects %.60s whole", (payload, why) => {
    const { reason, rows } = decode(rules, "n/plc", payload);
    expect(reason).toContain(why);
    expect(rows).toEqual([]);
  });
});

describe("what a rule omits", () => {
  it("is no sample, wherever it stands, but may hold the time", () => {
    const rules = [
      { topic: "d/{device}", omit: ["$.info", "$.a.id", "$.none.at", "$.a.big.digits"], time: "$.info.at" },
    ];
    const { rows } = decode(
      rules,
      "d/x",
      '{"info":{"at":1795168800,"who":"me"},"a":{"id":7,"big":9007199254740993,"v":1}}',
    );
    expect(rows.map(({ metric, value, time }) => [metric, value, time])).toEqual([
      ["a.big", "9007199254740993", 1_795_168_800_000_000],
      ["a.v", 1, 1_795_168_800_000_000],
    ]);
  });

  it("counts from an array's elements, and goes with JSON alone", () => {
    const rule = { topic: "d/{device}", each: "$", omit: ["$.id"] };
    expect(decode([rule], "d/x", '[{"id":1,"a":2}]').rows.map(({ metric }) => metric)).toEqual(["a"]);
    expect(() => deviceRuleSchema.parse({ ...rule, each: undefined, decoder: "plain" })).toThrow("omit");
  });
});

describe("a rule with its channel before the names", () => {
  const rules = [{ topic: "f/{device}/{channel+}", withChannel: true, time: "$.ts" }];

  it.each([
    ['{"rpm":1480,"ts":1763640000,"a":{"b":[1]}}', { "motor.1.rpm": 1480, "motor.1.a.b.0": 1 }],
    ["1480", { "motor.1": 1480 }],
    ["[1,2]", { "motor.1.0": 1, "motor.1.1": 2 }],
    ['{"big":12345678901234567890}', { "motor.1.big": "12345678901234567890" }],
  ])("reads %s", (payload, samples) => {
    const { reason, rows } = decode(rules, "f/x/motor/1", payload);
    expect(reason).toBeUndefined();
    expect(Object.fromEntries(rows.map(({ metric, value }) => [metric, value]))).toEqual(samples);
  });

  it("has it before the names of an array's elements, too", () => {
    const named = { ...rules[0], time: undefined, each: "$", name: "$.n", values: "$.v" };
    const { rows } = decode([named], "f/x/motor", '[{"n":"rpm","v":1},{"n":"amps","v":{"l1":2}}]');
    expect(rows.map(({ metric }) => metric)).toEqual(["motor.rpm", "motor.amps.l1"]);
  });

  it.each([
    [{ topic: "f/{device}", withChannel: true }, "needs a {channel}"],
    [{ topic: "f/{device}/{channel}", withChannel: true, decoder: "senml" }, "json and cbor"],
  ])("%o is refused", (rule, why) => {
    expect(() => deviceRuleSchema.parse(rule)).toThrow(why);
    expect(() => sourcesSchema.parse({ devices: [rule] })).toThrow(why);
  });
});

describe("declared metrics", () => {
  const rules = [
    {
      topic: "d/{device}",
      metrics: {
        temp_c: { unit: "Cel", type: "number" },
        "count_*": { type: "integer" },
        on: { type: "boolean" },
        code: { type: "text" },
      },
    },
  ];

  it("get their units and types, whatever type they come as", () => {
    const { rows } = decode(
      rules,
      "d/x",
      '{"temp_c":"21.5","count_a":7,"on":"OFF","code":12,"free":"text","none":null}',
    );
    expect(rows.map(({ metric, unit, kind, value }) => [metric, unit, kind, value])).toEqual([
      ["temp_c", "Cel", Kind.number, 21.5],
      ["count_a", "", Kind.integer, 7],
      ["on", "", Kind.boolean, false],
      ["code", "", Kind.text, "12"],
      ["free", "", Kind.text, "text"],
      ["none", "", Kind.null, null],
    ]);
  });

  it.each([
    ['{"temp_c":"warm"}', '"temp_c" is not a number'],
    ['{"count_a":1.5}', '"count_a" is not an integer'],
    ['{"ok":1,"on":"maybe"}', '"on" is not a boolean'],
  ])("reject a message that has %s", (payload, reason) => {
    expect(decode(rules, "d/x", payload)).toEqual({ reason, rows: [] });
  });

  it("give a scanned message's metrics their units, too", () => {
    const units = [{ topic: "d/{device}", metrics: { "*_c": { unit: "Cel" } } }];
    const { rows } = decode(units, "d/x", '{"temp_c":21.5,"rpm":1480}');
    expect(rows.map(({ metric, unit }) => [metric, unit])).toEqual([
      ["temp_c", "Cel"],
      ["rpm", ""],
    ]);
  });
});

describe("arrays of samples", () => {
  it("are a sample set for each element, with its own time", () => {
    const rules = [{ topic: "d/{device}", each: "$.log", values: "$.v", time: "$.t" }];
    const { rows } = decode(
      rules,
      "d/x",
      '{"log":[{"t":1795168800,"v":{"a":1}},{"t":1795168801,"v":{"a":2,"b":3}},{"v":{"a":4}}]}',
    );
    expect(rows.map(({ metric, time, value }) => [metric, time, value])).toEqual([
      ["a", 1_795_168_800_000_000, 1],
      ["a", 1_795_168_801_000_000, 2],
      ["b", 1_795_168_801_000_000, 3],
      ["a", NOW, 4],
    ]);
  });

  it("may name their metrics", () => {
    const rules = [{ topic: "n/{device}", each: "$.tags", name: "$.name", values: "$.value" }];
    const { rows } = decode(
      rules,
      "n/plc",
      '{"tags":[{"name":"level","value":2.5},{"name":"state","value":"run"},{"name":"xy","value":{"x":1,"y":2}}]}',
    );
    expect(rows.map(({ metric, value }) => [metric, value])).toEqual([
      ["level", 2.5],
      ["state", "run"],
      ["xy.x", 1],
      ["xy.y", 2],
    ]);
  });

  it.each([
    ['{"log":{}}', "no array at $.log"],
    ['{"log":[]}', "no values in it"],
    ['{"log":[{"v":{"a":1}},{"v":{"a":1},"t":"soon"}]}', "what is at $.t is no time"],
    ['{"log":[{"v":{"a":1}},{"t":1}]}', "nothing at $.v"],
    [`{"log":[${'{"v":{"a":1}},'.repeat(2048)}{"v":{"a":1}}]}`, "more than 2048 values"],
  ])("take all or nothing", (payload, reason) => {
    const rules = [{ topic: "d/{device}", each: "$.log", values: "$.v", time: "$.t" }];
    expect(decode(rules, "d/x", payload)).toEqual({ reason, rows: [] });
  });
});

describe("plain values", () => {
  it.each([
    ["21.5", Kind.number, 21.5],
    ["true", Kind.boolean, true],
    ['{"a":1}', Kind.text, '{"a":1}'],
    ["null", Kind.text, "null"],
  ])("%s is taken as it stands", (payload, kind, value) => {
    const { rows } = decode([{ topic: "p/{device}/{channel+}", decoder: "plain" }], "p/x/a/b", payload);
    expect(rows.map((row) => [row.metric, row.kind, row.value])).toEqual([["a.b", kind, value]]);
  });
});

describe("availability", () => {
  it("that can't be read rejects its message", () => {
    for (const payload of ["", "perhaps", "{", '{"state":1e999}', "x".repeat(10_000)]) {
      const { reason, rows } = decode([{ topic: "{device}/a", decoder: "availability" }], "x/a", payload);
      expect({ reason, rows }).toEqual({
        reason: "says neither that the device is there nor that it is not",
        rows: [],
      });
    }
  });
});

describe("what devices and bridges say of devices", () => {
  interface Said {
    readonly topic: string;
    readonly payload: string;
    readonly news: readonly DeviceNews[];
  }
  const list = sourcesSchema.parse({}).devices;

  /** What is learnt of a message, or why it is not valid. */
  function learnt(topic: string, payload: string): string | readonly DeviceNews[] {
    const { route } = new Router(list).resolve(topic);
    if (route === undefined) throw new Error(`no rule for ${topic}`);
    const news: DeviceNews[] = [];
    const builder = new FrameBuilder();
    const message = {
      topic,
      route,
      payload: Buffer.from(payload),
      timeUs: NOW,
      qos: 1,
      retained: true,
    } as const;
    const reason = new RuleDecoder(list, (some) => news.push(...some)).decode(
      { ...message, settle: undefined },
      builder,
    );
    expect(builder.rows).toBe(0);
    return reason ?? news;
  }

  const about = new URL("about/", folder);
  it.each(readdirSync(about))("%s is understood", (name) => {
    const { topic, payload, news }: Said = JSON.parse(readFileSync(new URL(name, about), "utf8"));
    expect(learnt(topic, payload)).toEqual(news);
  });

  it("is bounded, and what makes no sense is rejected with the reason", () => {
    const topic = "devices/d/$about";
    for (const [payload, reason] of [
      ["{}", "says nothing of a device"],
      ['{"model":7,"metrics":{"a":null,"b":{"unit":""}}}', "says nothing of a device"],
      ["{", "not valid JSON"],
      ["[1,null]", "says nothing of a device"],
      ["hello", "neither JSON nor an attribute that is known"],
    ] as const)
      expect(learnt(topic, payload), payload).toContain(reason);
    const metrics = Object.fromEntries(
      Array.from({ length: 5_000 }, (_, i) => [`m${i}`, { unit: "x".repeat(1_000) }]),
    );
    const [known] = learnt(topic, JSON.stringify({ name: "n".repeat(10_000), metrics }));
    if (typeof known !== "object") throw new Error("nothing was learnt");
    expect(JSON.stringify(known).length).toBeLessThan(200_000);
    const hostile = learnt(
      topic,
      '{"name":"x","metrics":{"__proto__":{"unit":"V"},"constructor":{"unit":"A"}}}',
    );
    expect(JSON.stringify(hostile)).toContain('"__proto__":{"unit":"V"}');
  });

  it("adds up, of metrics each on its own", () => {
    const one = mergeAbout({ name: "a", metrics: { x: { unit: "V" } } }, { model: "b" });
    const both = mergeAbout(one, { metrics: { x: { description: "c" }, ["__proto__"]: { unit: "A" } } });
    expect(JSON.stringify(both)).toBe(
      '{"name":"a","metrics":{"x":{"unit":"V","description":"c"},"__proto__":{"unit":"A"}},"model":"b"}',
    );
  });
});

it("every rule of every preset is a valid rule", () => {
  for (const rule of sourcesSchema.parse({}).devices)
    expect(deviceRuleSchema.safeParse(rule).success).toBe(true);
});
