/** Sources and alarms go by the wall clock; while that is not to be relied on, the time that is known is put in, and flagged. */
import type { GatewayClock } from "../core/clock.ts";
import { type Frame, Status } from "../core/frame.ts";
import type { Effect } from "../core/ports.ts";

/** What is known of the time. */
export type KnownTime = Pick<GatewayClock, "valid" | "offsetUs" | "nowUs">;

/** Puts right the time of a frame's rows; with `bit`, only of those that have it in their status. */
export function correctTimes({ rows, status, time }: Frame, { valid, offsetUs }: KnownTime, bit = 0): void {
  if (valid) return;
  for (let row = 0; row < rows; row++) {
    const before = status[row] ?? 0;
    if ((before & bit) !== bit) continue;
    time[row] = (time[row] ?? 0) + offsetUs;
    status[row] = before | Status.clockUnsynchronised;
  }
}

/** Times that were given to plugins while the clock was not to be relied on, to the millisecond. */
export type GivenTimes = Set<number>;

const toMs = (timeUs: number): number => Math.floor(timeUs / 1000);

/** Notes a time that a plugin is given. */
export const given = (times: GivenTimes | undefined, timeUs: number): GivenTimes =>
  (times ?? new Set()).add(toMs(timeUs));

/** Flags what plugins made of times that were given to them: rows in the gateway's time by their status, or by having such a time. */
export function flagGiven({ rows, status, time }: Frame, times: GivenTimes): void {
  for (let row = 0; row < rows; row++) {
    const before = status[row] ?? 0;
    if ((before & Status.gatewayTime) !== 0 || times.has(toMs(time[row] ?? 0)))
      status[row] = before | Status.clockUnsynchronised;
  }
}

/** Alarms get the outbox's time, which is the wall clock's: where that is wrong, the known one goes with them. */
export function withKnownTime(effects: readonly Effect[], { valid, nowUs }: KnownTime): readonly Effect[] {
  if (valid) return effects;
  return effects.map((effect) => (effect.type === "alarm" ? { ...effect, knownUs: nowUs } : effect));
}
