/**
 * mqtt.js stores a copy of every QoS 1 message that it sends, payload and all, to send it again over the client's next connection. Here a
 * client has one connection: what is to be sent again comes from the outbox. At 20 MB/s these copies, which outlive a young generation,
 * had the main thread collect its whole heap every second.
 */
import type { MqttClient, Packet } from "mqtt";

/**
 * Has the client store what it sends as it is, from now on. Overrides a method that mqtt.js keeps to itself; without its topic aliases,
 * which nobody turns on.
 * @returns false when this mqtt.js works in another way: then it copies
 */
export function storeUncopied(client: MqttClient): boolean {
  const write: unknown = Reflect.get(client, "_writePacket");
  if (typeof write !== "function" || typeof Reflect.get(client, "_storeAndSend") !== "function") return false;
  const storeAndSend = (packet: Packet, sent: (error?: Error) => void, stored: () => void): void => {
    client.outgoingStore.put(packet, (error) => {
      if (error) {
        sent(error);
        return;
      }
      stored();
      write.call(client, packet, sent);
    });
  };
  return Reflect.set(client, "_storeAndSend", storeAndSend);
}
