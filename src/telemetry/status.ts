/** The status topic's messages: birth, will and goodbye (docs/specs/json.md). */
import type { Outgoing } from "../core/ports.ts";

/** What a status message tells. */
export interface StatusFacts {
  readonly gateway: string;
  readonly version: string;
  readonly epoch: string;
  /** milliseconds since the Unix epoch: when this agent started */
  readonly since: number;
  /** the uplinks' names, and of earlier epochs the last sequence number by stream */
  readonly uplinks: readonly string[];
  readonly epochs: readonly { readonly epoch: string; readonly stream: string; readonly lastSeq: number }[];
}

/** The retained status message. `online: false` is the will and the goodbye. */
export function statusMessage(topic: string, facts: StatusFacts, online: boolean): Outgoing {
  const body = { v: 1, status: online ? "online" : "offline", ...facts };
  return {
    topic,
    payload: Buffer.from(JSON.stringify(body)),
    qos: 1,
    retain: true,
    contentType: "application/json",
    userProperties: undefined,
  };
}
