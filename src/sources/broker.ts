/**
 * The embedded broker: the source of device messages, and where local applications subscribe. MQTT 3.1, 3.1.1 and 5.
 *
 * A QoS 1 or 2 message that a mapping rule matches is acknowledged once it is settled, that is committed or rejected.
 * Messages that no rule matches are passed on to subscribers alone. docs/specs/broker.md says what clients can rely on.
 */
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { Server, Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { messageOf, WeirError } from "../core/errors.ts";
import type { StageCount } from "../core/ledger.ts";
import type { Intake, LocalPublisher, Outgoing, Route, Source } from "../core/ports.ts";
import { Access, type Identity, readPasswords } from "./broker-access.ts";
import { CONNECT_MS, listenPlain, listenTls, type PortEvents } from "./broker-listen.ts";
import type { BrokerOptions } from "./broker-options.ts";
import { RetainedMessages } from "./broker-retained.ts";
import { Sessions, type SessionsHost } from "./broker-sessions.ts";
import { isOwn, publishProblem } from "./broker-topics.ts";
import { type Delivery, expiry, NOTHING, ownDelivery } from "./delivery.ts";
import { FanOut } from "./fan-out.ts";
import { ClientConnection } from "./listener-connection.ts";
import type { ListenerHost } from "./listener-host.ts";
import { HeldRoom } from "./listener-room.ts";
import { TopicTable } from "./listener-topics.ts";
import type { Connect, Will } from "./mqtt-read.ts";
import { Reason } from "./mqtt-wire.ts";
import type { DeviceRule } from "./options.ts";
import { Router, type Verdict } from "./router.ts";
import { SlowSubscribers } from "./slow-subscribers.ts";

const CLIENT_ID_LENGTH = 256;
const FLUSH_MS = 500;
/** Least time between two log lines about refusals, in milliseconds. */
const LOG_MS = 1000;

/** What the broker tells the agent. */
export type BrokerLog = (level: "info" | "warn" | "error", message: string) => void;

/** Takes the id of a device whose client is lost: it had a will, and that is published now. */
export type DeviceGoneListener = (device: string) => void;

/** The broker. Its life: `start`, `stop` (takes in no more), what is held is settled, `close`. */
export class EmbeddedBroker implements Source, LocalPublisher {
  readonly name = "devices";
  readonly #options: BrokerOptions;
  readonly #router: Router;
  readonly #access: Access;
  readonly #count: StageCount;
  readonly #log: BrokerLog;
  readonly #connections = new Set<ClientConnection>();
  readonly #sessions: Sessions;
  readonly #slow = new SlowSubscribers();
  readonly #room = new HeldRoom();
  readonly #goneListeners = new Set<DeviceGoneListener>();
  readonly #fanOut: FanOut;
  readonly #host: ListenerHost & SessionsHost;
  readonly #servers: Server[] = [];
  #running = false;
  #sweep: NodeJS.Timeout | undefined;
  #intake: Intake | undefined;
  #due: ClientConnection[] = [];
  #loggedMs = 0;
  /** refusals since the last line about one */
  #unlogged = 0;

  /**
   * `count` is the source's stage: the broker adds, beside its identity, `unmatched` (no rule), `refused` (what clients sent or
   * asked for that they may not), `unkept` (retained messages that went for want of room), `shed` (deliveries that subscribers
   * missed) and `sessions` (sessions that went for want of room). The routes' `rule` counts `rules` from `firstRule` on. `met` is
   * told of routes as topics first show up.
   */
  constructor(
    options: BrokerOptions,
    rules: readonly DeviceRule[],
    count: StageCount,
    log: BrokerLog,
    firstRule = 0,
    met: (source: string, route: Route) => void = () => {},
  ) {
    const { limits, identities, identitiesFile, anonymous } = options;
    this.#options = options;
    const refuses = (topic: string): string | undefined => publishProblem(topic, limits.topicLevels);
    this.#router = new Router(rules, refuses, firstRule, (route) => met(this.name, route));
    const nobody = Object.keys(identities).length === 0 && identitiesFile === undefined;
    this.#access = new Access(identities, options.rules, anonymous ?? nobody);
    this.#count = count;
    this.#log = log;
    const retained = { topics: limits.retainedMessages, bytes: limits.retainedMiB * 1024 * 1024 };
    this.#fanOut = new FanOut(new RetainedMessages(isOwn, retained));
    this.#host = this.#makeHost();
    this.#sessions = new Sessions(this.#host);
  }

  /** Where it listens without TLS, once it does. */
  get address(): { readonly host: string; readonly port: number } | undefined {
    return addressOf(this.#servers[0]);
  }

  /** Where it listens with TLS, once it does. */
  get tlsAddress(): { readonly host: string; readonly port: number } | undefined {
    return addressOf(this.#servers[1]);
  }

  /**
   * Calls `listener` for every device that a client has spoken for (published about, or names in its will) when that client
   * is lost and its will is due: after the will was taken in. Returns how to stop it.
   */
  onDeviceGone(listener: DeviceGoneListener): () => void {
    this.#goneListeners.add(listener);
    return () => this.#goneListeners.delete(listener);
  }

  /**
   * @throws WeirError `broker.port-in-use`, `broker.port-denied`, `broker.address-unavailable` or `broker.listen` when it can't listen,
   * `broker.tls` or `broker.identities` when a file can't be used
   */
  async start(intake: Intake, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { tls, limits, identitiesFile } = this.#options;
    if (identitiesFile !== undefined) this.#access.add(await passwordsOf(identitiesFile));
    const events: PortEvents = {
      accept: (socket) => this.#accept(socket),
      refused: (why) => this.#refused(undefined, why),
      error: (message) => this.#log("error", `embedded broker: ${message}`),
    };
    this.#intake = intake;
    this.#running = true;
    try {
      this.#servers.push(await listenPlain(this.#options, events));
      if (tls !== undefined) this.#servers.push(await listenTls(tls, limits.connections, events));
    } catch (thrown) {
      this.#running = false;
      await this.stop();
      this.#servers.length = 0;
      for (const { socket } of this.#connections) socket.destroy();
      throw thrown;
    }
    this.#sweep = setInterval(() => this.#tidyUp(), 1000);
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
    this.#pass(ownDelivery(message), undefined);
    await this.#slow.untilTaken();
  }

  #makeHost(): ListenerHost & SessionsHost {
    const { limits } = this.#options;
    const broker = this;
    return {
      limits: { packetBytes: limits.packetKiB * 1024, messagesPerSecond: limits.messagesPerSecond },
      topics: new TopicTable((topic, owner) => this.#verdict(topic, owner)),
      fanOut: this.#fanOut,
      subscriptions: limits.subscriptions,
      queueMessages: limits.queueMessages,
      queueBytes: limits.queueKiB * 1024,
      waiting: { bytes: 0, most: limits.queuesMiB * 1024 * 1024 },
      sessions: limits.sessions,
      get intake() {
        return broker.#intake;
      },
      isShut: (connection, held) => this.#intake === undefined || this.#room.isShut(connection, held),
      hold: (bytes) => this.#room.hold(bytes),
      later: (connection) => {
        this.#due.push(connection);
        if (this.#due.length === 1) queueMicrotask(() => this.#flush());
      },
      admit: (connection, connect) => this.#admit(connection, connect),
      join: (connection, { clean }, identity) => {
        const { session, present, before } = this.#sessions.join(connection.clientId, identity, clean);
        before?.end(Reason.takenOver);
        return { session, present };
      },
      keeps: (seconds) => (limits.sessions === 0 ? 0 : Math.min(seconds, limits.sessionExpiryS)),
      unmatched: () => this.#count.note("unmatched", 1),
      isWanted: (known) => {
        const fanOut = this.#fanOut;
        if (known.generation !== fanOut.generation) {
          known.generation = fanOut.generation;
          known.wanted = fanOut.isWanted(known.topic);
        }
        return known.wanted;
      },
      pass: ({ topic }, payload, qos, retain, about, from) => {
        const { forwarded = NOTHING, expiryS } = about ?? {};
        this.#pass({ topic, payload, qos, retain, properties: forwarded, expiresMs: expiry(expiryS) }, from);
      },
      refused: (connection, why) => this.#refused(connection, why),
      maySubscribe: ({ identity }, filter) =>
        identity.maySubscribe(filter) ? undefined : Reason.notAuthorized,
      sessionDropped: () => this.#count.note("sessions", 1),
      willDue: (will, identity, devices) => this.#sendWill(will, identity, devices),
      shedBytes: () => this.#slow.shedBytes,
      shed: () => this.#count.note("shed", 1),
      slow: (connection) => this.#slow.add(connection),
    };
  }

  #accept(socket: Socket): void {
    const connection = new ClientConnection(socket, this.#host);
    this.#connections.add(connection);
    const late = setTimeout(() => {
      if (connection.joined) return;
      this.#refused(connection, `no CONNECT within ${CONNECT_MS / 1000} s`);
      socket.destroy();
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
    this.#room.forget(connection);
    connection.gone();
    this.#slow.remove(connection);
    const { session, will } = connection;
    // Weir itself is going, which says nothing of the client [MQTT-3.1.2-8].
    if (session !== undefined && this.#running)
      this.#sessions.leave(connection, session, will, performance.now());
  }

  /** Publishes a lost client's will [MQTT-3.1.2-8], and says which devices are gone with it. */
  #sendWill(will: Will, identity: Identity, spokenFor: ReadonlySet<string>): void {
    const { topic, payload, qos, retain, properties } = will;
    const { route, refused } = this.#verdict(topic, identity);
    if (refused !== undefined) {
      this.#refused(undefined, `a will: ${refused}`);
      return;
    }
    const pass = (): void =>
      this.#pass({ topic, payload, qos, retain, properties, expiresMs: expiry(will.expiryS) }, undefined);
    const intake = this.#intake;
    if (route === undefined || intake === undefined) {
      if (route === undefined) this.#count.note("unmatched", 1);
      pass();
    } else {
      const settle = qos === 0 ? undefined : pass;
      intake.message({ topic, route, payload, timeUs: Date.now() * 1000, qos, retained: false, settle });
      if (qos === 0) pass();
    }
    const devices = new Set(spokenFor);
    if (route !== undefined && route.device !== "") devices.add(route.device);
    for (const device of devices) for (const listener of this.#goneListeners) listener(device);
  }

  #verdict(topic: string, identity: Identity): Verdict {
    const verdict = this.#router.resolve(topic);
    if (verdict.refused !== undefined) return verdict;
    // What is sent to Weir is nobody's telemetry.
    const allowed = identity.mayPublish(topic) && (identity.authenticated || !isOwn(topic));
    if (allowed) return isOwn(topic) ? { route: undefined, refused: undefined } : verdict;
    return { route: undefined, refused: `${JSON.stringify(identity.name)} may not publish there` };
  }

  /** Writes what was acknowledged in this turn, a write for each connection. */
  #flush(): void {
    const due = this.#due;
    this.#due = [];
    for (const connection of due) connection.flush();
    this.#room.feed();
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
    const local = isLocal(socket.remoteAddress);
    const shown = isSecure(socket) ? socket.getPeerCertificate() : undefined;
    // One that is shown and not good is not the same as none: its owner is to know.
    if (isSecure(socket) && !socket.authorized && shown?.subject !== undefined)
      return this.#turnedAway(
        connection,
        Reason.notAuthorized,
        `its certificate is not good: ${messageOf(socket.authorizationError)}`,
      );
    const name = shown?.subject?.CN;
    const common = typeof name === "string" ? name : undefined;
    const answer = await this.#access.admit(connect, connection.clientId, common, local);
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

  #pass(message: Delivery, from: ClientConnection | undefined): void {
    if (message.retain) {
      const unkept = this.#fanOut.retained.put(message);
      if (unkept > 0) this.#count.note("unkept", unkept);
    }
    this.#fanOut.deliver(message, from);
  }

  #refused(connection: ClientConnection | undefined, why: string): void {
    this.#count.note("refused", 1);
    const now = performance.now();
    if (this.#loggedMs !== 0 && now - this.#loggedMs < LOG_MS) {
      this.#unlogged += 1;
      return;
    }
    this.#loggedMs = now;
    const before = this.#unlogged === 0 ? "" : ` (and ${this.#unlogged} more, of which nothing is said)`;
    this.#unlogged = 0;
    const who =
      connection === undefined ? "" : ` ${JSON.stringify(connection.clientId.slice(0, CLIENT_ID_LENGTH))}`;
    this.#log("warn", `embedded broker: refused${who}: ${why}${before}`);
  }

  /** Ends sessions, silent clients, subscribers that don't catch up, and what should have ended long ago. */
  #tidyUp(): void {
    if (this.#intake === undefined) return;
    const now = performance.now();
    this.#sessions.sweep(now);
    for (const connection of this.#connections) {
      const { socket } = connection;
      if (connection.isSilent(now)) {
        connection.end(Reason.keepAlive);
        socket.destroy();
      } else if (connection.ended && socket.writableLength === 0) socket.destroy();
      else if (this.#slow.isLost(connection, now)) {
        this.#refused(connection, "it does not read what it is sent");
        socket.destroy();
      }
    }
  }
}

/** Whether an address is this machine's own: also as IPv6 writes IPv4. */
const isLocal = (address: string | undefined): boolean =>
  address === "::1" || /^(?:::ffff:)?127\./.test(address ?? "");

async function passwordsOf(file: string): Promise<Map<string, string>> {
  const found = await readFile(file, "utf8").then(readPasswords, messageOf);
  if (typeof found === "string") throw new WeirError("broker.identities", `${file}: ${found}`);
  return found;
}

function addressOf(server: Server | undefined): { readonly host: string; readonly port: number } | undefined {
  const address = server?.address();
  return typeof address === "object" && address !== null
    ? { host: address.address, port: address.port }
    : undefined;
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

/** Without the class itself: it would load all of TLS. */
const isSecure = (socket: Socket): socket is TLSSocket => "encrypted" in socket;
