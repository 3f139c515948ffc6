/**
 * The embedded broker: the source of device messages, and where local applications subscribe.
 *
 * MQTT 3.1.1 by Aedes. A QoS 1 or 2 message that a mapping rule matches is acknowledged once it is settled, that is
 * committed or rejected; until then Aedes' `authorizePublish` waits. Messages that no rule matches are passed on to
 * subscribers alone. docs/specs/broker.md says what clients can rely on.
 */
import { createServer, type Server, type Socket } from "node:net";
import { Aedes, type AedesPublishPacket, type Client, type ConnectPacket, type PublishPacket } from "aedes";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";
import type { StageCount } from "../core/ledger.ts";
import type { Intake, LocalPublisher, Outcome, Outgoing, Source } from "../core/ports.ts";
import { BrokerConnection } from "./broker-connection.ts";
import { FanOut } from "./fan-out.ts";
import type { BrokerOptions, DeviceRule } from "./options.ts";
import { Router } from "./router.ts";
import { SessionStore } from "./session-store.ts";

/** Connections at a time. */
const CONNECTIONS = 1000;
/** Unsettled bytes of all connections, at which only those that hold none are read from; at twice as many, none is. */
const HELD_BYTES = 16 * 1024 * 1024;
/** Bytes written to a subscriber and not yet taken, at which Weir's own publishing waits for it … */
const SLOW_BYTES = 256 * 1024;
/** … but not for longer than this, in milliseconds … */
const SLOW_WAIT_MS = 1000;
/** … and at which messages are no longer written to it. */
const SHED_BYTES = 4 * 1024 * 1024;
const TOPIC_LENGTH = 1024;
const CLIENT_ID_LENGTH = 256;
/** Subscriptions of one client. */
const FILTERS = 256;
const FLUSH_MS = 500;
/** Least time between two log lines about refusals, in milliseconds. */
const LOG_MS = 1000;

type Done = (error?: Error | null) => void;

/** What the broker tells the agent. */
export type BrokerLog = (level: "info" | "warn" | "error", message: string) => void;

/** Whether a topic is Weir's own, where nobody else publishes. */
const isOwn = (topic: string): boolean => topic === "weir" || topic.startsWith("weir/");

/** Why nobody outside may publish on a topic, or undefined. */
function refuse(topic: string): string | undefined {
  if (isOwn(topic)) return "only Weir publishes under weir/";
  if (topic.startsWith("$")) return "topics that begin with $ are the broker's"; // [MQTT-4.7.2-1]
  if (topic.length > TOPIC_LENGTH) return `the topic is over ${TOPIC_LENGTH} characters`;
  if (topic.includes("\0")) return "the topic has a NUL"; // [MQTT-1.5.3-2]
  if (topic.includes("\ufffd")) return "the topic is not UTF-8"; // [MQTT-1.5.3-1]
  return undefined;
}

/** The broker. Its life: `start`, `stop` (takes in no more), what is held is settled, `close`. */
export class EmbeddedBroker implements Source, LocalPublisher {
  readonly name = "devices";
  readonly #options: BrokerOptions;
  readonly #router: Router;
  readonly #count: StageCount;
  readonly #log: BrokerLog;
  readonly #connections = new Map<unknown, BrokerConnection>();
  readonly #slow = new Set<BrokerConnection>();
  readonly #waiters = new Set<() => void>();
  /** connections that hold nothing and were left unread because of what others hold */
  readonly #starved = new Set<BrokerConnection>();
  #aedes: Aedes | undefined;
  #server: Server | undefined;
  #sweep: NodeJS.Timeout | undefined;
  #intake: Intake | undefined;
  #heldBytes = 0;
  #loggedMs = 0;

  /**
   * `count` is the source's stage: the broker adds, beside its identity, `unmatched` (no rule), `refused` (connections
   * closed over what they sent), `unkept` (retained messages without room) and `shed` (deliveries to subscribers that
   * don't read). `rules` is the list that the routes' `rule` points into.
   */
  constructor(options: BrokerOptions, rules: readonly DeviceRule[], count: StageCount, log: BrokerLog) {
    this.#options = options;
    this.#router = new Router(rules, refuse);
    this.#count = count;
    this.#log = log;
  }

  /** Where it listens, once it does. */
  get address(): { readonly host: string; readonly port: number } | undefined {
    const address = this.#server?.address();
    return typeof address === "object" && address !== null
      ? { host: address.address, port: address.port }
      : undefined;
  }

  /** @throws WeirError `broker.port-in-use` when it can't listen */
  async start(intake: Intake, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const aedes = await this.#makeAedes();
    const server = createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 }, (socket) =>
      this.#accept(socket, aedes),
    );
    server.maxConnections = CONNECTIONS;
    server.on("drop", () => this.#count.note("refused", 1));
    this.#intake = intake;
    try {
      await listen(server, this.#options);
    } catch (thrown) {
      this.#intake = undefined;
      aedes.close();
      throw thrown;
    }
    server.on("error", (error) => this.#log("error", `embedded broker: ${error.message}`));
    this.#server = server;
    this.#aedes = aedes;
    this.#sweep = setInterval(() => this.#closeDead(), 1000);
    this.#sweep.unref();
  }

  /** Takes in nothing more. What is held can still be settled and is acknowledged; subscribers stay until {@link close}. */
  async stop(): Promise<void> {
    this.#intake = undefined;
    this.#server?.close();
  }

  /** Writes out what is on its way, then ends every connection. Never throws. */
  async close(): Promise<void> {
    await this.stop();
    clearInterval(this.#sweep);
    const aedes = this.#aedes;
    this.#aedes = undefined;
    if (aedes === undefined) return;
    // Aedes writes in a later turn of the loop.
    await new Promise(setImmediate);
    const flushed = Promise.all([...this.#connections.values()].map(({ socket }) => flush(socket)));
    await Promise.race([flushed, after(FLUSH_MS)]);
    await new Promise<void>((resolve) => aedes.close(resolve));
    for (const { socket } of this.#connections.values()) socket.destroy();
  }

  /**
   * Publishes to local subscribers; resolves once they have it in their buffers. The payload must stay as it is.
   * @throws WeirError `uplink.unavailable` while the broker doesn't run
   */
  async publish(message: Outgoing): Promise<void> {
    const aedes = this.#aedes;
    if (aedes === undefined) throw new WeirError("uplink.unavailable", "the embedded broker is not running");
    const { topic, qos, retain } = message;
    const payload = Buffer.from(
      message.payload.buffer,
      message.payload.byteOffset,
      message.payload.byteLength,
    );
    await new Promise<void>((resolve, reject) => {
      aedes.publish({ cmd: "publish", topic, payload, qos, retain, dup: false }, (error) => {
        if (error) reject(new WeirError("uplink.rejected", error.message, { cause: error }));
        else resolve();
      });
    });
    if (this.#slow.size > 0) await this.#untilTaken();
  }

  async #makeAedes(): Promise<Aedes> {
    const aedes = await Aedes.createBroker({
      mq: new FanOut(),
      persistence: new SessionStore(isOwn, () => this.#count.note("unkept", 1)),
      connectTimeout: 10_000,
      maxTopicLevels: 64,
      // Packets that come along with CONNECT: they are in memory already, bounded by what was read.
      queueLimit: 65_536,
      preConnect: (client, packet, done) => this.#connect(client, packet, done),
      authorizePublish: (client, packet, done) => this.#authorizePublish(client, packet, done),
      authorizeSubscribe: (client, subscription, done) => {
        const filters = this.#connections.get(client.conn)?.filters;
        const room = filters !== undefined && (filters.has(subscription.topic) || filters.size < FILTERS);
        if (room) filters.add(subscription.topic);
        done(null, room ? subscription : null);
      },
      authorizeForward: (client, packet) => this.#authorizeForward(client, packet),
    });
    aedes.on("unsubscribe", (filters, client) => {
      for (const filter of filters) this.#connections.get(client.conn)?.filters.delete(filter);
    });
    // Aedes' types leave this event out, which would end the process unheard.
    Reflect.apply(aedes.on, aedes, [
      "error",
      (error: unknown) => this.#log("error", `embedded broker: ${messageOf(error)}`),
    ]);
    return aedes;
  }

  #accept(socket: Socket, aedes: Aedes): void {
    const connection = new BrokerConnection(
      socket,
      (held) => this.#isShut(held, connection),
      () => this.#refused(connection, "a packet is too long"),
    );
    this.#connections.set(socket, connection);
    socket.once("close", () => {
      this.#connections.delete(socket);
      this.#starved.delete(connection);
      this.#taken(connection);
    });
    aedes.handle(socket);
  }

  /** Whether bytes of this connection, which holds so many messages, must wait in its socket. */
  #isShut(held: number, connection: BrokerConnection): boolean {
    if (this.#intake === undefined) return true;
    if (this.#heldBytes < (held > 0 ? HELD_BYTES : 2 * HELD_BYTES)) return false;
    // Nothing of its own will be settled and make Aedes read on.
    if (held === 0) this.#starved.add(connection);
    return true;
  }

  #feedStarved(): void {
    const connections = [...this.#starved];
    this.#starved.clear();
    for (const { socket } of connections) socket.emit("readable");
  }

  #connect(
    client: Client,
    packet: ConnectPacket,
    done: (error: Error | null, success: boolean) => void,
  ): void {
    const connection = this.#connections.get(client.conn);
    if (connection === undefined || packet.clientId.length > CLIENT_ID_LENGTH) {
      done(new Error("client id too long"), false);
      return;
    }
    connection.clientId = packet.clientId;
    // The silence is watched by the sweep: Aedes' timer doesn't know that it is us who keep the client waiting.
    connection.silenceMs = (packet.keepalive ?? 0) * 1500;
    packet.keepalive = 0;
    // Nothing is kept for a client that is away: CONNACK says so (no session present).
    packet.clean = true;
    done(null, true);
  }

  #authorizePublish(client: Client | null, packet: PublishPacket, done: Done): void {
    const { route, refused } = this.#router.resolve(packet.topic);
    const connection = this.#connections.get(client?.conn);
    if (refused !== undefined) {
      this.#refused(connection, refused);
      done(new Error(refused));
      return;
    }
    if (route === undefined) {
      this.#count.note("unmatched", 1);
      done(null);
      return;
    }
    const intake = this.#intake;
    if (intake === undefined) {
      done(new Error("the broker is stopping"));
      return;
    }
    const payload = typeof packet.payload === "string" ? Buffer.from(packet.payload) : packet.payload;
    const { topic, qos } = packet;
    const message = { topic, route, payload, timeUs: Date.now() * 1000, qos, retained: false };
    if (qos === 0) {
      intake.message({ ...message, settle: undefined });
      done(null);
      return;
    }
    const bytes = payload.byteLength + topic.length;
    this.#heldBytes += bytes;
    connection?.hold(1, bytes);
    const settle = (outcome: Outcome): void => {
      this.#heldBytes -= bytes;
      connection?.hold(-1, bytes);
      if (this.#starved.size > 0 && this.#heldBytes < HELD_BYTES) this.#feedStarved();
      // MQTT 3.1.1 knows no refusal: without an acknowledgement the connection has to end, and the client sends it again.
      done(outcome === "dropped" ? new Error("the message was not taken in") : null);
    };
    intake.message({ ...message, settle });
  }

  #authorizeForward(client: Client, packet: AedesPublishPacket): AedesPublishPacket | null {
    const connection = this.#connections.get(client.conn);
    if (connection === undefined) return null;
    const { socket } = connection;
    if (socket.writableLength <= SLOW_BYTES) return packet;
    if (!this.#slow.has(connection)) {
      this.#slow.add(connection);
      socket.once("drain", () => this.#taken(connection));
    }
    if (socket.writableLength <= SHED_BYTES) return packet;
    this.#count.note("shed", 1);
    return null;
  }

  #taken(connection: BrokerConnection): void {
    this.#slow.delete(connection);
    if (this.#slow.size === 0) for (const wake of this.#waiters) wake();
  }

  /** Resolves when no subscriber is slow any more, or after a while: one that doesn't read can't stop the others. */
  async #untilTaken(): Promise<void> {
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#waiters.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, SLOW_WAIT_MS);
      this.#waiters.add(wake);
    });
  }

  #refused(connection: BrokerConnection | undefined, why: string): void {
    this.#count.note("refused", 1);
    const now = performance.now();
    if (this.#loggedMs !== 0 && now - this.#loggedMs < LOG_MS) return;
    this.#loggedMs = now;
    this.#log(
      "warn",
      `embedded broker: closed the connection of ${JSON.stringify(connection?.clientId ?? "")}: ${why}`,
    );
  }

  #closeDead(): void {
    if (this.#intake === undefined) return;
    const now = performance.now();
    for (const connection of this.#connections.values())
      if (connection.isDead(now)) connection.socket.destroy();
  }
}

async function listen(server: Server, { host, port }: BrokerOptions): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => {
      const why =
        errnoOf(cause) === "EADDRINUSE" ? "is taken by another program" : `can't be had: ${cause.message}`;
      reject(new WeirError("broker.port-in-use", `${host}:${port} ${why}`, { cause }));
    });
    server.listen(port, host, resolve);
  });
  server.removeAllListeners("error");
}

/** Resolves when everything written to the socket has been handed to the system, or it is gone. */
function flush(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.writable) socket.write(Buffer.alloc(0), () => resolve());
    else resolve();
  });
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
