/** What an MQTT reason code asks of us: the table of docs/uplinks.md. Names and numbers: MQTT 5, 2.4. */

/** What is done about it. */
export type Answer = "reject" | "refused" | "pause" | "retry";

interface Reason {
  readonly name: string;
  readonly answer: Answer;
}

/**
 * `reject`: it will be the same however often the message is sent. `refused`: sent again, five times at most. `pause`: the broker has had
 * enough for now, nothing is sent for {@link PAUSE_MS}. `retry`: sent again, with back-off.
 */
const PUBACK: ReadonlyMap<number, Reason> = new Map([
  [0x80, { name: "unspecified error", answer: "refused" }],
  [0x83, { name: "implementation specific error", answer: "refused" }],
  [0x87, { name: "not authorised", answer: "retry" }],
  [0x90, { name: "topic name invalid", answer: "reject" }],
  [0x91, { name: "packet identifier in use", answer: "retry" }],
  [0x97, { name: "quota exceeded", answer: "pause" }],
  [0x99, { name: "payload format invalid", answer: "reject" }],
]);

/** Reasons of CONNACK and DISCONNECT, with what a person can do about them. MQTT 3.1.1 has codes 1 to 5 (3.2.2.3). */
const CONNECTION: ReadonlyMap<number, string> = new Map([
  [0x01, "protocol version not accepted: set `version: 5`, or 4"],
  [0x02, "client identifier not accepted: set `clientId`"],
  [0x03, "server unavailable"],
  [0x04, "bad user name or password"],
  [0x05, "not authorised"],
  [0x80, "unspecified error"],
  [0x82, "protocol error"],
  [0x83, "implementation specific error"],
  [0x84, "protocol version not supported: set `version: 4`"],
  [0x85, "client identifier not valid: set `clientId`"],
  [0x86, "bad user name or password"],
  [0x87, "not authorised"],
  [0x88, "server unavailable"],
  [0x89, "server busy"],
  [0x8a, "banned"],
  [0x8b, "server shutting down"],
  [0x8d, "keep alive timeout"],
  [0x8e, "session taken over by another client with the same client identifier"],
  [0x90, "topic name invalid (the will's)"],
  [0x93, "receive maximum exceeded"],
  [0x95, "packet too large"],
  [0x96, "message rate too high"],
  [0x97, "quota exceeded"],
  [0x98, "administrative action"],
  [0x99, "payload format invalid (the will's)"],
  [0x9a, "retained messages not supported: set `retain: false`"],
  [0x9b, "QoS not supported: lower `qos`"],
  [0x9c, "use another server"],
  [0x9d, "server moved"],
  [0x9f, "connection rate exceeded"],
]);

/** The session is another client's now (MQTT 5, 3.14.2.1). */
export const TAKEN_OVER = 0x8e;
/** A packet was larger than the broker takes, whatever its CONNACK said (MQTT 5, 3.14.2.1). */
export const TOO_LARGE = 0x95;
/** How long nothing is sent after a quota was exceeded, in milliseconds. */
export const PAUSE_MS = 10_000;
/** Codes after which a new connection waits at least {@link PAUSE_MS}. */
const CROWDED: ReadonlySet<number> = new Set([0x89, 0x96, 0x97, 0x9f]);

/** Whether the broker asks for fewer connections or messages. */
export const isCrowded = (code: number): boolean => CROWDED.has(code);

const hex = (code: number): string => `0x${code.toString(16).padStart(2, "0")}`;

/** What to do about a PUBACK or PUBREC that is no success. Codes that aren't known are tried again. */
export function answerOf(code: number | undefined): Reason {
  if (code === undefined) return { name: "not acknowledged", answer: "retry" };
  const { name, answer } = PUBACK.get(code) ?? { name: "unknown reason", answer: "refused" as const };
  return { name: `${name} (reason ${hex(code)})`, answer };
}

/** A CONNACK's or DISCONNECT's reason in words. */
export const connectionReason = (code: number): string =>
  `${CONNECTION.get(code) ?? "unknown reason"} (reason ${hex(code)})`;
