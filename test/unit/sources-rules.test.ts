import { describe, expect, it } from "vitest";
import { deviceProblem } from "../../src/core/frame.ts";
import { metricName } from "../../src/core/labels.ts";
import { RESERVED } from "../../src/plugins/manifest.ts";
import { RetainedMessages } from "../../src/sources/broker-retained.ts";
import { NOTHING } from "../../src/sources/delivery.ts";
import { brokerSchema, deviceRuleSchema, sourcesSchema } from "../../src/sources/options.ts";
import { PacketGuard } from "../../src/sources/packet-guard.ts";
import { PRESENCE_RULES } from "../../src/sources/presence.ts";
import { RecentMap } from "../../src/sources/recent-map.ts";
import { DECODERS, deviceId, Router } from "../../src/sources/router.ts";

const rules = sourcesSchema.parse({}).devices;
const presets = new Router(rules);
const found = (topic: string) => {
  const { route } = presets.resolve(topic);
  return route && [route.device, route.channel, rules[route.rule]?.decoder ?? "json"];
};
const routerOf = (...rules: object[]) => new Router(rules.map((rule) => deviceRuleSchema.parse(rule)));

it("what presence says goes by a rule that is whole", () => {
  expect(PRESENCE_RULES.map((rule) => deviceRuleSchema.parse(rule))).toEqual(PRESENCE_RULES);
});

it("no plugin can have a decoder's name", () => {
  expect(DECODERS.filter((name) => !RESERVED.includes(name))).toEqual([]);
});

describe("the presets", () => {
  for (const [topic, expected] of [
    ["devices/pump-1/telemetry", ["pump-1", "telemetry", "json"]],
    ["devices/pump-1", undefined],
    ["devices/pump-1/a/b", undefined],
    ["devices//telemetry", undefined],
    ["zigbee2mqtt/lamp", ["lamp", "", "json"]],
    ["zigbee2mqtt/lamp/availability", ["lamp", "", "availability"]],
    ["zigbee2mqtt/hall/lamp 2", ["hall%2Flamp 2", "", "json"]],
    ["zigbee2mqtt/bridge/state", undefined],
    ["zigbee2mqtt/bridge", undefined],
    ["zigbee2mqtt/lamp/set", undefined],
    ["zigbee2mqtt/hall/lamp/get", undefined],
    ["tele/sonoff/SENSOR", ["sonoff", "", "json"]],
    ["tele/sonoff/LWT", ["sonoff", "", "availability"]],
    ["stat/sonoff/POWER", undefined],
    ["shellies/shellyht-1/sensor/temperature", ["shellyht-1", "sensor.temperature", "json"]],
    ["shellies/shellyht-1/online", ["shellyht-1", "", "availability"]],
    ["shellies/shelly1-2/relay/0/command", undefined],
    ["shellies/announce", undefined],
    ["shellyplus1-a8032ab1/events/rpc", ["shellyplus1-a8032ab1", "", "json"]],
    ["shellyplus1-a8032ab1/online", ["shellyplus1-a8032ab1", "", "availability"]],
    ["shellyplus1-a8032ab1/status/switch:0", ["shellyplus1-a8032ab1", "switch:0", "json"]],
    ["shellyplus1-a8032ab1/status/ble", undefined],
    ["devices/status/temp_c", ["status", "temp_c", "json"]],
    ["homie/status/engine", ["status", "engine", "plain"]],
    ["homie/car/engine/temperature", ["car", "engine.temperature", "plain"]],
    ["homie/car/engine/temperature/$datatype", undefined],
    ["homie/car/engine/speed/set", undefined],
    ["homie/car/$name", ["car", "", "about"]],
    ["homie/car/engine/temperature/$unit", ["car", "engine.temperature", "about"]],
    ["homie/car/$state", ["car", "", "availability"]],
    ["homie/5/car/engine/temperature", ["car", "engine.temperature", "plain"]],
    ["homie/5/car/$state", ["car", "", "availability"]],
    ["homie/5/car/$description", ["car", "", "about"]],
    ["devices/pump-1/$about", ["pump-1", "", "about"]],
    ["zigbee2mqtt/bridge/devices", ["bridge", "", "about"]],
    ["tasmota/discovery/AABBCC/config", ["AABBCC", "", "about"]],
    ["shellies/shellyht-1/announce", ["shellyht-1", "", "about"]],
    ["application/7/device/0102/event/up", ["0102", "", "json"]],
    ["application/7/device/0102/event/status", ["0102", "", "json"]],
    ["application/7/device/0102/event/join", undefined],
    ["/neuron/cloud/plc/line", ["plc", "line", "neuron"]],
    ["/neuron/cloud/read/resp", undefined],
    ["/neuron/cloud/state/update", undefined],
    ["weir/v1/gw/data", undefined],
  ] as const) {
    it(`${topic} ${expected ? `is device ${expected[0]}` : "matches none"}`, () => {
      expect(found(topic)).toEqual(expected);
    });
  }

  it("can be chosen by name, before and after rules of one's own", () => {
    const { devices } = sourcesSchema.parse({
      devices: [{ preset: "tasmota" }, { topic: "x/{device}" }, { preset: "plain" }],
    });
    expect(devices.map(({ topic }) => topic)).toEqual([
      "tele/{device}/SENSOR",
      "tele/{device}/STATE",
      "tele/{device}/LWT",
      "tasmota/discovery/{device}/config",
      "x/{device}",
      "devices/{device}/$about",
      "devices/{device}/{channel}",
    ]);
  });
});

describe("rules", () => {
  it("the first that matches wins; a topic that one skips is open to the next", () => {
    const router = routerOf({ topic: "a/{device}", skip: ["a/x"] }, { topic: "a/{device}", decoder: "mine" });
    expect(router.resolve("a/y").route).toMatchObject({ rule: 0, plugin: undefined });
    expect(router.resolve("a/x").route).toMatchObject({ rule: 1, plugin: "mine" });
  });

  it("{device+} may stand in the middle, and # stands for nothing, too", () => {
    const router = routerOf({ topic: "f/{device+}/data" }, { topic: "g/{device}/#" });
    expect(router.resolve("f/a/b/data").route?.device).toBe("a%2Fb");
    expect(router.resolve("f/data").route).toBeUndefined();
    expect(router.resolve("g/a").route?.device).toBe("a");
    expect(router.resolve("g/a/b/c").route?.device).toBe("a");
  });

  it("a device id can be a level of any topic, and no two devices share one", () => {
    expect(deviceId("a+b#c%d/e\u0007")).toBe("a%2Bb%23c%25d%2Fe%07");
    expect(deviceId("%2F")).not.toBe(deviceId("/"));
    expect(deviceProblem(deviceId("\u0080é/+#"))).toBeUndefined();
  });

  it("no topic can speak for the gateway itself", () => {
    expect(found("devices/_gateway/telemetry")).toEqual(["%5Fgateway", "telemetry", "json"]);
  });

  it("a device id over 256 bytes is no device, for no plugin either", () => {
    const router = routerOf({ topic: "raw/{device}", decoder: "mine" });
    expect(router.resolve(`raw/${"é".repeat(128)}`).route?.device).toHaveLength(128);
    expect(router.resolve(`raw/${"é".repeat(129)}`).route).toMatchObject({ device: "", plugin: undefined });
  });

  it("a flood of topics does not grow the memory of them", () => {
    const router = routerOf({ topic: "d/{device}" });
    for (let i = 0; i < 50_000; i++) router.resolve(`d/${i}`);
    expect(router.remembered).toBeLessThanOrEqual(2 * 8192);
    expect(router.resolve("d/7").route?.device).toBe("7");
  });

  it("what is used stays remembered while others pass", () => {
    const map = new RecentMap<number>(10);
    map.set("kept", 1);
    for (let i = 0; i < 100; i++) {
      map.set(`passing ${i}`, i);
      expect(map.get("kept")).toBe(1);
    }
    expect(map.get("passing 0")).toBeUndefined();
  });
});

describe("options", () => {
  it("an empty section has every default", () => {
    expect(brokerSchema.parse({})).toMatchObject({ enabled: true, host: "127.0.0.1", port: 1883 });
    expect(sourcesSchema.parse({})).toMatchObject({
      kernel: { enabled: true, intervalMs: 10_000 },
      system: { enabled: true, intervalMs: 10_000 },
    });
  });

  for (const [path, message, section] of [
    ["devices.0.topic", "must have {device}", { devices: [{ topic: "a/b" }] }],
    ["devices.1.topic", "more than one of", { devices: [{ topic: "{device}" }, { topic: "*/{device}/#" }] }],
    ["devices.0.topic", "expected a topic pattern, or a preset", { devices: [{ decoder: "json" }] }],
    ["devices.0.preset", "stands alone", { devices: [{ preset: "homie", topic: "{device}" }] }],
    ["devices.0.name", "goes with each", { devices: [{ topic: "{device}", name: "$.n" }] }],
    [
      "devices.0.metrics",
      "say units themselves",
      { devices: [{ topic: "{device}", decoder: "senml", metrics: { t: { unit: "Cel" } } }] },
    ],
    ["devices.0.topic", "# before its end", { devices: [{ topic: "#/{device}" }] }],
    ["devices.0.topic", "as a whole level", { devices: [{ topic: "a{device}" }] }],
    ["devices.0.topic", "inside the level", { devices: [{ topic: "a+/{device}" }] }],
    ["devices.0.skip.0", "must not name", { devices: [{ topic: "{device}", skip: ["{device}"] }] }],
    ["devices.0.values", "expected a path", { devices: [{ topic: "{device}", values: "object" }] }],
    [
      "devices.0.decoder",
      "built-in decoder",
      { devices: [{ topic: "{device}", decoder: "mine", time: "$.t" }] },
    ],
    ["devices.0", "unit", { devices: [{ topic: "{device}", unit: "Cel" }] }],
    ["system.intervalMs", "", { system: { intervalMs: 0 } }],
  ] as const) {
    it(`an error at ${path} says: ${message}`, () => {
      const issues = sourcesSchema.safeParse(section).error?.issues ?? [];
      expect(issues.map((issue) => issue.path.join("."))).toEqual([path]);
      expect(issues[0]?.message).toContain(message);
    });
  }
});

describe("bounds of the broker", () => {
  it("a packet of the limit passes, of those beyond only a message is passed over; a fifth length byte never", () => {
    const guard = () =>
      new PacketGuard(
        300,
        () => {},
        () => {},
      );
    const header = (...bytes: number[]) => guard().feed(Uint8Array.from(bytes));
    expect(header(0x40, 0xac, 0x02)).toBe(true);
    expect(header(0x40, 0xad, 0x02)).toBe(false);
    expect(header(0x32, 0xad, 0x02)).toBe(true);
    // QoS 3.
    expect(header(0x36, 0xad, 0x02)).toBe(false);
    expect(header(0x30, 0x80, 0x80, 0x80, 0x80)).toBe(false);
    // A topic beyond the packet's end.
    expect(guard().feed(Buffer.concat([Buffer.from([0x32, 0xad, 0x02]), Buffer.alloc(301, 0xff)]))).toBe(
      false,
    );
  });

  it("long topics are not remembered: thousands of 64 KiB each would fill the memory", () => {
    const router = new Router(rules, (topic) => (topic.length > 1024 ? "too long" : undefined));
    for (const topic of ["devices/a/b", `devices/a/${"x".repeat(60_000)}`, `devices/a/${"y".repeat(1000)}`])
      for (let i = 0; i < 3; i++) router.resolve(topic);
    expect(router.remembered).toBe(1);
  });

  it("reading retained messages comes to an end, however often they change meanwhile", async () => {
    const store = new RetainedMessages(() => false, { topics: 100, bytes: 2 ** 20 });
    const put = (topic: string): number =>
      store.put({
        topic,
        payload: Buffer.from("x"),
        qos: 0,
        retain: true,
        properties: NOTHING,
        expiresMs: Number.POSITIVE_INFINITY,
      });
    for (let i = 0; i < 10; i++) put(`t/${i}`);
    const seen: string[] = [];
    for await (const { topic } of store.matching("t/#")) {
      seen.push(topic);
      if (seen.length > 20) break;
      // What is put anew goes behind the others, and is delivered as it comes.
      for (let i = 0; i < 5; i++) put(`t/${i}`);
    }
    expect(seen).toEqual(expect.arrayContaining(["t/5", "t/6", "t/7", "t/8", "t/9"]));
    expect(seen.length).toBe(10);
  });

  it("retained messages of devices are bounded in number, the longest unchanged going first, and leave room for Weir's", async () => {
    let gone = 0;
    const { retainedMessages: topics } = brokerSchema.parse({}).limits;
    const store = new RetainedMessages((topic) => topic.startsWith("weir/"), { topics, bytes: 2 ** 26 });
    const put = (topic: string): void => {
      const message = { topic, payload: Buffer.from("x"), qos: 0, retain: true } as const;
      gone += store.put({ ...message, properties: NOTHING, expiresMs: Number.POSITIVE_INFINITY });
    };
    for (let i = 0; i < 16_384; i++) put(`t/${i}`);
    put("t/0");
    expect(gone).toBe(0);
    put("t/one-more");
    expect(gone).toBe(1);
    put("weir/status");
    expect(gone).toBe(1);
    const kept: string[] = [];
    for (const filter of ["weir/#", "t/one-more", "t/0", "t/1"])
      for await (const { topic } of store.matching(filter)) kept.push(topic);
    expect(kept).toEqual(["weir/status", "t/one-more", "t/0"]);
  });
});

describe("labels", () => {
  it("keys are sorted and nothing in them can break the form", () => {
    expect(metricName("m", { b: "1", a: "x;y=z %~\n" })).toBe("m;a=x%3By%3Dz%20%25%7E%0A;b=1");
    expect(metricName("m", { a: "" })).toBe("m");
  });
});
