/** SenML packs in JSON (RFC 8428), resolved into rows of the topic's device. */
import { isUtf8 } from "node:buffer";
import { FrameLimits, Kind, nameProblem, Status, utf8Length } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import type { DeviceMessage, MessageDecoder } from "../core/ports.ts";
import { MESSAGE_SAMPLES } from "./samples.ts";

/** The version that this page reads (RFC 8428, 4.4). */
const VERSION = 10;
/** Times below are relative to now (RFC 8428, 4.5.3). */
const ABSOLUTE_S = 2 ** 28;
/** 2200-01-01, in seconds: later is taken for a mistake. */
const LATEST_S = 7_258_118_400;
const FIELDS = new Set([
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
  "ut",
]);

/** Units of the SenML registry (RFC 8428, 12.1; RFC 8798) that UCUM writes otherwise. */
const UCUM: Readonly<Record<string, string>> = {
  "/": "1",
  "%RH": "%{RH}",
  "%EL": "%{EL}",
  EL: "s",
  lat: "deg",
  lon: "deg",
  pH: "[pH]",
  dBW: "dB[W]",
  dBm: "dB[mW]",
  Bspl: "B[SPL]",
  count: "{count}",
  "beat/min": "{beats}/min",
  beats: "{beats}",
  B: "By",
  "B/s": "By/s",
  KiB: "KiBy",
  GB: "GBy",
  "MB/s": "MBy/s",
  VA: "V.A",
  VAs: "V.A.s",
  kVA: "kV.A",
  Ah: "A.h",
  Wh: "W.h",
  kWh: "kW.h",
  "Wh/km": "W.h/km",
  VAh: "V.A.h",
  kVAh: "kV.A.h",
  var: "V.A{var}",
  kvar: "kV.A{var}",
  NTU: "{NTU}",
  "/100": "%",
  "/1000": "[ppth]",
  ppm: "[ppm]",
};

interface Row {
  readonly name: string;
  readonly unit: string;
  readonly timeUs: number;
  readonly status: number;
  readonly kind: Kind;
  readonly value: number | string | Uint8Array;
}

type Fields = Record<string, unknown>;

/** Decodes SenML. A metric is the resolved name, its unit the resolved unit in UCUM. */
export class SenmlDecoder implements MessageDecoder {
  decode(message: DeviceMessage, into: FrameBuilder): string | undefined {
    const { payload, route } = message;
    if (route.device === "") return "the device id in the topic is over 256 bytes";
    if (!isUtf8(payload)) return "the payload is not UTF-8";
    let pack: unknown;
    try {
      pack = JSON.parse(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString());
    } catch (thrown) {
      return `not valid JSON: ${String(thrown).slice(0, 120)}`;
    }
    const rows = resolve(pack, message);
    if (typeof rows === "string") return rows;
    const device = into.device(route.device);
    for (const { name, unit, timeUs, status, kind, value } of rows) {
      const cell =
        typeof value === "number" ? value : typeof value === "string" ? into.text(value) : into.blob(value);
      into.add(device, into.metric(name, unit), timeUs, kind, status, cell);
    }
    return undefined;
  }
}

/** The resolved records of a pack (RFC 8428, 4.6), or what is wrong with it. */
function resolve(pack: unknown, message: DeviceMessage): readonly Row[] | string {
  if (!Array.isArray(pack)) return "a SenML pack is an array";
  const base = { n: "", u: "", t: 0, v: undefined as number | undefined, s: undefined as number | undefined };
  const rows: Row[] = [];
  for (const [i, record] of pack.entries()) {
    const wrong = (what: string): string => `record ${i} ${what}`;
    if (typeof record !== "object" || record === null || Array.isArray(record)) return wrong("is no object");
    const fields: Fields = record;
    for (const key of Object.keys(fields)) {
      // What ends in _ must be understood (4.4); anything else that is unknown is ignored.
      if (key.endsWith("_") && !FIELDS.has(key))
        return wrong(`has ${JSON.stringify(key.slice(0, 64))}, which must be understood`);
    }
    const text = (key: string): string | undefined => own(fields, key, "string");
    const number = (key: string): number | undefined => own(fields, key, "number");
    for (const key of ["bn", "bu", "n", "u", "vs", "vd"])
      if (Object.hasOwn(fields, key) && text(key) === undefined) return wrong(`has no text as ${key}`);
    for (const key of ["bt", "bv", "bs", "bver", "v", "s", "t", "ut"]) {
      const value = number(key);
      if (Object.hasOwn(fields, key) && (value === undefined || !Number.isFinite(value)))
        return wrong(`has no finite number as ${key}`);
    }
    if ((number("bver") ?? VERSION) > VERSION)
      return `SenML version ${number("bver")}, this reads ${VERSION}`;
    base.n = text("bn") ?? base.n;
    base.u = text("bu") ?? base.u;
    base.t = number("bt") ?? base.t;
    base.v = number("bv") ?? base.v;
    base.s = number("bs") ?? base.s;
    const found = valuesOf(fields, base);
    if (found === undefined) continue;
    if (typeof found === "string") return wrong(found);
    const name = base.n + (text("n") ?? "");
    const problem = nameProblem(name);
    if (problem !== undefined) return wrong(`has a name that ${problem}`);
    const plain = text("u") ?? base.u;
    const unit = Object.hasOwn(UCUM, plain) ? (UCUM[plain] ?? "") : plain;
    const unitProblem = unit === "" ? undefined : nameProblem(unit);
    if (unitProblem !== undefined) return wrong(`has a unit that ${unitProblem}`);
    const seconds = base.t + (number("t") ?? 0);
    const absolute = seconds >= ABSOLUTE_S;
    if (seconds > LATEST_S) return wrong("has a time after 2200");
    const timeUs = absolute ? Math.round(seconds * 1e6) : message.timeUs + Math.round(seconds * 1e6);
    if (timeUs < 0) return wrong("has a time before 1970");
    const status = (absolute ? 0 : Status.gatewayTime) | (message.retained ? Status.retained : 0);
    for (const [suffix, kind, value] of found) {
      if (rows.length === MESSAGE_SAMPLES) return `more than ${MESSAGE_SAMPLES} values`;
      const full = suffix === "" ? name : `${name}${suffix}`;
      if (nameProblem(full) !== undefined) return wrong("has a name that is too long");
      rows.push({ name: full, unit, timeUs, status, kind, value });
    }
  }
  return rows.length === 0 ? "no values in it" : rows;
}

type Value = readonly [suffix: string, kind: Kind, value: number | string | Uint8Array];

/** A record's value and sum; undefined when it has neither (it only sets a base), or what is wrong. */
function valuesOf(
  fields: Fields,
  base: { readonly v: number | undefined; readonly s: number | undefined },
): readonly Value[] | string | undefined {
  const keys = ["v", "vs", "vb", "vd"].filter((key) => Object.hasOwn(fields, key));
  if (keys.length > 1) return "has more than one value"; // 4.2
  const values: Value[] = [];
  const { v, vs, vb, vd, s } = fields;
  if (typeof v === "number" || (keys.length === 0 && base.v !== undefined && Object.hasOwn(fields, "n"))) {
    values.push(["", Kind.number, (typeof v === "number" ? v : 0) + (base.v ?? 0)]);
  } else if (typeof vs === "string") {
    if (utf8Length(vs) > FrameLimits.textBytes) return `has text over ${FrameLimits.textBytes} bytes`;
    values.push(["", Kind.text, vs]);
  } else if (keys[0] === "vb") {
    if (typeof vb !== "boolean") return "has no boolean as vb";
    values.push(["", Kind.boolean, vb ? 1 : 0]);
  } else if (typeof vd === "string") {
    if (!/^[\w-]*$/.test(vd)) return "has no base64url as vd";
    const bytes = Buffer.from(vd, "base64url");
    if (bytes.byteLength > FrameLimits.blobBytes) return `has data over ${FrameLimits.blobBytes} bytes`;
    values.push(["", Kind.bytes, bytes]);
  }
  if (typeof s === "number" || (values.length > 0 && base.s !== undefined))
    values.push([".sum", Kind.number, (typeof s === "number" ? s : 0) + (base.s ?? 0)]);
  if (values.some(([, , value]) => typeof value === "number" && !Number.isFinite(value)))
    return "has a sum beyond a double";
  return values.length === 0 ? undefined : values;
}

function own(fields: Fields, key: string, type: "string"): string | undefined;
function own(fields: Fields, key: string, type: "number"): number | undefined;
function own(fields: Fields, key: string, type: "string" | "number"): unknown {
  const value = Object.hasOwn(fields, key) ? fields[key] : undefined;
  return typeof value === type ? value : undefined;
}
