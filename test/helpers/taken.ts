/** Keeps what a source hands over. */
import type { DeviceMessage } from "../../src/core/ports.ts";

/** A copy of a message: the source's own is only good until it is settled. */
export const taken = (message: DeviceMessage): DeviceMessage => ({
  topic: message.topic,
  route: message.route,
  payload: Buffer.from(message.payload),
  timeUs: message.timeUs,
  qos: message.qos,
  retained: message.retained,
  settle: message.settle === undefined ? undefined : (outcome) => message.settle?.(outcome),
});
