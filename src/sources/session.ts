/**
 * One MQTT connection of a subscriber that acknowledges late: after its message is committed, in the order of arrival.
 * Versions 3.1.1 and 5 over any stream; packets are read and written by `mqtt-packet`. Clauses: MQTT 3.1.1 [MQTT-…], MQTT
 * 5.0 [5: …].
 */
import type { Duplex } from "node:stream";
import { generate, type IConnectPacket, type IPublishPacket, type Packet, parser } from "mqtt-packet";
import { messageOf } from "../core/errors.ts";
import { readTraceparent } from "../core/trace.ts";
import { PacketGuard, type Skipped } from "./packet-guard.ts";

/** Greatest packet that is read, without its fixed header. */
const PACKET_BYTES = 272 * 1024;
/** Unsettled bytes at which nothing more is read … */
const HELD_BYTES = 4 * 1024 * 1024;
/** … and unsettled messages; in MQTT 5 the broker is told so as its receive maximum. */
export const HELD_MESSAGES = 2048;
/** Answers that the broker has not taken, in bytes, at which nothing more is read. */
const UNREAD_BYTES = 1024 * 1024;
/** Longest wait for CONNACK and SUBACK, in milliseconds. */
const ANSWER_MS = 20_000;

/** What a session asks of its broker. */
export interface SessionOptions {
  readonly version: 4 | 5;
  readonly clientId: string;
  readonly username: string | undefined;
  readonly password: string | undefined;
  readonly keepaliveS: number;
  /** how long the broker keeps the session, in seconds (MQTT 5; in 3.1.1 the broker decides) */
  readonly expiryS: number;
  readonly filters: readonly string[];
  readonly qos: 0 | 1 | 2;
}

/** A message as it came. `settle` is there for QoS 1 and 2 and is called once: true acknowledges, false ends the connection. */
export interface Arrived {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: 0 | 1 | 2;
  readonly retained: boolean;
  /** W3C trace context, where it brought one */
  readonly trace: string | undefined;
  readonly settle: ((acknowledge: boolean) => void) | undefined;
}

/** Why a connection ended. `final`: another try would do harm or can't help. */
export interface Ending {
  readonly reason: string;
  readonly final: boolean;
  /** it had been accepted by the broker */
  readonly accepted: boolean;
}

/** What a session tells its owner. */
export interface SessionEvents {
  readonly message: (message: Arrived) => void;
  /** a message of so many bytes was passed over */
  readonly tooLarge: (topic: string, bytes: number) => void;
  /** subscribed; `problems` are filters that the broker refused, or granted with a lower QoS */
  readonly ready: (problems: readonly string[]) => void;
  readonly ended: (ending: Ending) => void;
}

interface Held {
  readonly id: number;
  readonly qos: 1 | 2;
  done: boolean;
}

/** QoS 2 identifiers whose PUBREL is awaited. They belong to the session and outlive a connection [MQTT-4.3.3-2]. */
export type Received = Set<number>;

/** A connection from CONNECT to its end. Use one for each connection. */
export class MqttSession {
  readonly #stream: Duplex;
  readonly #options: SessionOptions;
  readonly #events: SessionEvents;
  readonly #received: Received;
  readonly #guard: PacketGuard;
  readonly #parser: ReturnType<typeof parser>;
  /** messages in order of arrival whose acknowledgement is not written */
  readonly #held: Held[] = [];
  #heldBytes = 0;
  #paused = false;
  #accepted = false;
  #ended = false;
  #closing = false;
  #pinged = false;
  #heardMs = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #flushing = false;
  #keepaliveS = 0;

  constructor(stream: Duplex, options: SessionOptions, received: Received, events: SessionEvents) {
    this.#stream = stream;
    this.#options = options;
    this.#events = events;
    this.#received = received;
    this.#parser = parser({ protocolVersion: options.version });
    const parse = (bytes: Buffer): void => void this.#parser.parse(bytes);
    this.#guard = new PacketGuard(PACKET_BYTES, parse, (packet) => this.#tooLarge(packet));
  }

  /** Sends CONNECT. The stream must be connected. */
  start(): void {
    const { version, clientId, username, password, keepaliveS, expiryS } = this.#options;
    this.#parser.on("packet", (packet: Packet) => this.#packet(packet));
    this.#parser.on("error", (error: Error) => this.#end(`the broker sent no MQTT: ${error.message}`));
    this.#stream.on("data", (chunk: Uint8Array) => this.#read(chunk));
    this.#stream.on("drain", () => this.#backPressure());
    this.#stream.on("error", (error: Error) => this.#end(messageOf(error)));
    this.#stream.on("close", () => this.#end("the broker closed the connection"));
    const connect: IConnectPacket = {
      cmd: "connect",
      protocolId: "MQTT",
      protocolVersion: version,
      clientId,
      // The broker keeps what is not acknowledged for the next connection [MQTT-3.1.2-4].
      clean: false,
      keepalive: keepaliveS,
    };
    if (username !== undefined) connect.username = username;
    if (password !== undefined) connect.password = Buffer.from(password);
    if (version === 5) {
      connect.properties = {
        sessionExpiryInterval: expiryS,
        receiveMaximum: HELD_MESSAGES,
        maximumPacketSize: PACKET_BYTES,
      };
    }
    this.#send(connect);
    this.#timer = setTimeout(() => this.#end(`no CONNACK within ${ANSWER_MS / 1000} s`), ANSWER_MS);
  }

  /** Acknowledges nothing more, says goodbye; what is unsettled stays with the broker. */
  stop(): void {
    if (this.#ended) return;
    this.#closing = true;
    this.#flush();
    if (this.#accepted) this.#send({ cmd: "disconnect", reasonCode: 0 } as Packet);
    this.#stream.end();
    this.#end("stopped");
  }

  #read(chunk: Uint8Array): void {
    if (this.#ended) return;
    this.#heardMs = performance.now();
    if (!this.#guard.feed(chunk)) this.#end(`a packet is over ${PACKET_BYTES} bytes`);
    this.#backPressure();
  }

  /** A message that is too large is acknowledged in its turn: it would come again, and block what is behind it. */
  #tooLarge({ topic, qos, id, bytes }: Skipped): void {
    if (this.#ended) return;
    if (!this.#accepted) {
      this.#end(`a packet of ${bytes} bytes before CONNACK`); // [MQTT-3.2.0-1]
      return;
    }
    const known = qos === 2 && this.#received.has(id);
    if (known) this.#send({ cmd: "pubrec", messageId: id });
    else this.#events.tooLarge(topic, bytes);
    if (qos === 0 || known) return;
    this.#held.push({ id, qos, done: true });
    this.#flush();
  }

  #packet(packet: Packet): void {
    if (this.#ended) return;
    if (!this.#accepted && packet.cmd !== "connack") {
      this.#end(`${packet.cmd} before CONNACK`); // [MQTT-3.2.0-1]
      return;
    }
    switch (packet.cmd) {
      case "connack": {
        const code = packet.reasonCode ?? packet.returnCode ?? 0;
        if (this.#accepted || code !== 0) {
          // Not authorised, a bad name: an operator has to act, but may do so at the broker, so it is tried again.
          const detail = packet.properties?.reasonString;
          this.#end(`the broker refused the connection: ${refusal(code)}${detail ? ` (${detail})` : ""}`);
          return;
        }
        this.#accepted = true;
        // No session there: the identifiers mean nothing any more [MQTT-3.2.2-3].
        if (!packet.sessionPresent) this.#received.clear();
        this.#keepaliveS = packet.properties?.serverKeepAlive ?? this.#options.keepaliveS; // [5: 3.1.2.10]
        this.#send({
          cmd: "subscribe",
          messageId: 1,
          subscriptions: this.#options.filters.map((topic) => ({ topic, qos: this.#options.qos })),
        });
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.#end(`no SUBACK within ${ANSWER_MS / 1000} s`), ANSWER_MS);
        return;
      }
      case "suback":
        clearTimeout(this.#timer);
        this.#keepAlive();
        this.#events.ready(this.#problems(packet.granted));
        return;
      case "publish":
        this.#publish(packet);
        return;
      case "pubrel": {
        const id = packet.messageId ?? 0;
        this.#received.delete(id); // [MQTT-4.3.3-2]
        this.#send({ cmd: "pubcomp", messageId: id });
        return;
      }
      case "pingresp":
        this.#pinged = false;
        return;
      case "disconnect": {
        const code = packet.reasonCode ?? 0;
        const taken = code === 0x8e;
        this.#end(
          taken
            ? `another client connected with the id ${JSON.stringify(this.#options.clientId)}`
            : `the broker ended the connection: ${refusal(code)}`,
          taken,
        );
        return;
      }
      default:
        this.#end(`unexpected ${packet.cmd} from the broker`); // [MQTT-4.8.0-1]
    }
  }

  #publish({ topic, payload, qos, retain, messageId, dup, properties }: IPublishPacket): void {
    const bytes = typeof payload === "string" ? Buffer.from(payload) : payload;
    if (topic === "") {
      this.#end("a topic alias that was not asked for"); // [5: 3.3.2.3.4]
      return;
    }
    const message = { topic, payload: bytes, qos, retained: retain, trace: traceIn(properties) };
    if (qos === 0) {
      this.#events.message({ ...message, settle: undefined });
      return;
    }
    const id = messageId ?? 0;
    if (qos === 2 && (this.#received.has(id) || (dup && this.#held.some((one) => one.id === id)))) {
      // Taken in before: it is acknowledged again, not passed on again [MQTT-4.3.3-2].
      if (this.#received.has(id)) this.#send({ cmd: "pubrec", messageId: id });
      return;
    }
    const held: Held = { id, qos, done: false };
    const size = bytes.byteLength + topic.length;
    this.#held.push(held);
    this.#heldBytes += size;
    const settle = (acknowledge: boolean): void => {
      this.#heldBytes -= size;
      if (this.#ended) {
        // Committed, and its PUBREC can't be written: the broker sends it again, and it is known then.
        if (acknowledge && qos === 2) this.#received.add(id);
        return;
      }
      if (!acknowledge) {
        this.#end("a message was not taken in; the broker sends it again");
        return;
      }
      held.done = true;
      if (this.#flushing) return;
      this.#flushing = true;
      queueMicrotask(() => {
        this.#flushing = false;
        this.#flush();
      });
    };
    this.#events.message({ ...message, settle });
  }

  /** Writes the acknowledgements of settled messages as far as the order of arrival allows [MQTT-4.6.0-2, -3]. */
  #flush(): void {
    let count = 0;
    for (const { done } of this.#held) {
      if (!done) break;
      count += 1;
    }
    if (count === 0 || this.#ended) return;
    const bytes = Buffer.allocUnsafe(4 * count);
    this.#held.splice(0, count).forEach(({ id, qos }, i) => {
      // PUBACK or PUBREC with two bytes, the identifier: reason code 0 may be left out [5: 3.4.2.1].
      bytes.writeUInt16BE(qos === 1 ? 0x4002 : 0x5002, 4 * i);
      bytes.writeUInt16BE(id, 4 * i + 2);
      if (qos === 2) this.#received.add(id);
    });
    this.#stream.write(bytes);
    this.#backPressure();
  }

  /** Stops reading while too much is unsettled: TCP holds the broker up, whatever its version. */
  #backPressure(): void {
    const full =
      this.#heldBytes > HELD_BYTES ||
      this.#held.length >= 2 * HELD_MESSAGES ||
      this.#stream.writableLength > UNREAD_BYTES;
    if (full === this.#paused || this.#ended) return;
    this.#paused = full;
    if (full) this.#stream.pause();
    else {
      this.#heardMs = performance.now();
      this.#stream.resume();
    }
  }

  /** PINGREQ before the interval is over [MQTT-3.1.2-23]; a broker that answers nothing is given up. */
  #keepAlive(): void {
    const seconds = this.#keepaliveS;
    if (seconds === 0) return;
    const every = (seconds * 1000) / 2;
    this.#timer = setInterval(() => {
      // Nothing is read while paused, so silence proves nothing then.
      if (!this.#paused && this.#pinged && performance.now() - this.#heardMs > 2 * every) {
        this.#end(`the broker was silent for ${seconds} s`);
        return;
      }
      this.#pinged = true;
      this.#send({ cmd: "pingreq" });
    }, every);
    this.#timer.unref();
  }

  #problems(granted: readonly unknown[]): string[] {
    const { filters, qos } = this.#options;
    return filters.flatMap((filter, i) => {
      const code = granted[i];
      if (typeof code !== "number" || code >= 0x80)
        return [`the broker refused the subscription ${filter}: ${refusal(Number(code))}`];
      return code < qos ? [`the broker gives ${filter} with QoS ${code} at most, not ${qos}`] : [];
    });
  }

  #send(packet: Packet): void {
    this.#stream.write(generate(packet, { protocolVersion: this.#options.version }));
  }

  #end(reason: string, final = false): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    // What was settled and not written counts as taken in for QoS 2.
    for (const { id, qos, done } of this.#held) if (done && qos === 2) this.#received.add(id);
    if (!this.#closing) this.#stream.destroy();
    this.#events.ended({ reason, final, accepted: this.#accepted });
  }
}

/** The trace context among a message's user properties. */
function traceIn(properties: IPublishPacket["properties"]): string | undefined {
  const found = properties?.userProperties?.["traceparent"];
  return typeof found === "string" ? readTraceparent(found) : undefined;
}

/** Reason and return codes that people meet, in words [5: 2.4; MQTT-3.2.2]. */
const REASONS: Readonly<Record<number, string>> = {
  1: "it does not speak this version of MQTT",
  2: "it does not allow this client id",
  3: "it is not available",
  4: "user name or password is wrong",
  5: "this client is not authorised",
  128: "unspecified error",
  129: "malformed packet",
  130: "protocol error",
  131: "implementation specific error",
  132: "it does not speak this version of MQTT",
  133: "it does not allow this client id",
  134: "user name or password is wrong",
  135: "not authorised",
  136: "it is not available",
  137: "it is busy",
  138: "this client is banned",
  139: "it is shutting down",
  141: "keep-alive timeout",
  142: "another client has the same id",
  143: "the topic filter is not valid",
  149: "packet too large",
  151: "a quota is used up",
  158: "it has no shared subscriptions",
  162: "it has no wildcard subscriptions",
};

const refusal = (code: number): string => REASONS[code] ?? `code ${code}`;
