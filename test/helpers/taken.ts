/** Keeps what a source hands over. */
import type { DeviceMessage } from "../../src/core/ports.ts";

/** A copy of a message: the source's own is only good until it is settled. It is to be settled by the copy. */
export function taken(message: DeviceMessage): DeviceMessage {
  const { topic, route, payload, timeUs, qos, retained } = message;
  const kept = message.keep?.() ?? message;
  const settle: DeviceMessage["settle"] =
    kept.settle === undefined ? undefined : (outcome) => kept.settle?.(outcome);
  return { topic, route, payload: Buffer.from(payload), timeUs, qos, retained, settle };
}
