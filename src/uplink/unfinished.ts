/** A limit that mqtt.js lacks: of a packet that never comes to its end. */
import type { MqttClient } from "mqtt";

/** What a broker may send without a packet coming to its end, in bytes. */
export const UNFINISHED_BYTES: number = 1024 * 1024;

/** Calls back when a packet seems to have no end: mqtt.js would keep all of it. */
export function onUnfinished(client: MqttClient, tell: () => void): void {
  let bytes = 0;
  client.on("packetreceive", () => {
    bytes = 0;
  });
  client.stream.on("data", (part: Uint8Array) => {
    bytes += part.byteLength;
    if (bytes > UNFINISHED_BYTES) tell();
  });
}
