/** The retained message of each alarm: there while it is active, emptied when it ends. */
import { type Frame, Kind } from "../core/frame.ts";
import type { Outgoing } from "../core/ports.ts";
import { milliseconds } from "./encode-json.ts";
import { fillTopic } from "./topics.ts";

const ALARM = /^alarm\.(active|severity|message);code=([^;]+)$/;
const encoder = new TextEncoder();

interface Alarm {
  readonly device: string;
  /** as it stands in the label, percent-encoded */
  readonly code: string;
  timeUs: number;
  active: boolean;
  severity: string;
  message: string;
}

/** The message of every alarm whose `alarm.active` is in the frames: its last state, in order of first appearance. */
export function encodeAlarms(template: string, gateway: string, frames: readonly Frame[]): Outgoing[] {
  const alarms = new Map<string, Alarm>();
  for (const frame of frames) for (let row = 0; row < frame.rows; row++) collect(alarms, frame, row);
  return Array.from(alarms.values(), (alarm) => message(template, gateway, alarm));
}

/** Rows of one alarm stand together, `active` first: that row begins the state, the others complete it. */
function collect(alarms: Map<string, Alarm>, frame: Frame, row: number): void {
  const [, part, code] = ALARM.exec(frame.metrics[frame.metric[row] ?? 0] ?? "") ?? [];
  const device = frame.devices[frame.device[row] ?? 0];
  if (part === undefined || code === undefined || device === undefined) return;
  const value = frame.value[row] ?? 0;
  const key = `${device}/${code}`;
  if (part === "active") {
    const active = frame.kind[row] === Kind.boolean && value === 1;
    alarms.set(key, { device, code, timeUs: frame.time[row] ?? 0, active, severity: "info", message: "" });
    return;
  }
  const alarm = alarms.get(key);
  if (alarm !== undefined && frame.kind[row] === Kind.text) {
    alarm[part === "severity" ? "severity" : "message"] = frame.texts[value] ?? "";
  }
}

/** The code itself; one that is not percent-encoding stands for itself. */
function decoded(code: string): string {
  try {
    return decodeURIComponent(code);
  } catch {
    return code;
  }
}

function message(template: string, gateway: string, alarm: Alarm): Outgoing {
  const level = alarm.code.replace(
    /[/+#]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  const topic = fillTopic(template, { gateway, device: alarm.device, code: level });
  const { device, code, severity, timeUs } = alarm;
  const body = { device, code: decoded(code), active: true, severity, message: alarm.message };
  const text = alarm.active ? `${JSON.stringify(body).slice(0, -1)},"ts":${milliseconds(timeUs)}}` : "";
  return {
    topic,
    payload: encoder.encode(text),
    qos: 1,
    retain: true,
    contentType: alarm.active ? "application/json" : undefined,
    userProperties: undefined,
  };
}
