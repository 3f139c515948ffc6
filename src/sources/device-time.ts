/** The time that a device puts into its messages (docs/specs/mapping.md, "Time"). */

/** 2200-01-01, in microseconds: later is taken for a mistake. */
const LATEST_US = 7_258_118_400_000_000;
/** 1973-03-03: earlier is what a clock says that was never set, or a count of seconds since a device's start. */
const EARLIEST_US = 100_000_000_000_000;
const EPOCH_TEXT = /^\d{9,19}(?:\.\d{1,9})?$/;
const ISO = /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,9}))?\s?([Zz]|[+-]\d\d(?::?\d\d)?)?$/;

/** What {@link deviceTime} found: microseconds since the Unix epoch, `none`, or `bad`. */
export type DeviceTime = number | "none" | "bad";

/**
 * Reads a number of seconds, milliseconds, microseconds or nanoseconds since the Unix epoch (told apart by its size), the
 * same as text, or ISO 8601 text. ISO text without a zone names no point in time, null none at all, and the time of a clock that
 * was never set is none: `none`.
 */
export function deviceTime(value: unknown): DeviceTime {
  if (value === undefined || value === null) return "none";
  if (typeof value === "number") return fromEpoch(value);
  if (typeof value !== "string") return "bad";
  if (EPOCH_TEXT.test(value)) return fromEpoch(Number(value));
  const [, date, clock, fraction = "", zone] = ISO.exec(value) ?? [];
  if (date === undefined || clock === undefined) return "bad";
  const ms = Date.parse(`${date}T${clock}${withColon(zone ?? "Z")}`);
  if (Number.isNaN(ms)) return "bad";
  return zone === undefined ? "none" : inRange(ms * 1000 + Number(fraction.padEnd(6, "0").slice(0, 6)));
}

/** `+0130` and `+01` as JavaScript reads them. */
function withColon(zone: string): string {
  if (zone.length === 3) return `${zone}:00`;
  return zone.length === 5 ? `${zone.slice(0, 3)}:${zone.slice(3)}` : zone.toUpperCase();
}

/** The sizes overlap nowhere between 1973 and 5138. */
function fromEpoch(value: number): DeviceTime {
  if (value < 1e11) return inRange(value * 1e6);
  if (value < 1e14) return inRange(value * 1e3);
  return inRange(value < 1e17 ? value : value / 1e3);
}

function inRange(us: number): DeviceTime {
  const whole = Math.round(us);
  if (!(whole >= 0 && whole <= LATEST_US)) return "bad";
  return whole < EARLIEST_US ? "none" : whole;
}
