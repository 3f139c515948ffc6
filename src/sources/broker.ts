/**
 * The embedded broker: the source of device messages, and where local applications subscribe. MQTT 3.1, 3.1.1 and 5.
 *
 * A QoS 1 or 2 message that a mapping rule matches is acknowledged once it is settled, that is committed or rejected.
 * Messages that no rule matches are passed on to subscribers alone. docs/specs/broker.md says what clients can rely on.
 */
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer, TLSSocket } from "node:tls";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";
import type { StageCount } from "../core/ledger.ts";
import type { Intake, LocalPublisher, Outgoing, Source } from "../core/ports.ts";
import { Access, type Identity } from "./broker-access.ts";
import { RetainedMessages } from "./broker-retained.ts";
import { FanOut } from "./fan-out.ts";
import { ClientConnection, type ListenerHost, type ListenerLimits } from "./listener-connection.ts";
import { type Delivery, SLOW_BYTES } from "./listener-subscriber.ts";
import { type KnownTopic, TopicTable } from "./listener-topics.ts";
import { type Connect, Reason } from "./mqtt-wire.ts";
import type { BrokerOptions, DeviceRule } from "./options.ts";
import { Router, type Verdict } from "./router.ts";

/** Unsettled bytes of all connections, at which only those that hold none are read from; at twice as many, none is. */
const HELD_BYTES = 16 * 1024 * 1024;
/** Weir's own publishing waits for a slow subscriber, but not for longer than this, in milliseconds. */
const SLOW_WAIT_MS = 1000;
/** A subscriber that has not caught up for so long is disconnected. */
const SLOW_MOST_MS = 60_000;
const CONNECT_MS = 10_000;
const TOPIC_LENGTH = 1024;
const CLIENT_ID_LENGTH = 256;
const FLUSH_MS = 500;
/** Least time between two log lines about refusals, in milliseconds. */
const LOG_MS = 1000;

/** What the broker tells the agent. */
export type BrokerLog = (level: "info" | "warn" | "error", message: string) => void;

/** A device's connection was lost, without the goodbye that its will was waiting for. */
export type GoneListener = (device: string, why: string) => void;

/** Whether a topic is Weir's own, where nobody else publishes. */
const isOwn = (topic: string): boolean => topic === "weir" || topic.startsWith("weir/");

/** Why nobody outside may publish on a topic, or undefined. */
function refuse(topic: string, levels: number): string | undefined {
  if (isOwn(topic)) return "only Weir publishes under weir/";
  if (topic === "") return "the topic is empty"; // [MQTT-4.7.3-1]
  if (topic.startsWith("$")) return "topics that begin with $ are the broker's"; // [MQTT-4.7.2-1]
  if (topic.length > TOPIC_LENGTH) return `the topic is over ${TOPIC_LENGTH} characters`;
  if (topic.includes("\0")) return "the topic has a NUL"; // [MQTT-1.5.3-2]
  if (topic.includes("\ufffd")) return "the topic is not UTF-8"; // [MQTT-1.5.3-1]
  if (/[+#]/.test(topic)) return "the topic has a wildcard"; // [MQTT-3.3.2-2]
  if (topic.split("/").length > levels) return `the topic has over ${levels} levels`;
  return undefined;
}

/** The broker. Its life: `start`, `stop` (takes in no more), what is held is settled, `close`. */
export class EmbeddedBroker implements Source, LocalPublisher {
  readonly name = "devices";
  readonly #options: BrokerOptions;
  readonly #router: Router;
  readonly #access: Access;
  readonly #count: StageCount;
  readonly #log: BrokerLog;
  readonly #connections = new Set<ClientConnection>();
  readonly #clients = new Map<string, ClientConnection>();
  readonly #slow = new Set<ClientConnection>();
  readonly #waiters = new Set<() => void>();
  /** connections that hold nothing and were left unread because of what others hold */
  readonly #starved = new Set<ClientConnection>();
  readonly #goneListeners = new Set<GoneListener>();
  readonly #fanOut: FanOut;
  readonly #host: Host;
  readonly #servers: Server[] = [];
  #running = false;
  #sweep: NodeJS.Timeout | undefined;
  #intake: Intake | undefined;
  #heldBytes = 0;
  #due: ClientConnection[] = [];
  #loggedMs = 0;

  /**
   * `count` is the source's stage: the broker adds, beside its identity, `unmatched` (no rule), `refused` (connections
   * closed over what they sent), `unkept` (retained messages without room) and `shed` (deliveries to subscribers that
   * don't read). The routes' `rule` counts `rules` from
   * `firstRule` on.
   */
  constructor(
    options: BrokerOptions,
    rules: readonly DeviceRule[],
    count: StageCount,
    log: BrokerLog,
    firstRule = 0,
  ) {
    const { limits, users, anonymous } = options;
    this.#options = options;
    this.#router = new Router(rules, (topic) => refuse(topic, limits.topicLevels), firstRule);
    this.#access = new Access(users, anonymous ?? Object.keys(users).length === 0);
    this.#count = count;
    this.#log = log;
    this.#fanOut = new FanOut(
      new RetainedMessages(isOwn, {
        topics: limits.retainedMessages,
        bytes: limits.retainedMiB * 1024 * 1024,
      }),
    );
    this.#host = this.#makeHost();
  }

  /** Where it listens without TLS, once it does. */
  get address(): { readonly host: string; readonly port: number } | undefined {
    return addressOf(this.#servers[0]);
  }

  /** Where it listens with TLS, once it does. */
  get tlsAddress(): { readonly host: string; readonly port: number } | undefined {
    return addressOf(this.#servers[1]);
  }

  /** Calls `listener` for each device whose connection with a will is lost. Returns how to stop it. */
  onGone(listener: GoneListener): () => void {
    this.#goneListeners.add(listener);
    return () => this.#goneListeners.delete(listener);
  }

  /** @throws WeirError `broker.port-in-use` when it can't listen, `broker.tls` when its certificate or key can't be used */
  async start(intake: Intake, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { host, port, tls, limits } = this.#options;
    const options = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 };
    const servers: [Server, string, number][] = [
      [createServer(options, (socket) => this.#accept(socket)), host, port],
    ];
    if (tls !== undefined) {
      const server = await makeTlsServer(tls, options, (socket) => this.#accept(socket));
      servers.push([server, tls.host, tls.port]);
    }
    this.#intake = intake;
    this.#running = true;
    try {
      for (const [server, ...where] of servers) {
        server.maxConnections = limits.connections;
        server.on("drop", () => this.#count.note("refused", 1));
        await listen(server, ...where);
        server.on("error", (error) => this.#log("error", `embedded broker: ${error.message}`));
        this.#servers.push(server);
      }
    } catch (thrown) {
      this.#intake = undefined;
      this.#running = false;
      for (const [server] of servers) server.close();
      this.#servers.length = 0;
      throw thrown;
    }
    this.#sweep = setInterval(() => this.#closeDead(), 1000);
    this.#sweep.unref();
  }

  /** Takes in nothing more. What is held can still be settled and is acknowledged; subscribers stay until {@link close}. */
  async stop(): Promise<void> {
    this.#intake = undefined;
    for (const server of this.#servers) server.close();
  }

  /** Writes out what is on its way, then ends every connection. Never throws. */
  async close(): Promise<void> {
    await this.stop();
    clearInterval(this.#sweep);
    if (!this.#running) return;
    this.#running = false;
    // What is acknowledged in this turn is written at its end.
    await new Promise(setImmediate);
    const flushed = Promise.all([...this.#connections].map(({ socket }) => flush(socket)));
    await Promise.race([flushed, after(FLUSH_MS)]);
    for (const connection of this.#connections) {
      connection.end(Reason.shuttingDown);
      connection.socket.destroy();
    }
  }

  /**
   * Publishes to local subscribers; resolves once they have it in their buffers. The payload must stay as it is.
   * @throws WeirError `uplink.unavailable` while the broker doesn't run
   */
  async publish(message: Outgoing): Promise<void> {
    if (!this.#running) throw new WeirError("uplink.unavailable", "the embedded broker is not running");
    this.#pass({ ...message, topicBytes: Buffer.from(message.topic) }, undefined);
    if (this.#slow.size > 0) await this.#untilTaken();
  }

  #makeHost(): Host {
    const { limits } = this.#options;
    const broker = this;
    return {
      limits: { packetBytes: limits.packetKiB * 1024, messagesPerSecond: limits.messagesPerSecond },
      topics: new TopicTable((topic, owner) => this.#verdict(topic, owner)),
      fanOut: this.#fanOut,
      subscriptions: limits.subscriptions,
      get intake() {
        return broker.#intake;
      },
      isShut: (connection, held) => this.#isShut(connection, held),
      hold: (bytes) => {
        this.#heldBytes += bytes;
      },
      later: (connection) => {
        this.#due.push(connection);
        if (this.#due.length === 1) queueMicrotask(() => this.#flush());
      },
      admit: (connection, connect) => this.#admit(connection, connect),
      joined: (connection) => this.#joined(connection),
      unmatched: () => this.#count.note("unmatched", 1),
      isWanted: (known) => {
        const fanOut = this.#fanOut;
        if (known.generation !== fanOut.generation) {
          known.generation = fanOut.generation;
          known.wanted = fanOut.isWanted(known.topic);
        }
        return known.wanted;
      },
      pass: (known, payload, qos, retain, from) => this.#pass(deliveryOf(known, payload, qos, retain), from),
      refused: (connection, why) => this.#refused(connection, why),
      maySubscribe: ({ identity }, filter) =>
        identity?.maySubscribe(filter) === true ? undefined : Reason.notAuthorized,
      shed: () => this.#count.note("shed", 1),
      slow: (connection) => this.#isSlow(connection),
    };
  }

  #accept(socket: Socket): void {
    const connection = new ClientConnection(socket, this.#host);
    this.#connections.add(connection);
    const late = setTimeout(() => {
      if (!connection.joined) socket.destroy();
    }, CONNECT_MS);
    late.unref();
    socket.on("error", () => {});
    socket.once("end", () => socket.destroy());
    socket.once("close", () => {
      clearTimeout(late);
      this.#gone(connection);
    });
  }

  #gone(connection: ClientConnection): void {
    this.#connections.delete(connection);
    this.#starved.delete(connection);
    if (this.#clients.get(connection.clientId) === connection) this.#clients.delete(connection.clientId);
    connection.gone();
    this.#taken(connection);
    const { will, devices, joined } = connection;
    if (will === undefined || !joined || !this.#running) return;
    // [MQTT-3.1.2-8]; sessions end with their connection, so no delay is due [5: 3.1.3.2.2].
    const device = this.#sendWill(connection);
    const all = device === undefined ? devices : new Set([...devices, device]);
    for (const name of all)
      for (const listener of this.#goneListeners) listener(name, "its connection was lost");
  }

  /** Publishes a lost client's will; answers the device whose topic it was on. */
  #sendWill(connection: ClientConnection): string | undefined {
    const { will, identity } = connection;
    if (will === undefined || identity === undefined) return undefined;
    const { topic, payload, qos, retain } = will;
    const { route, refused } = this.#verdict(topic, identity);
    if (refused !== undefined) {
      this.#refused(connection, refused);
      return undefined;
    }
    const pass = (): void =>
      this.#pass(
        { ...will, topicBytes: Buffer.from(topic), contentType: undefined, userProperties: undefined },
        connection,
      );
    const intake = this.#intake;
    if (route === undefined || intake === undefined) {
      if (route === undefined) this.#count.note("unmatched", 1);
      pass();
      return undefined;
    }
    const settle = qos === 0 ? undefined : (): void => pass();
    intake.message({ topic, route, payload, timeUs: Date.now() * 1000, qos, retained: false, settle });
    if (qos === 0) pass();
    return retain || route.device !== "" ? route.device : undefined;
  }

  #verdict(topic: string, identity: Identity): Verdict {
    const verdict = this.#router.resolve(topic);
    if (verdict.refused !== undefined || identity.mayPublish(topic)) return verdict;
    return { route: undefined, refused: `${JSON.stringify(identity.name)} may not publish there` };
  }

  /** Whether bytes of this connection, which holds so many messages, must wait in its socket. */
  #isShut(connection: ClientConnection, held: number): boolean {
    if (this.#intake === undefined) return true;
    if (this.#heldBytes < (held > 0 ? HELD_BYTES : 2 * HELD_BYTES)) return false;
    // Nothing of its own will be settled and make it read on.
    if (held === 0) this.#starved.add(connection);
    return true;
  }

  /** Writes what was acknowledged in this turn, a write for each connection. */
  #flush(): void {
    const due = this.#due;
    this.#due = [];
    for (const connection of due) connection.flush();
    if (this.#starved.size === 0 || this.#heldBytes >= HELD_BYTES) return;
    const starved = [...this.#starved];
    this.#starved.clear();
    for (const connection of starved) connection.resume();
  }

  async #admit(connection: ClientConnection, connect: Connect): Promise<Identity | number> {
    const { clientId, clean, version, will } = connect;
    if (clientId.length > CLIENT_ID_LENGTH)
      return this.#turnedAway(connection, Reason.clientId, "its client id is too long");
    // [MQTT-3.1.3-8]: without a name there is no session that could be kept.
    if (clientId === "" && !clean && version !== 5)
      return this.#turnedAway(connection, Reason.clientId, "it has no client id");
    if (clientId === "") connection.clientId = `auto-${randomUUID()}`;
    const { socket } = connection;
    const certificate =
      socket instanceof TLSSocket && socket.authorized ? socket.getPeerCertificate() : undefined;
    const name = certificate?.subject?.CN;
    const answer = await this.#access.admit(connect, typeof name === "string" ? name : undefined);
    if (typeof answer === "number") return this.#turnedAway(connection, answer, "its login is not valid");
    if (will !== undefined) {
      const { refused } = this.#verdict(will.topic, answer);
      if (refused !== undefined)
        return this.#turnedAway(connection, Reason.notAuthorized, `its will: ${refused}`);
    }
    return answer;
  }

  #turnedAway(connection: ClientConnection, reason: number, why: string): number {
    this.#refused(connection, why);
    return reason;
  }

  /** The client has its id for itself from here on [MQTT-3.1.4-2]. */
  #joined(connection: ClientConnection): void {
    const before = this.#clients.get(connection.clientId);
    this.#clients.set(connection.clientId, connection);
    before?.end(Reason.takenOver);
  }

  #pass(message: Delivery, from: ClientConnection | undefined): void {
    if (message.retain && !this.#fanOut.retained.put(message)) this.#count.note("unkept", 1);
    this.#fanOut.deliver(message, from);
  }

  #isSlow(connection: ClientConnection): void {
    if (this.#slow.has(connection)) return;
    this.#slow.add(connection);
    connection.slowSinceMs = performance.now();
    connection.socket.once("drain", () => this.#taken(connection));
  }

  #taken(connection: ClientConnection): void {
    connection.slowSinceMs = 0;
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

  #refused(connection: ClientConnection, why: string): void {
    this.#count.note("refused", 1);
    const now = performance.now();
    if (this.#loggedMs !== 0 && now - this.#loggedMs < LOG_MS) return;
    this.#loggedMs = now;
    this.#log("warn", `embedded broker: refused ${JSON.stringify(connection.clientId)}: ${why}`);
  }

  /** Closes connections of silent clients, of subscribers that don't catch up, and what should have ended long ago. */
  #closeDead(): void {
    if (this.#intake === undefined) return;
    const now = performance.now();
    for (const connection of this.#connections) {
      const { slowSinceMs, socket } = connection;
      if (connection.isSilent(now)) {
        connection.end(Reason.keepAlive);
        socket.destroy();
      } else if (connection.ended && socket.writableLength === 0) socket.destroy();
      else if (slowSinceMs > 0 && now - slowSinceMs > SLOW_MOST_MS && socket.writableLength > SLOW_BYTES)
        socket.destroy();
    }
  }
}

type Host = ListenerHost & { readonly limits: ListenerLimits };

const deliveryOf = (
  { topic, bytes }: KnownTopic,
  payload: Uint8Array,
  qos: 0 | 1 | 2,
  retain: boolean,
): Delivery => ({
  topic,
  topicBytes: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
  payload,
  qos,
  retain,
  contentType: undefined,
  userProperties: undefined,
});

function addressOf(server: Server | undefined): { readonly host: string; readonly port: number } | undefined {
  const address = server?.address();
  return typeof address === "object" && address !== null
    ? { host: address.address, port: address.port }
    : undefined;
}

async function makeTlsServer(
  { cert, key, ca, clients }: NonNullable<BrokerOptions["tls"]>,
  options: object,
  accept: (socket: Socket) => void,
): Promise<Server> {
  try {
    const files = await Promise.all(
      [cert, key, ...(ca === undefined ? [] : [ca])].map((path) => readFile(path)),
    );
    return createTlsServer(
      {
        ...options,
        cert: files[0],
        key: files[1],
        ca: files[2],
        minVersion: "TLSv1.2",
        handshakeTimeout: CONNECT_MS,
        requestCert: clients !== "none",
        rejectUnauthorized: clients === "required",
      },
      accept,
    );
  } catch (cause) {
    throw new WeirError("broker.tls", messageOf(cause), { cause });
  }
}

async function listen(server: Server, host: string, port: number): Promise<void> {
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
