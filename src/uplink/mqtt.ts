/**
 * The uplink to an MQTT broker. mqtt.js is the transport and no more: it has no store, no queue and no reconnection of
 * its own (it would lose what it holds past 65,535 messages without a word). Each connection is a fresh client; the
 * pipeline owns the window and the order, and sends again what was not acknowledged.
 */
import mqtt, { type IClientPublishOptions, type IConnackPacket, type MqttClient } from "mqtt";
import { messageOf, WeirError } from "../core/errors.ts";
import type { Outgoing, Uplink } from "../core/ports.ts";
import { type TlsOptions, tlsOptions } from "../core/tls.ts";
import type { UplinkOptions } from "./options.ts";

/** MQTT 5 reason codes that will be the same however often the message is sent (MQTT5 3.4.2.1). */
const FINAL_REASONS: ReadonlySet<number> = new Set([0x90, 0x95, 0x99]);
const CONNECT_TIMEOUT_MS = 10_000;
const LEAST_BACKOFF_MS = 500;
/** A PUBLISH beside its payload: a topic of a few hundred bytes, the properties that repeat the key. */
const HEAD_BYTES = 2_048;
/** With {@link CONNECT_TIMEOUT_MS} below 30 s: that long after a broker is back, data flows. */
const MOST_BACKOFF_MS = 15_000;
/** Time to say goodbye in, in milliseconds. */
const GOODBYE_MS = 2_000;

/** What an uplink needs beside its options. */
export interface MqttUplinkParts {
  /** the gateway's name, from which the client id comes */
  readonly gateway: string;
  /** the retained status message: birth when online, will and goodbye when not */
  readonly status: (online: boolean) => Outgoing;
  readonly log: (level: "info" | "warn" | "error", message: string) => void;
}

/** What one connection allows. */
interface Session {
  readonly client: MqttClient;
  /** most unacknowledged QoS 1 messages (MQTT5 3.2.2.3.3) */
  readonly receiveMaximum: number;
  /** largest packet in bytes (MQTT5 3.2.2.3.6) */
  readonly maximumPacketSize: number;
  /** fails every publish that waits when the connection ends */
  readonly fail: Set<(error: WeirError) => void>;
}

/** Keeps a connection to one broker, with back-off and jitter. */
export class MqttUplink implements Uplink {
  readonly name: string;
  readonly #options: UplinkOptions;
  readonly #parts: MqttUplinkParts;
  readonly #listeners = new Set<() => void>();
  #session: Session | undefined;
  #stopped = false;
  #attempts = 0;
  #retry: NodeJS.Timeout | undefined;
  #connecting: MqttClient | undefined;
  lastError: string | undefined;

  constructor(name: string, options: UplinkOptions, parts: MqttUplinkParts) {
    this.name = name;
    this.#options = options;
    this.#parts = parts;
  }

  get window(): number {
    return Math.min(this.#options.window, this.#session?.receiveMaximum ?? this.#options.window);
  }

  get connected(): boolean {
    return this.#session !== undefined;
  }

  get mostPayloadBytes(): number | undefined {
    return this.#session === undefined ? undefined : this.#session.maximumPacketSize - HEAD_BYTES;
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Begins to connect; does not wait for it: a gateway may boot without a network. */
  start(signal: AbortSignal): Promise<void> {
    signal.addEventListener("abort", () => clearTimeout(this.#retry), { once: true });
    this.#connect();
    return Promise.resolve();
  }

  async publish(message: Outgoing): Promise<void> {
    const session = this.#session;
    if (session === undefined) throw new WeirError("uplink.unavailable", `${this.name}: not connected`);
    const size = message.payload.byteLength + HEAD_BYTES;
    if (size > session.maximumPacketSize) {
      // Batches were made to fit; what is left is a retained message of one device.
      throw new WeirError(
        "uplink.rejected",
        `about ${size} bytes, the broker takes ${session.maximumPacketSize}`,
      );
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      // The broker took the message and never answered: nothing sent after it on this connection can be trusted.
      session.client.end(true);
      reject(
        new WeirError(
          "uplink.unavailable",
          `${this.name}: no acknowledgement in ${this.#options.ackTimeoutMs} ms`,
        ),
      );
    }, this.#options.ackTimeoutMs);
    session.fail.add(reject);
    session.client.publish(
      message.topic,
      Buffer.from(message.payload.buffer, message.payload.byteOffset, message.payload.byteLength),
      this.#publishOptions(message),
      (error) => {
        if (error) reject(this.#refused(error));
        else resolve();
      },
    );
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      session.fail.delete(reject);
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#connecting?.end(true);
    const client = this.#session?.client;
    if (client === undefined) return;
    const goodbye = this.publish(this.#parts.status(false)).catch(() => {});
    await Promise.race([goodbye, new Promise((resolve) => setTimeout(resolve, GOODBYE_MS).unref())]);
    await Promise.race([
      client.endAsync(),
      new Promise((resolve) => setTimeout(resolve, GOODBYE_MS).unref()),
    ]);
    client.end(true);
  }

  #publishOptions(message: Outgoing): IClientPublishOptions {
    const options: IClientPublishOptions = { qos: message.qos, retain: message.retain };
    if (this.#options.version !== 5) return options;
    const { contentType, userProperties } = message;
    return {
      ...options,
      properties: {
        ...(contentType === undefined ? {} : { contentType }),
        ...(userProperties === undefined ? {} : { userProperties: { ...userProperties } }),
      },
    };
  }

  #refused(error: Error): WeirError {
    const code = "code" in error && typeof error.code === "number" ? error.code : undefined;
    const detail = `${this.name}: ${error.message}${code === undefined ? "" : ` (reason 0x${code.toString(16)})`}`;
    const final = code !== undefined && FINAL_REASONS.has(code);
    return new WeirError(final ? "uplink.rejected" : "uplink.unavailable", detail, { cause: error });
  }

  #connect(): void {
    const { url, version, username, password, clientId, tls } = this.#options;
    const { hostname, protocol } = new URL(url);
    let security: Partial<TlsOptions> = {};
    try {
      if (protocol === "mqtts:") security = tlsOptions(tls, hostname.replace(/^\[|\]$/g, ""));
    } catch (thrown) {
      // A file that is being replaced, or has gone: the next try may find it.
      this.#note(`tls: ${messageOf(thrown)}`);
      this.#later(false);
      return;
    }
    const will = this.#parts.status(false);
    const client = mqtt.connect(url, {
      protocolVersion: version,
      clientId: clientId ?? `weir-${this.#parts.gateway}`,
      ...(username === undefined ? {} : { username }),
      ...(password === undefined ? {} : { password }),
      clean: true,
      reconnectPeriod: 0,
      connectTimeout: CONNECT_TIMEOUT_MS,
      keepalive: 30,
      queueQoSZero: false,
      resubscribe: false,
      ...security,
      will: { topic: will.topic, payload: Buffer.from(will.payload), qos: 1, retain: true },
    });
    this.#connecting = client;
    client.once("connect", (connack) => this.#opened(client, connack));
    client.on("error", (error) => this.#note(messageOf(error)));
    client.on("disconnect", (packet) =>
      this.#note(`the broker ended the connection, reason 0x${(packet.reasonCode ?? 0).toString(16)}`),
    );
    client.once("close", () => this.#closed(client));
  }

  #opened(client: MqttClient, connack: IConnackPacket): void {
    const properties = connack.properties;
    this.#connecting = undefined;
    this.#session = {
      client,
      receiveMaximum: properties?.receiveMaximum ?? 65_535,
      maximumPacketSize: properties?.maximumPacketSize ?? 268_435_455,
      fail: new Set(),
    };
    this.lastError = undefined;
    this.#parts.log("info", `uplink ${this.name}: connected to ${this.#options.url}`);
    this.publish(this.#parts.status(true)).then(
      () => {
        this.#attempts = 0;
      },
      (thrown: unknown) => this.#note(messageOf(thrown)),
    );
    for (const listener of this.#listeners) listener();
  }

  #closed(client: MqttClient): void {
    client.end(true);
    // A client that is done may still report what its socket does: nobody is to crash from that.
    client.on("error", () => {});
    this.#connecting = undefined;
    const session = this.#session;
    this.#session = undefined;
    if (session !== undefined) {
      const error = new WeirError("uplink.unavailable", `${this.name}: connection lost`);
      for (const fail of session.fail) fail(error);
      for (const listener of this.#listeners) listener();
    }
    this.#later(session !== undefined);
  }

  /** Tries again after a while; says so at the first failure, and when a connection was lost. */
  #later(lost: boolean): void {
    if (this.#stopped) return;
    this.#attempts += 1;
    const most = Math.min(MOST_BACKOFF_MS, LEAST_BACKOFF_MS * 2 ** Math.min(this.#attempts - 1, 10));
    const waitMs = most / 2 + Math.random() * (most / 2);
    if (this.#attempts === 1 || lost) {
      this.#parts.log(
        "warn",
        `uplink ${this.name}: ${this.lastError ?? "connection closed"}; trying again, batches wait in the outbox`,
      );
    }
    this.#retry = setTimeout(() => this.#connect(), waitMs);
  }

  #note(message: string): void {
    this.lastError = message;
  }
}
