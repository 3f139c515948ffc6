/**
 * The broker that has the embedded one's port already, as a mosquitto that was here before. It takes the embedded one's place until
 * it has been gone for a while, Weir restarts or its configuration changes: devices are read from it, by the same rules, and what is
 * for local applications is published there.
 */
import type { Intake, LocalBroker, Outgoing } from "./core/ports.ts";
import { NEIGHBOUR } from "./neighbour-name.ts";
import type { MqttSource } from "./sources/mqtt-source.ts";
import { type MqttSourcesParts, mqttSource } from "./sources/mqtt-sources.ts";
import type { DeviceRule, MqttSourceOptions } from "./sources/options.ts";
import type { UplinkOptions } from "./uplink/options.ts";

/** Longest that it may take to let Weir in, in milliseconds. */
const CONNECT_MS = 3_000;
/** How often that is looked at. */
const LOOK_MS = 20;
/** A neighbour that can't be reached for so long has left its place, in milliseconds: longer than its own restart or upgrade takes. */
const AWAY_MS = 60_000;

/** How devices are read from it. */
const SOURCE: Omit<MqttSourceOptions, "url" | "rules"> = {
  version: 4,
  tls: {},
  qos: 1,
  keepaliveS: 30,
  sessionExpiryS: 86_400,
};

/** What the neighbour is used for, and how. */
export interface NeighbourParts extends MqttSourcesParts {
  readonly host: string;
  readonly port: number;
  /** mapping rules of the embedded broker, and where they begin in the decoder's list */
  readonly rules: readonly DeviceRule[];
  readonly firstRule: number;
  /** of the uplink that would publish on the embedded broker */
  readonly uplink: UplinkOptions;
  readonly status: (online: boolean) => Outgoing;
  readonly intake: Intake;
  readonly signal: AbortSignal;
  /** it has been gone for a minute */
  readonly gone: () => void;
}

/** A broker in the embedded one's place. */
export interface Neighbour extends LocalBroker {
  readonly source: MqttSource | undefined;
  readonly address: { readonly host: string; readonly port: number };
  /** Ends in the order of the embedded broker: reads no more, has what it read settled, says goodbye. */
  stop(settled: () => Promise<void>): Promise<void>;
}

/** Connects to it. Undefined when it isn't a broker that lets Weir publish: another Weir's doesn't. */
export async function findNeighbour(parts: NeighbourParts): Promise<Neighbour | undefined> {
  const { host, port, rules, firstRule, uplink: options, gateway, status, log, intake, signal } = parts;
  const url = `mqtt://${host}:${port}`;
  // Loaded only where it is used: mqtt.js takes 8 MB.
  const { MqttUplink } = await import("./uplink/mqtt.ts");
  const uplink = new MqttUplink("local", { ...options, url, version: 4 }, { gateway, status, log: () => {} });
  await uplink.start(signal);
  for (const until = performance.now() + CONNECT_MS; !uplink.connected; ) {
    if (performance.now() > until || signal.aborted) {
      await uplink.stop();
      return undefined;
    }
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
  const source =
    rules.length === 0
      ? undefined
      : mqttSource(NEIGHBOUR, { ...SOURCE, url, rules: [...rules] }, firstRule, parts);
  await source?.start(intake, signal);
  log(
    "warn",
    `${host}:${port} is another broker's: devices are read from it, and local applications served there`,
  );
  let away: NodeJS.Timeout | undefined;
  const unhear = uplink.onChange(() => {
    clearTimeout(away);
    if (!uplink.connected) away = setTimeout(parts.gone, AWAY_MS);
  });
  return {
    source,
    address: { host, port },
    get connected() {
      return uplink.connected;
    },
    onChange: (listener) => uplink.onChange(listener),
    publish: (message) => uplink.publish(message),
    stop: async (settled) => {
      unhear();
      clearTimeout(away);
      await source?.stop();
      await settled();
      await source?.close();
      await uplink.stop();
    },
  };
}
