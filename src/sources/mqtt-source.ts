/**
 * An external broker as a source of device messages: a session that outlives connections, acknowledgement after commit,
 * reconnection. docs/specs/mqtt-source.md says what to rely on.
 */
import { connect as connectTcp } from "node:net";
import type { Duplex } from "node:stream";
import { messageOf } from "../core/errors.ts";
import type { StageCount } from "../core/ledger.ts";
import type { Intake, Outcome, Route, Source } from "../core/ports.ts";
import { tlsOptions } from "../core/tls.ts";
import type { DeviceRule, MqttSourceOptions } from "./options.ts";
import { Router } from "./router.ts";
import { type Arrived, type Ending, MqttSession, type Received } from "./session.ts";
import { TopicPattern } from "./topic-pattern.ts";

/** Back-off between tries, in milliseconds: doubled from the first to the last, with jitter. */
const FIRST_BACKOFF_MS = 500;
const LAST_BACKOFF_MS = 60_000;
/** A connection that lasted so long ends a row of failures, in milliseconds. */
const STEADY_MS = 10_000;
/** Connections in a row that the broker accepted and closed at once, at which a second client with the id is suspected. */
const SUSPICIOUS = 5;
const CONNECT_MS = 20_000;
/** Characters of a topic that are logged. */
const TOPIC_LENGTH = 256;

/** How a source is doing. `stopped`: it gave up for good, and says why. */
export type MqttSourceState = "connecting" | "on" | "stopped";

/** What a source is made of beside its options. */
export interface MqttSourceParts {
  readonly name: string;
  /** this source's rules, and where they begin in the list that the decoder has */
  readonly rules: readonly DeviceRule[];
  readonly firstRule: number;
  /** default client id */
  readonly clientId: string;
  /** patterns of what this gateway publishes itself: never taken in */
  readonly own: readonly string[];
  /**
   * A retained message: decides whether it carries a device's time and so becomes samples (true), or was used to
   * refresh `last` (false).
   */
  readonly retained: (message: Parameters<Intake["message"]>[0]) => boolean;
  /** told of routes as topics first show up */
  readonly met: (source: string, route: Route) => void;
  readonly count: StageCount;
  readonly log: (level: "info" | "warn" | "error", message: string) => void;
  /** between 0 and 1, for the jitter */
  readonly random: () => number;
}

/** One external broker. */
export class MqttSource implements Source {
  readonly name: string;
  readonly #options: MqttSourceOptions;
  readonly #parts: MqttSourceParts;
  readonly #router: Router;
  readonly #filters: readonly string[];
  readonly #received: Received = new Set();
  #intake: Intake | undefined;
  #session: MqttSession | undefined;
  #socket: Duplex | undefined;
  #retry: NodeJS.Timeout | undefined;
  #failures = 0;
  #short = 0;
  #state: MqttSourceState = "connecting";
  #reason: string | undefined;

  constructor(options: MqttSourceOptions, parts: MqttSourceParts) {
    this.name = parts.name;
    this.#options = options;
    this.#parts = parts;
    const own = parts.own.map((pattern) => new TopicPattern(pattern));
    this.#router = new Router(
      parts.rules,
      (topic) => {
        const levels = topic.split("/");
        return own.some((pattern) => pattern.match(levels) !== undefined) ? "Weir's own" : undefined;
      },
      parts.firstRule,
      (route) => parts.met(parts.name, route),
    );
    const filters = options.subscribe ?? [
      ...new Set(parts.rules.map((rule) => new TopicPattern(rule.topic).filter)),
    ];
    this.#filters = filters.map((filter) =>
      options.sharedGroup === undefined ? filter : `$share/${options.sharedGroup}/${filter}`,
    );
  }

  get state(): MqttSourceState {
    return this.#state;
  }

  /** why it is not `on`, or what is wrong while it is */
  get reason(): string | undefined {
    return this.#reason;
  }

  /** Begins to connect; resolves at once. */
  async start(intake: Intake, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.#intake = intake;
    this.#connect();
  }

  /** Takes in nothing more. What is held can still be settled; unsettled messages stay with the broker. */
  async stop(): Promise<void> {
    this.#intake = undefined;
    clearTimeout(this.#retry);
  }

  /** Writes the acknowledgements that are due and ends the connection. */
  async close(): Promise<void> {
    await this.stop();
    this.#session?.stop();
    if (this.#session === undefined) this.#socket?.destroy();
  }

  #connect(): void {
    const { url, version, username, password, keepaliveS, sessionExpiryS, qos, clientId } = this.#options;
    let socket: Duplex;
    try {
      socket = this.#open(new URL(url));
    } catch (thrown) {
      this.#ended({ reason: messageOf(thrown), final: false, accepted: false }, 0);
      return;
    }
    this.#socket = socket;
    const startedMs = performance.now();
    const late = setTimeout(
      () => socket.destroy(new Error(`no connection within ${CONNECT_MS / 1000} s`)),
      CONNECT_MS,
    );
    const failed = (error: Error): void => {
      clearTimeout(late);
      this.#ended({ reason: messageOf(error), final: false, accepted: false }, 0);
    };
    socket.once("error", failed);
    socket.once(url.startsWith("mqtts:") ? "secureConnect" : "connect", () => {
      clearTimeout(late);
      socket.off("error", failed);
      if (this.#intake === undefined) {
        socket.destroy();
        return;
      }
      const session = new MqttSession(
        socket,
        {
          version,
          clientId: clientId ?? this.#parts.clientId,
          username,
          password,
          keepaliveS,
          expiryS: sessionExpiryS,
          filters: this.#filters,
          qos,
        },
        this.#received,
        {
          message: (message) => this.#message(message),
          tooLarge: (topic, bytes) => this.#tooLarge(topic, bytes),
          ready: (problems) => this.#ready(problems),
          ended: (ending) => {
            this.#session = undefined;
            this.#ended(ending, performance.now() - startedMs);
          },
        },
      );
      this.#session = session;
      session.start();
    });
  }

  /** Files are read at each try, so that a certificate that was renewed is used without a restart. */
  #open(url: URL): Duplex {
    const secure = url.protocol === "mqtts:";
    const host = url.hostname.replace(/^\[|\]$/g, "");
    const port = url.port === "" ? (secure ? 8883 : 1883) : Number(url.port);
    if (!secure) return connectTcp({ host, port, noDelay: true });
    return process
      .getBuiltinModule("node:tls")
      .connect({ host, port, ...tlsOptions(this.#options.tls, host) });
  }

  #ready(problems: readonly string[]): void {
    const { log } = this.#parts;
    this.#state = "on";
    this.#reason = problems.length === 0 ? undefined : problems.join("; ");
    for (const problem of problems) log("error", `source ${this.name}: ${problem}`);
    if (problems.length === 0) log("info", `source ${this.name}: subscribed at ${this.#options.url}`);
  }

  #ended(ending: Ending, lastedMs: number): void {
    if (this.#intake === undefined) return;
    const { log, random } = this.#parts;
    const steady = lastedMs >= STEADY_MS;
    this.#failures = steady ? 0 : this.#failures + 1;
    this.#short = ending.accepted && !steady ? this.#short + 1 : 0;
    // MQTT 3.1.1 does not say why it closes, nor do all brokers in 5: being accepted and closed again and again is what
    // two clients with one id see.
    const fight = this.#short >= SUSPICIOUS;
    this.#reason = ending.reason;
    if (ending.final || fight) {
      this.#state = "stopped";
      if (fight) this.#reason += ", each time at once: another client seems to use the same id";
      log(
        "error",
        `source ${this.name} stopped: ${this.#reason}; give each a clientId of its own and restart`,
      );
      return;
    }
    this.#state = "connecting";
    const most = Math.min(LAST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** Math.min(this.#failures, 10));
    const waitMs = Math.round(most * (0.2 + 0.8 * random()));
    log("warn", `source ${this.name}: ${ending.reason}; next try in ${(waitMs / 1000).toFixed(1)} s`);
    this.#retry = setTimeout(() => this.#connect(), waitMs);
  }

  /** Not valid here: counted and acknowledged, like every message that is rejected. */
  #tooLarge(topic: string, bytes: number): void {
    const { count, log } = this.#parts;
    count.in += 1;
    count.rejected += 1;
    log(
      "warn",
      `source ${this.name}: a message of ${bytes} bytes at ${JSON.stringify(topic.slice(0, TOPIC_LENGTH))} is too large, and was rejected`,
    );
  }

  #message({ topic, payload, qos, retained, trace, settle }: Arrived): void {
    const intake = this.#intake;
    if (intake === undefined) return;
    const { count } = this.#parts;
    const { route, refused } = this.#router.resolve(topic);
    if (refused !== undefined || route === undefined) {
      // Nothing to keep: acknowledged, so that the broker does not hold it for us.
      count.note(refused === undefined ? "unmatched" : "own", 1);
      settle?.(true);
      return;
    }
    const message = {
      topic,
      route,
      payload,
      timeUs: Date.now() * 1000,
      qos,
      retained,
      trace,
      settle: settle === undefined ? undefined : (outcome: Outcome): void => settle(outcome !== "dropped"),
      source: this.name,
    };
    if (retained && !this.#parts.retained(message)) {
      count.note("retained", 1);
      settle?.(true);
      return;
    }
    intake.message(message);
  }
}
