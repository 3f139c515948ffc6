import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import { batchIn } from "../../src/batch-tools.ts";
import { type Frame, Kind, Status } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import type { Outgoing } from "../../src/core/ports.ts";
import { type EncoderPlan, UplinkEncoder } from "../../src/uplink/encode.ts";
import { encodeAlarms } from "../../src/uplink/encode-alarm.ts";
import { encodeJson, milliseconds } from "../../src/uplink/encode-json.ts";

type Row = readonly [
  device: string,
  metric: string,
  timeUs: number,
  kind: Kind,
  status: number,
  value: number | string | Uint8Array,
];

function frameOf(...rows: readonly Row[]): Frame {
  const builder = new FrameBuilder();
  for (const [device, metric, timeUs, kind, status, value] of rows) {
    const stored =
      typeof value === "number"
        ? value
        : typeof value === "string"
          ? builder.text(value)
          : builder.blob(value);
    builder.add(builder.device(device), builder.metric(metric), timeUs, kind, status, stored);
  }
  return builder.build();
}

const T = 1_763_640_000_123_000;
const key = (frame: Frame) => ({ epoch: "5f1c9a2e", stream: "data" as const, seq: 88_120, span: frame.rows });
const text = (frame: Frame): string => Buffer.from(encodeJson("hall3-9f2c", key(frame), [frame])).toString();
const samples = (frame: Frame): unknown => JSON.parse(text(frame)).samples;
const body = (message: Outgoing | undefined): unknown =>
  JSON.parse(Buffer.from(message?.payload ?? "").toString());

describe("a batch as JSON", () => {
  it("is what the design shows, to the byte", () => {
    const frame = frameOf(
      ["pump-1", "temp_c", T, Kind.number, 0, 71.2],
      ["pump-1", "rpm", T, Kind.integer, 0, 1480],
      ["pump-2", "temp_c", T + 17_000, Kind.null, Status.bad, 0],
    );
    expect(text(frame)).toBe(
      '{"v":1,"id":"hall3-9f2c/5f1c9a2e/data/88120","gateway":"hall3-9f2c","epoch":"5f1c9a2e","stream":"data","seq":88120,"span":3,"samples":[' +
        '{"device":"pump-1","ts":1763640000123,"values":{"temp_c":71.2,"rpm":1480}},' +
        '{"device":"pump-2","ts":1763640000140,"q":"bad","values":{"temp_c":null}}]}',
    );
  });

  it("writes every kind of value", () => {
    const frame = frameOf(
      ["d", "n", T, Kind.number, 0, -1.5e-9],
      ["d", "big", T, Kind.number, 0, 1.5e300],
      ["d", "i", T, Kind.integer, 0, -(2 ** 53) + 1],
      ["d", "yes", T, Kind.boolean, 0, 1],
      ["d", "no", T, Kind.boolean, 0, 0],
      ["d", "t", T, Kind.text, 0, 'line\n"quoted" \u2028 °C'],
      ["d", "b", T, Kind.bytes, 0, Uint8Array.of(0, 255, 128)],
      ["d", "z", T, Kind.null, 0, 0],
    );
    const values = {
      n: -1.5e-9,
      big: 1.5e300,
      i: -(2 ** 53) + 1,
      yes: true,
      no: false,
      t: 'line\n"quoted" \u2028 °C',
      b: { b64: "AP+A" },
      z: null,
    };
    expect(samples(frame)).toEqual([{ device: "d", ts: T / 1000, values }]);
  });

  it("says what is not normal about a status, and nothing about the gateway's time", () => {
    const of = (status: number) => frameOf(["d", "x", T, Kind.number, status, 1]);
    const sample = { device: "d", ts: T / 1000, values: { x: 1 } };
    expect(samples(of(Status.gatewayTime | Status.retained))).toEqual([sample]);
    expect(samples(of(Status.uncertain))).toEqual([{ ...sample, q: "uncertain" }]);
    expect(samples(of(Status.stale | Status.historical))).toEqual([{ ...sample, q: "stale", hist: true }]);
    expect(samples(of(Status.gatewayTime | Status.clockUnsynchronised))).toEqual([
      { ...sample, clk: "unsync" },
    ]);
  });

  it("starts a new object for another device, time or status, and for a metric that comes again", () => {
    const rows: Row[] = [
      ["a", "x", T, Kind.number, 0, 1],
      ["a", "y", T, Kind.number, 0, 2],
      ["a", "x", T, Kind.number, 0, 3],
      ["a", "y", T, Kind.number, Status.bad, 4],
      ["a", "x", T + 1000, Kind.number, Status.bad, 5],
      ["b", "x", T + 1000, Kind.number, Status.bad, 6],
    ];
    const values = (JSON.parse(text(frameOf(...rows))).samples as { values: unknown }[]).map(
      (sample) => sample.values,
    );
    expect(values).toEqual([{ x: 1, y: 2 }, { x: 3 }, { y: 4 }, { x: 5 }, { x: 6 }]);
  });

  it("takes one name with two units for one member", () => {
    const builder = new FrameBuilder();
    const device = builder.device("d");
    builder.add(device, builder.metric("x", "m"), T, Kind.number, 0, 1);
    builder.add(device, builder.metric("x", "km"), T, Kind.number, 0, 2);
    expect(samples(builder.build())).toMatchObject([{ values: { x: 1 } }, { values: { x: 2 } }]);
  });

  it("joins chunks, also empty ones", () => {
    const frames = [
      frameOf(["d", "x", T, Kind.number, 0, 1]),
      frameOf(),
      frameOf(["d", "x", T, Kind.number, 0, 2]),
    ];
    const batch = { epoch: "00000000", stream: "data" as const, seq: 0, span: 2 };
    expect(JSON.parse(Buffer.from(encodeJson("g", batch, frames)).toString()).samples).toHaveLength(2);
    expect(JSON.parse(Buffer.from(encodeJson("g", batch, [frameOf()])).toString()).samples).toEqual([]);
  });

  it("is valid for any names and texts", () => {
    const name = fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(fc.array(fc.tuple(name, name, name), { minLength: 1, maxLength: 20 }), (rows) => {
        const frame = frameOf(
          ...rows.map(([device, metric, value]): Row => [device, metric, T, Kind.text, 0, value]),
        );
        const found = (
          JSON.parse(text(frame)).samples as { device: string; values: Record<string, string> }[]
        ).flatMap(({ device, values }) =>
          Object.entries(values).map(([metric, value]) => JSON.stringify([device, metric, value])),
        );
        // As a set: members that look like integers don't keep their order in an object.
        expect(found.sort()).toEqual(rows.map((row) => JSON.stringify(row)).sort());
      }),
    );
  });

  it("keeps every microsecond of a time", () => {
    expect(milliseconds(T + 456)).toBe("1763640000123.456");
    expect(milliseconds(T + 450)).toBe("1763640000123.45");
    expect(milliseconds(0)).toBe("0");
    expect(milliseconds(-1)).toBe("-0.001");
    expect(milliseconds(-1_500)).toBe("-1.5");
    fc.assert(
      fc.property(fc.maxSafeInteger(), (timeUs) => {
        const [whole = "", fraction = ""] = milliseconds(timeUs).replace("-", "").split(".");
        expect(BigInt(whole + fraction.padEnd(3, "0"))).toBe(BigInt(Math.abs(timeUs)));
      }),
    );
  });
});

describe("the retained alarms", () => {
  const alarm = (device: string, code: string, active: boolean): Row[] => [
    [device, `alarm.active;code=${code}`, T, Kind.boolean, Status.gatewayTime, active ? 1 : 0],
    [device, `alarm.severity;code=${code}`, T, Kind.text, Status.gatewayTime, "warning"],
    [device, `alarm.message;code=${code}`, T, Kind.text, Status.gatewayTime, "too hot"],
  ];

  it("show each alarm's last state, and empty the message of one that ended", () => {
    const frames = [
      frameOf(...alarm("p", "hot", true), ...alarm("q", "hot", true)),
      frameOf(...alarm("p", "hot", false)),
    ];
    const messages = encodeAlarms("alarm/{device}/{code}", "g", frames);
    expect(messages.map(({ topic, payload }) => [topic, payload.byteLength > 0])).toEqual([
      ["alarm/p/hot", false],
      ["alarm/q/hot", true],
    ]);
    expect(body(messages[1])).toEqual({
      device: "q",
      code: "hot",
      active: true,
      severity: "warning",
      message: "too hot",
      ts: T / 1000,
    });
  });

  it("keep a code to one level of the topic, whatever it is", () => {
    const messages = encodeAlarms("alarm/{device}/{code}", "g", [
      frameOf(...alarm("p", "a%3Bb/+#", true), ...alarm("p", "%zz", true)),
    ]);
    expect(messages.map(({ topic }) => topic)).toEqual(["alarm/p/a%3Bb%2F%2B%23", "alarm/p/%zz"]);
    expect(messages.map(body)).toMatchObject([{ code: "a;b/+#" }, { code: "%zz" }]);
  });
});

describe("an uplink's encoder", () => {
  const encoderOf = (changes: Partial<EncoderPlan>): UplinkEncoder =>
    new UplinkEncoder(
      { gateway: "g" },
      {
        streams: ["alarm", "data", "host"],
        topics: { batch: "w/{gateway}/{stream}", last: undefined, meta: undefined, alarm: undefined },
        format: { encoding: "json", compression: "none" },
        filter: { devices: ["*"], metrics: ["*"] },
        qos: 1,
        traceparent: false,
        ...changes,
      },
      crc32c,
    );
  const many = frameOf(
    ...Array.from(
      { length: 100 },
      (_, i): Row => [
        `press-${i % 10}`,
        `metric_${i % 7};port=${i % 3}`,
        T + i,
        Kind.number,
        Status.gatewayTime,
        i,
      ],
    ),
  );
  const rowsIn = (payload: Uint8Array): string[] =>
    (batchIn(payload)?.samples ?? []).flatMap(({ device, values }) =>
      Object.entries(values).map(([name, value]) => `${device} ${name} ${String(value)}`),
    );

  it.each([
    ["json", "none", "7b22"],
    ["json", "gzip", "1f8b"],
    ["json", "zstd", "28b5"],
    ["block", "none", "5742"],
    ["block", "gzip", "1f8b"],
    ["block", "zstd", "28b5"],
  ] as const)(
    "writes %s with compression %s, which tells itself by its first bytes",
    (encoding, compression, magic) => {
      const plain = encoderOf({}).encode(key(many), [many], 1e9).messages[0];
      const [message] = encoderOf({ format: { encoding, compression } }).encode(
        key(many),
        [many],
        1e9,
      ).messages;
      if (message === undefined || plain === undefined) throw new Error("no message");
      expect(Buffer.from(message.payload.subarray(0, 2)).toString("hex")).toBe(magic);
      // It goes to another thread by transfer: nothing else may lie in its buffer.
      expect(message.payload.buffer.byteLength).toBe(message.payload.byteLength);
      expect(batchIn(message.payload)).toEqual(batchIn(plain.payload));
      expect(message.userProperties?.["content-encoding"]).toBe(
        compression === "none" ? undefined : compression,
      );
      const damaged = Uint8Array.from(message.payload);
      damaged[damaged.length >> 1] = (damaged[damaged.length >> 1] ?? 0) ^ 0x10;
      if (encoding === "block" || compression !== "none") expect(batchIn(damaged)).toBeUndefined();
    },
  );

  it("leaves out what its filter doesn't name, and counts it", () => {
    const encoder = encoderOf({
      filter: { devices: ["press-1*", "press-2"], metrics: ["metric_2", "metric_4"] },
    });
    const { samples, filtered, messages } = encoder.encode(key(many), [many], 1e9);
    const rows = rowsIn(messages[0]?.payload ?? new Uint8Array());
    expect(samples + filtered).toBe(100);
    expect(rows.length).toBe(samples);
    expect(rows.every((row) => /^press-[12] metric_[24];/.test(row))).toBe(true);
    expect(messages[0]?.userProperties).toMatchObject({ seq: "88120", span: "100" });
  });

  it.each(["json", "block"] as const)(
    "divides %s that is too large into parts with keys of their own, which together are the batch",
    (encoding) => {
      const whole = rowsIn(
        encoderOf({}).encode({ ...key(many), span: 200 }, [many, many], 1e9).messages[0]?.payload ??
          new Uint8Array(),
      );
      const encoder = encoderOf({ format: { encoding, compression: "none" } });
      const { samples, tooLarge, messages } = encoder.encode({ ...key(many), span: 200 }, [many, many], 700);
      expect({ samples, tooLarge }).toEqual({ samples: 200, tooLarge: [] });
      expect(messages.length).toBeGreaterThan(4);
      expect(messages.every(({ payload }) => payload.byteLength <= 700)).toBe(true);
      const parts = messages.map(({ payload }) => batchIn(payload));
      let next = 88_120;
      for (const part of parts) {
        expect(part?.seq).toBe(next);
        next += part?.span ?? 0;
      }
      expect(next).toBe(88_120 + 200);
      expect(messages.flatMap(({ payload }) => rowsIn(payload))).toEqual(whole);
    },
  );

  it("divides between sample objects, so that what a device said at once stays together", () => {
    const rows = Array.from({ length: 30 }, (_, n) =>
      // Several at once, too.
      ["a", "b", "c"].map(
        (name) => ["d", name, T + (n >> 4) * 1000, Kind.number, Status.gatewayTime, n] as const,
      ),
    ).flat();
    const frame = frameOf(...rows);
    const { messages } = encoderOf({}).encode(key(frame), [frame], 400);
    expect(messages.length).toBeGreaterThan(3);
    for (const { payload } of messages)
      for (const { values } of batchIn(payload)?.samples ?? [])
        expect(Object.keys(values)).toEqual(["a", "b", "c"]);
  });

  it("sets aside a row that is too large alone, and sends the others", () => {
    const frame = frameOf(
      ["d", "a", T, Kind.number, Status.gatewayTime, 1],
      ["d", "note", T, Kind.text, Status.gatewayTime, "x".repeat(2000)],
      ["d", "b", T, Kind.number, Status.gatewayTime, 2],
    );
    const { samples, tooLarge, messages } = encoderOf({}).encode(key(frame), [frame], 600);
    expect(samples).toBe(2);
    expect(tooLarge).toMatchObject([{ seq: 88_121 }]);
    expect(tooLarge[0]?.frame.rows).toBe(1);
    expect(messages.flatMap(({ payload }) => rowsIn(payload))).toEqual(["d a 1", "d b 2"]);
  });

  it("gives a batch the same trace every time", () => {
    const trace = (): string | undefined =>
      encoderOf({ traceparent: true }).encode(key(many), [many], 1e9).messages[0]?.userProperties?.[
        "traceparent"
      ];
    expect(trace()).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
    expect(trace()).toBe(trace());
  });

  it("repeats the key as user properties, and leaves out what has no topic", () => {
    const encoder = encoderOf({});
    const frame = frameOf(["d", "alarm.active;code=x", T, Kind.boolean, 0, 1]);
    const encoded = encoder.encode({ ...key(frame), stream: "alarm" }, [frame], 1e9);
    expect(encoded.samples).toBe(1);
    expect(encoded.messages).toMatchObject([
      {
        topic: "w/g/alarm",
        qos: 1,
        retain: false,
        contentType: "application/json",
        userProperties: { gateway: "g", epoch: "5f1c9a2e", stream: "alarm", seq: "88120", span: "1" },
      },
    ]);
    expect(encoder.devices).toBeUndefined();
  });
});
