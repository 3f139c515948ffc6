/**
 * The uplink to an MQTT broker. mqtt.js is the transport and no more: it has no store, no queue and no reconnection of
 * its own (it would lose what it holds past 65,535 messages without a word). Each connection is a fresh client; the
 * pipeline owns the window and the order, and sends again what was not acknowledged.
 */
import { Socket } from "node:net";
import mqtt, {
  type IClientOptions,
  type IClientPublishOptions,
  type IConnackPacket,
  type MqttClient,
} from "mqtt";
import { messageOf, WeirError } from "../core/errors.ts";
import { freeNow } from "../core/free.ts";
import type { DurableNotice, Outgoing, Uplink } from "../core/ports.ts";
import { tlsOptions } from "../core/tls.ts";
import { MOST_CONTEXTS } from "../core/trace.ts";
import { readDurableNotice } from "./durable-notice.ts";
import type { UplinkOptions } from "./options.ts";
import { answerOf, connectionReason, isCrowded, PAUSE_MS, TAKEN_OVER, TOO_LARGE } from "./reasons.ts";
import { fillTopic } from "./topics.ts";
import { Turns } from "./turns.ts";
import { storeUncopied } from "./uncopied.ts";
import { onUnfinished, UNFINISHED_BYTES } from "./unfinished.ts";

const CONNECT_TIMEOUT_MS = 10_000;
const LEAST_BACKOFF_MS = 500;
/** With {@link CONNECT_TIMEOUT_MS} below 30 s: that long after a broker is back, data flows. */
const MOST_BACKOFF_MS = 15_000;
/** The properties that repeat a batch's key, and the packet's own bytes, beside topic and payload. */
const HEAD_BYTES = 512;
/** A trace context and its links. */
const TRACE_BYTES = 64 * (1 + MOST_CONTEXTS);
/** So many times within this another client has taken the session over: then it is another gateway's name, and we stop. */
const TAKEOVERS = 3;
const TAKEOVER_WINDOW_MS = 5 * 60_000;
/** No broker takes less: below it, the size is not what it minds. */
const LEAST_PACKET = 1_024;
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
  /** [MQTT-3.2.2-11] */
  readonly maximumQoS: number;
  /** largest packet in bytes (MQTT5 3.2.2.3.6) */
  readonly maximumPacketSize: number;
  /** fails every publish that waits when the connection ends */
  readonly fail: Set<(error: WeirError) => void>;
  /** of QoS 1 and 2 messages: a batch may be many [MQTT-3.3.4-7] */
  readonly turns: Turns;
}

/** Keeps a connection to one broker of a list, with back-off and jitter. */
export class MqttUplink implements Uplink {
  readonly name: string;
  readonly #options: UplinkOptions;
  readonly #parts: MqttUplinkParts;
  readonly #listeners = new Set<() => void>();
  readonly #durable = new Set<(notice: DurableNotice) => void>();
  readonly #urls: readonly string[];
  readonly #headBytes: number;
  /** which of the brokers is connected, or tried next */
  #at = 0;
  #session: Session | undefined;
  /** on the monotonic clock: a quota was exceeded, nothing is sent before */
  #pausedUntilMs = 0;
  #takeovers: number[] = [];
  /** the largest packet of this connection, and what a broker that ended one for its size is taken to accept */
  #largestBytes = 0;
  #learntBytes = Number.POSITIVE_INFINITY;
  /** the last reason asked for fewer connections */
  #crowded = false;
  #failback: NodeJS.Timeout | undefined;
  #pause: NodeJS.Timeout | undefined;
  #stopped = false;
  #attempts = 0;
  #retry: NodeJS.Timeout | undefined;
  #connecting: MqttClient | undefined;
  lastError: string | undefined;

  constructor(name: string, options: UplinkOptions, parts: MqttUplinkParts) {
    this.name = name;
    this.#options = options;
    this.#parts = parts;
    this.#urls = [options.url, ...options.fallback];
    const topic = fillTopic(options.topics.batch, { gateway: parts.gateway, stream: "alarm" });
    this.#headBytes = HEAD_BYTES + (options.traceparent ? TRACE_BYTES : 0) + 2 * Buffer.byteLength(topic);
  }

  get window(): number {
    if (performance.now() < this.#pausedUntilMs) return 0;
    return Math.min(this.#options.window, this.#session?.receiveMaximum ?? this.#options.window);
  }

  /** The broker that is connected; undefined while none is. */
  get broker(): string | undefined {
    return this.#session === undefined ? undefined : this.#urls[this.#at];
  }

  get connected(): boolean {
    return this.#session !== undefined;
  }

  get mostPayloadBytes(): number | undefined {
    if (this.#session === undefined) return undefined;
    return Math.max(1, this.#session.maximumPacketSize - this.#headBytes);
  }

  onDurable(listener: (notice: DurableNotice) => void): () => void {
    this.#durable.add(listener);
    return () => this.#durable.delete(listener);
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Begins to connect; does not wait for it: a gateway may boot without a network. */
  start(signal: AbortSignal): Promise<void> {
    signal.addEventListener("abort", () => this.#clearTimers(), { once: true });
    this.#connect();
    return Promise.resolve();
  }

  async publish(message: Outgoing, again = false): Promise<void> {
    const session = this.#session;
    if (session === undefined) throw new WeirError("uplink.unavailable", `${this.name}: not connected`);
    const size = message.payload.byteLength + 2 * Buffer.byteLength(message.topic) + 64;
    if (size > session.maximumPacketSize) {
      // Batches were made to fit; what is left is a retained message of one device.
      throw new WeirError(
        "uplink.rejected",
        `about ${size} bytes, the broker takes ${session.maximumPacketSize}`,
      );
    }
    this.#largestBytes = Math.max(this.#largestBytes, size);
    if (Math.min(message.qos, session.maximumQoS) === 0) return await this.#send(session, message, again);
    const turn = session.turns.take();
    if (turn !== undefined) await turn;
    try {
      await this.#send(session, message, again);
    } finally {
      session.turns.give();
    }
  }

  /** Hands a message to the connection, and waits for its acknowledgement. */
  async #send(session: Session, message: Outgoing, again: boolean): Promise<void> {
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
      this.#publishOptions(message, session.maximumQoS, again),
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
    // Sent, and not only said to be: a broker may acknowledge what the system is still reading. What a WebSocket has written is unknown.
    const { stream } = session.client;
    if (stream instanceof Socket && stream.writableLength === 0) freeNow(message.payload);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#clearTimers();
    this.#connecting?.end(true);
    const client = this.#session?.client;
    if (client === undefined) return;
    const goodbye = this.publish(this.#parts.status(false))
      .catch(() => {})
      .then(() => client.endAsync());
    await Promise.race([goodbye, new Promise((resolve) => setTimeout(resolve, GOODBYE_MS).unref())]);
    client.end(true);
  }

  #publishOptions(message: Outgoing, maximumQoS: number, again: boolean): IClientPublishOptions {
    const retain = message.retain && this.#options.retain;
    const most = Math.min(message.qos, maximumQoS);
    const qos = most === 0 ? 0 : most === 1 ? 1 : 2;
    // MQTT 5, 3.3.1.1: it might be a re-delivery of an earlier attempt; never set with QoS 0 [MQTT-3.3.1-2].
    const options: IClientPublishOptions = { qos, retain, dup: again && qos > 0 };
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
    const { name, answer } = answerOf(code);
    if (answer === "pause") this.#rest();
    const detail = `${this.name}: ${code === undefined ? error.message : name}`;
    this.#note(detail);
    const kind =
      answer === "reject"
        ? "uplink.rejected"
        : answer === "refused"
          ? "uplink.refused"
          : "uplink.unavailable";
    return new WeirError(kind, detail, { cause: error });
  }

  /** Nothing is sent for a while; the connection stays. */
  #rest(): void {
    this.#pausedUntilMs = performance.now() + PAUSE_MS;
    clearTimeout(this.#pause);
    this.#pause = setTimeout(() => this.#tell(), PAUSE_MS + 1);
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }

  #clearTimers(): void {
    for (const timer of [this.#retry, this.#failback, this.#pause]) clearTimeout(timer);
  }

  #connect(): void {
    const { version, username, password, qos, tls, retain } = this.#options;
    const url = this.#urls[this.#at] ?? this.#options.url;
    const { hostname, protocol } = new URL(url);
    let security: Partial<IClientOptions> = {};
    try {
      const files = (): ReturnType<typeof tlsOptions> => tlsOptions(tls, hostname.replace(/^\[|\]$/g, ""));
      if (protocol === "mqtts:") security = files();
      else if (protocol === "wss:") security = { wsOptions: files() };
    } catch (thrown) {
      // A file that is being replaced, or has gone: the next try may find it.
      this.#note(`tls: ${messageOf(thrown)}`);
      this.#later(false);
      return;
    }
    const will = this.#parts.status(false);
    const client = mqtt.connect(url, {
      protocolVersion: version,
      clientId: this.#clientId,
      ...(username === undefined ? {} : { username: this.#fill(username, hostname) }),
      ...(password === undefined ? {} : { password }),
      clean: true,
      reconnectPeriod: 0,
      connectTimeout: CONNECT_TIMEOUT_MS,
      keepalive: 30,
      queueQoSZero: false,
      resubscribe: false,
      ...security,
      // A broker that takes QoS 0 alone would refuse more.
      will: { topic: will.topic, payload: Buffer.from(will.payload), qos: qos === 0 ? 0 : 1, retain },
    });
    storeUncopied(client);
    this.#connecting = client;
    client.once("connect", (connack) => this.#opened(client, connack));
    client.on("error", (error) => this.#failed(error));
    client.on("disconnect", ({ reasonCode = 0 }) => this.#disconnected(reasonCode));
    client.on("message", (topic, payload) => this.#hear(topic, payload));
    client.once("close", () => this.#closed(client));
    onUnfinished(client, () => {
      this.#note(`the broker sent a packet of over ${UNFINISHED_BYTES} bytes`);
      client.stream.destroy();
    });
  }

  /** The consumer speaks on one topic; anything else that comes is not ours. */
  #hear(topic: string, payload: Uint8Array): void {
    if (topic !== this.#ackTopic()) return;
    const notice = readDurableNotice(payload);
    if (notice === undefined) this.#warn(`${topic}: not a confirmation: see docs/uplinks.md`);
    else for (const listener of this.#durable) listener(notice);
  }

  get #clientId(): string {
    return this.#fill(this.#options.clientId);
  }

  #fill(template: string, host = ""): string {
    return fillTopic(template, { gateway: this.#parts.gateway, uplink: this.name, host });
  }

  #ackTopic(): string | undefined {
    const topic = this.#options.appAck?.topic;
    return topic === undefined ? undefined : this.#fill(topic);
  }

  #failed(error: Error): void {
    const code = "code" in error && typeof error.code === "number" ? error.code : undefined;
    if (code !== undefined) this.#crowded = isCrowded(code);
    this.#note(
      code === undefined ? messageOf(error) : `the broker refused the connection: ${connectionReason(code)}`,
    );
  }

  #disconnected(code: number): void {
    this.#crowded = isCrowded(code);
    this.#note(`the broker ended the connection: ${connectionReason(code)}`);
    if (code === TOO_LARGE) this.#learntBytes = Math.max(LEAST_PACKET, this.#largestBytes >> 1);
    if (code !== TAKEN_OVER) return;
    const now = performance.now();
    this.#takeovers = [...this.#takeovers.filter((at) => at > now - TAKEOVER_WINDOW_MS), now];
    if (this.#takeovers.length < TAKEOVERS) return;
    this.#stopped = true;
    this.#note(
      `another client uses the client id ${this.#clientId}: stopped, so as not to fight it; give each gateway a name or a clientId of its own, then \`weir reload\``,
    );
    this.#parts.log("error", `uplink ${this.name}: ${this.lastError}`);
  }

  #opened(client: MqttClient, connack: IConnackPacket): void {
    const properties = connack.properties;
    const { maxPacketBytes = Number.POSITIVE_INFINITY, failback } = this.#options;
    this.#connecting = undefined;
    this.#largestBytes = 0;
    const receiveMaximum = properties?.receiveMaximum ?? 65_535;
    this.#session = {
      client,
      receiveMaximum,
      maximumQoS: properties?.maximumQoS ?? 2,
      maximumPacketSize: Math.min(
        properties?.maximumPacketSize ?? 268_435_455,
        maxPacketBytes,
        this.#learntBytes,
      ),
      fail: new Set(),
      turns: new Turns(receiveMaximum),
    };
    this.lastError = undefined;
    this.#crowded = false;
    this.#parts.log("info", `uplink ${this.name}: connected to ${this.#urls[this.#at]}`);
    if (this.#options.qos > this.#session.maximumQoS)
      this.#warn(
        `the broker takes QoS ${this.#session.maximumQoS} at most: batches are sent so; set \`qos\``,
      );
    const ackTopic = this.#ackTopic();
    if (ackTopic !== undefined) {
      client.subscribe(ackTopic, { qos: 1 }, (error) => {
        if (error)
          this.#warn(`${ackTopic}: not subscribed to, so that nothing is confirmed: ${messageOf(error)}`);
      });
    }
    // Back to the first broker after a while; batches wait for the moment that takes.
    clearTimeout(this.#failback);
    if (this.#at > 0) this.#failback = setTimeout(() => client.end(), failback);
    this.publish(this.#parts.status(true)).then(
      () => {
        this.#attempts = 0;
      },
      (thrown: unknown) => this.#note(messageOf(thrown)),
    );
    this.#tell();
  }

  #closed(client: MqttClient): void {
    client.end(true);
    // A client that is done may still report what its socket does: nobody is to crash from that.
    client.on("error", () => {});
    clearTimeout(this.#failback);
    this.#connecting = undefined;
    const session = this.#session;
    this.#session = undefined;
    // The first one again after a connection, the next one after none.
    this.#at = session === undefined ? (this.#at + 1) % this.#urls.length : 0;
    if (session !== undefined) {
      const error = new WeirError("uplink.unavailable", `${this.name}: connection lost`);
      for (const fail of session.fail) fail(error);
      session.turns.fail(error);
      this.#tell();
    }
    this.#later(session !== undefined);
  }

  /** Tries again after a while; says so at the first failure, and when a connection was lost. */
  #later(lost: boolean): void {
    if (this.#stopped) return;
    this.#attempts += 1;
    const most = Math.min(MOST_BACKOFF_MS, LEAST_BACKOFF_MS * 2 ** Math.min(this.#attempts - 1, 10));
    // The others of a list are tried at once, the first one with back-off.
    const soon = this.#at > 0 && this.#attempts > 0;
    const least = this.#crowded ? PAUSE_MS : 0;
    const waitMs = soon
      ? LEAST_BACKOFF_MS * Math.random()
      : Math.max(least, most / 2 + Math.random() * (most / 2));
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

  /** Notes it, and has it in the log, once in a row. */
  #warn(message: string): void {
    if (this.lastError !== message) this.#parts.log("warn", `uplink ${this.name}: ${message}`);
    this.#note(message);
  }
}
