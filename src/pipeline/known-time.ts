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

/** Alarms get the outbox's time, which is the wall clock's: where that is wrong, the known one goes with them. */
export function withKnownTime(effects: readonly Effect[], { valid, nowUs }: KnownTime): readonly Effect[] {
  if (valid) return effects;
  return effects.map((effect) => (effect.type === "alarm" ? { ...effect, knownUs: nowUs } : effect));
}
