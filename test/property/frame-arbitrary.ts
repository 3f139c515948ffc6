/** Frames to try everything on, and the naive model of one: a list of rows. */
import fc from "fast-check";
import { deviceProblem, type Frame, Kind, nameProblem } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";

/** One row, with what its indexes stand for. Blobs are hexadecimal, so that rows compare by value. */
export interface ModelRow {
  readonly device: string;
  readonly metric: string;
  readonly unit: string;
  readonly timeUs: number;
  readonly kind: Kind;
  readonly status: number;
  /** the number, or the text, or a blob in hexadecimal */
  readonly value: number | string;
}

/** The rows of a frame, looked up one by one. */
export function rowsOf(frame: Frame): ModelRow[] {
  return Array.from({ length: frame.rows }, (_, row) => {
    const kind = kindOf(frame.kind[row]);
    const value = frame.value[row] ?? Number.NaN;
    const metric = frame.metric[row] ?? -1;
    return {
      device: frame.devices[frame.device[row] ?? -1] ?? "(none)",
      metric: frame.metrics[metric] ?? "(none)",
      unit: frame.units[metric] ?? "(none)",
      timeUs: frame.time[row] ?? Number.NaN,
      kind,
      status: frame.status[row] ?? -1,
      value:
        kind === Kind.text
          ? (frame.texts[value] ?? "(none)")
          : kind === Kind.bytes
            ? Buffer.from(frame.blobs[value] ?? []).toString("hex")
            : value,
    };
  });
}

function kindOf(number: number | undefined): Kind {
  const kind = Object.values(Kind).find((known) => known === number);
  if (kind === undefined) throw new Error(`kind ${number}`);
  return kind;
}

/** Adds rows the way a decoder does. */
export function addRows(builder: FrameBuilder, rows: readonly ModelRow[]): void {
  for (const { device, metric, unit, timeUs, kind, status, value } of rows) {
    const at =
      typeof value === "number"
        ? value
        : kind === Kind.text
          ? builder.text(value)
          : builder.blob(Buffer.from(value, "hex"));
    builder.add(builder.device(device), builder.metric(metric, unit), timeUs, kind, status, at);
  }
}

/** The frame of rows. */
export function frameOf(rows: readonly ModelRow[]): Frame {
  const builder = new FrameBuilder(4);
  addRows(builder, rows);
  return builder.build();
}

/** Doubles at which codecs break. */
export const HOSTILE_NUMBERS = [
  5e-324,
  -5e-324,
  2.225_073_858_507_201e-308,
  2.225_073_858_507_201_4e-308,
  1.797_693_134_862_315_7e308,
  -1.797_693_134_862_315_7e308,
  ...[51, 52, 53].flatMap((bits) => [-1, 0, 1, 2].flatMap((near) => [2 ** bits + near, -(2 ** bits) - near])),
  0.1 + 0.2,
  1e22,
  1e-9,
  1e-10,
  0.000_000_001_5,
  123_456_789.123_456_79,
  -4503599.627370497,
  9_007_199.254_740_993,
  Math.PI,
  Math.fround(71.2),
  0,
];

const number = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(fc.integer(), fc.nat(10)).map(([n, e]) => n / 10 ** e + 0) },
  { weight: 2, arbitrary: fc.constantFrom(...HOSTILE_NUMBERS) },
  { weight: 1, arbitrary: fc.double({ noNaN: true, noDefaultInfinity: true }).map((n) => n + 0) },
);

const integer = fc.oneof(
  fc.integer(),
  fc.maxSafeInteger(),
  fc.constantFrom(Number.MAX_SAFE_INTEGER, -Number.MAX_SAFE_INTEGER),
);

const timeUs = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 5000 }).map((n) => 1_763_640_000_000_000 + 1000 * n) },
  { weight: 2, arbitrary: fc.integer().map((n) => 1_763_640_000_000_000 + n) },
  { weight: 1, arbitrary: integer },
);

const anyName = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.constantFrom(
      "a",
      "b",
      "ab",
      "é",
      "\uFEFFa",
      "temp_c",
      "tcp.retransmits;port=443",
      "x".repeat(256),
      "日本",
      "😀",
    ),
  },
  { weight: 1, arbitrary: fc.string({ unit: "grapheme", minLength: 1, maxLength: 12 }) },
  { weight: 1, arbitrary: fc.string({ unit: "binary", minLength: 1, maxLength: 12 }) },
);
const metric = anyName.filter((name) => nameProblem(name) === undefined);
const device = anyName.filter((name) => deviceProblem(name) === undefined);
const unit = fc.constantFrom("", "", "Cel", "m/s", "°");

const text = fc.oneof(
  fc.constantFrom("", "ok", "\uFEFFok", "\0", "Prüfung"),
  fc.string({ unit: "binary", maxLength: 40 }),
);
const blob = fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes).toString("hex"));

const typed = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant(Kind.number), value: number }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant(Kind.integer), value: integer }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant(Kind.boolean), value: fc.constantFrom(0, 1) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant(Kind.text), value: text }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant(Kind.bytes), value: blob }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant(Kind.null), value: fc.constant(0) }) },
);

const row = fc
  .tuple(fc.record({ device, metric, unit, timeUs, status: fc.oneof(fc.constant(0), fc.nat(63)) }), typed)
  .map(([key, what]): ModelRow => ({ ...key, ...what }));

/** Messages as devices send them: a few metrics with one time, which packing is made for. */
const message = fc
  .tuple(
    fc.constantFrom("pump-1", "pump-2", "press-1"),
    timeUs,
    fc.array(typed, { minLength: 1, maxLength: 6 }),
  )
  .map(([from, at, values]) =>
    values.map(
      (what, i): ModelRow => ({ device: from, metric: `m${i}`, unit: "", timeUs: at, status: 0, ...what }),
    ),
  );

/** Rows of every kind, hostile ones among them. */
export const someRows: fc.Arbitrary<ModelRow[]> = fc.oneof(
  fc.array(row, { maxLength: 60 }),
  fc.array(message, { maxLength: 20 }).map((messages) => messages.flat()),
);

/** A change to bytes: a bit turned, a byte or a u32 set, a piece cut out or doubled. */
export interface Damage {
  readonly type: "flip" | "byte" | "u32" | "cut" | "double";
  /** where, as a part of the length */
  readonly at: number;
  readonly n: number;
}

/** Half of the damage goes to the header, where it hurts. */
export const someDamage: fc.Arbitrary<Damage> = fc.record({
  type: fc.constantFrom("flip", "flip", "byte", "byte", "u32", "cut", "double"),
  at: fc.oneof(
    fc.double({ min: 0, max: 0.999, noNaN: true }),
    fc.nat(71).map((offset) => -offset),
  ),
  n: fc.oneof(
    fc.nat(255),
    fc.constantFrom(0x7fff_ffff, 0x8000_0000, 0xffff_fff8, 0xffff_ffff, 65_536, 65_537, 4_194_304),
  ),
});

/** A damaged copy of bytes. */
export function damaged(bytes: Uint8Array, damage: Damage): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(bytes);
  const at = Math.min(
    damage.at < 0 ? -damage.at : Math.floor(damage.at * copy.byteLength),
    copy.byteLength - 1,
  );
  switch (damage.type) {
    case "flip":
      copy[at] = (copy[at] ?? 0) ^ (1 << (damage.n % 8));
      return copy;
    case "byte":
      copy[at] = damage.n % 256;
      return copy;
    case "u32": {
      const aligned = Math.min(at - (at % 4), copy.byteLength - 4);
      new DataView(copy.buffer).setUint32(aligned, damage.n, true);
      return copy;
    }
    case "cut":
      return new Uint8Array(Buffer.concat([copy.subarray(0, at), copy.subarray(at + 1 + (damage.n % 9))]));
    case "double":
      return new Uint8Array(
        Buffer.concat([copy.subarray(0, at), copy.subarray(Math.max(0, at - 1 - (damage.n % 9)))]),
      );
  }
}
