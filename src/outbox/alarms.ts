/** Alarm effects as rows of stream `alarm`. */

import type { OwnAlarm } from "../core/errors.ts";
import {
  deviceProblem,
  type Frame,
  FrameLimits,
  invalidFrame,
  Kind,
  nameProblem,
  Status,
  utf8Length,
} from "../core/frame.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import { metricName } from "../core/labels.ts";
import type { Effect } from "../core/ports.ts";

/** An effect that raises or ends an alarm. */
export type AlarmEffect = Extract<Effect, { type: "alarm" }>;

/** An alarm that Weir raises itself; without a message it ends. */
export const ownAlarm = (code: OwnAlarm, message: string | undefined): AlarmEffect => ({
  type: "alarm",
  plugin: "_gateway",
  device: "_gateway",
  code,
  active: message !== undefined,
  severity: "critical",
  message: message ?? "",
});

const metricOf = (part: string, code: string): string => metricName(`alarm.${part}`, { code });

/**
 * Refuses an alarm that can't stand in a frame.
 * @throws WeirError `frame.invalid`
 */
export function checkAlarm(alarm: AlarmEffect): void {
  const wrong = deviceProblem(alarm.device);
  if (wrong !== undefined) throw invalidFrame(`alarm of plugin ${alarm.plugin}: device ${wrong}`);
  const name = alarm.code === "" ? "is empty" : nameProblem(metricOf("severity", alarm.code));
  if (name !== undefined) throw invalidFrame(`alarm of plugin ${alarm.plugin}: code ${name}`);
  if (utf8Length(alarm.message) > FrameLimits.textBytes)
    throw invalidFrame(`alarm of plugin ${alarm.plugin}: message is too long`);
}

/** Three rows for each alarm, in the gateway's time. */
export function alarmFrame(alarms: readonly AlarmEffect[], nowMs: number): Frame {
  const builder = new FrameBuilder(alarms.length * 3);
  for (const { device, code, active, severity, message, knownUs } of alarms) {
    const d = builder.device(device);
    const status = Status.gatewayTime | (knownUs === undefined ? 0 : Status.clockUnsynchronised);
    const add = (part: string, kind: Kind, value: number): void =>
      builder.add(d, builder.metric(metricOf(part, code)), knownUs ?? nowMs * 1000, kind, status, value);
    add("active", Kind.boolean, active ? 1 : 0);
    add("severity", Kind.text, builder.text(severity));
    add("message", Kind.text, builder.text(message));
  }
  return builder.build();
}
