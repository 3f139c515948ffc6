/** Client ids of MQTT: a broker lets one client of each in at a time. */
import type { z } from "zod";

/** Something that connects to brokers. */
export interface MqttClient {
  /** its key in the section that is checked */
  readonly name: string;
  readonly urls: readonly string[];
  readonly clientId: string;
}

/** Adds an issue for each of a section's members that would be another one's client at the same broker. */
export function refineClientIds(clients: Iterable<MqttClient>, context: z.core.$RefinementCtx): void {
  const taken = new Map<string, string>();
  for (const { name, urls, clientId } of clients) {
    let other: string | undefined;
    for (const url of urls) {
      const client = `${URL.parse(url)?.host} ${clientId}`;
      const before = taken.get(client);
      if (before !== name) other = before ?? other;
      taken.set(client, name);
    }
    const message = `is ${other}'s at the same broker, which lets one of them in at a time`;
    if (other !== undefined) context.addIssue({ code: "custom", path: [name, "clientId"], message });
  }
}
