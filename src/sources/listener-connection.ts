/**
 * One client of the embedded broker: its bytes become messages, its messages acknowledgements.
 *
 * Packets are read where they lie in what came from the socket; a message's payload is a view of it, and no string is made
 * of a topic that is known. Acknowledgements are collected and written once for all that settle together. What is held
 * unsettled is bounded here, and by the host for all connections together: then nothing more is read.
 */
import type { Socket } from "node:net";
import type { Intake, Outcome } from "../core/ports.ts";
import type { Identity } from "./broker-access.ts";
import { AckQueue } from "./listener-acks.ts";
import { HeldMessage, letGo, type Piece } from "./listener-held.ts";
import type { Session, SessionHost } from "./listener-session.ts";
import { isTopic, type KnownTopic, type TopicTable } from "./listener-topics.ts";
import {
  type Connect,
  type PublishAbout,
  readAck,
  readConnect,
  readDisconnect,
  readPublishProperties,
  type Will,
} from "./mqtt-read.ts";
import { Property, Reason, Type, type Version } from "./mqtt-wire.ts";
import { encodeAccept, encodePacket, encodeRefusal, type Written } from "./mqtt-write.ts";

/** Unsettled messages of one connection, at which no more is read from it; MQTT 5 clients are told so. */
export const HELD_MESSAGES = 4096;
const HELD_BYTES = 256 * 1024;
/** Written and not taken: beyond what subscriptions may leave there, only answers can have made it so much. */
const UNREAD_BYTES = 4 * 1024 * 1024 + 64 * 1024;
/** Devices remembered of a connection with a will. */
const DEVICES = 4096;
const PINGRESP = Buffer.from([Type.pingresp << 4, 0]);
/** The low half of the first byte where it is not 0 [MQTT-2.2.2-1]. */
const LITTLE_BITS = new Map<number, number>([
  [Type.pubrel, 2],
  [Type.subscribe, 2],
  [Type.unsubscribe, 2],
]);

/** Bounds that the configuration sets. */
export interface ListenerLimits {
  /** greatest remaining length of a packet, in bytes */
  readonly packetBytes: number;
  /** messages a second of one connection; 0: no limit */
  readonly messagesPerSecond: number;
}

/** What a connection asks of the broker. */
export interface ListenerHost extends SessionHost {
  readonly limits: ListenerLimits;
  readonly topics: TopicTable;
  readonly intake: Intake | undefined;
  /** Whether bytes of a connection that holds so many messages must wait because of what all hold. */
  isShut(connection: ClientConnection, heldMessages: number): boolean;
  /** Notes bytes held (or, below 0, settled) by one of the connections. */
  hold(bytes: number): void;
  /** Has `flush` called once what happens now is over. */
  later(connection: ClientConnection): void;
  /** Who the client is; a reason code when it may not be. Never rejects. */
  admit(connection: ClientConnection, connect: Connect): Promise<Identity | number>;
  /** The client may go on: it takes over its id. Answers its session, and whether that was there before. */
  join(
    connection: ClientConnection,
    connect: Connect,
    identity: Identity,
  ): { session: Session; present: boolean };
  /** seconds for which a session is kept that asks for so many */
  keeps(seconds: number): number;
  /** A message that no rule matches. */
  unmatched(): void;
  /** Whether anybody wants messages of a topic. */
  isWanted(known: KnownTopic): boolean;
  /** Passes a message on to subscribers, and keeps it when it is to be retained. */
  pass(
    known: KnownTopic,
    payload: Uint8Array,
    qos: 0 | 1 | 2,
    retain: boolean,
    about: PublishAbout | undefined,
    from: ClientConnection,
  ): void;
  /** Something the client sent is refused. */
  refused(connection: ClientConnection, why: string): void;
}

/** A connection from its first byte to its end. */
export class ClientConnection {
  readonly socket: Socket;
  clientId = "";
  identity: Identity | undefined;
  /** the client's, once it was accepted */
  session: Session | undefined;
  version: Version = 4;
  will: Will | undefined;
  /** devices that it has spoken for, while it has a will */
  readonly devices = new Set<string>();
  /** it was accepted */
  joined = false;
  /** nothing more is read or written */
  ended = false;
  /** milliseconds on the host's clock since when it has not taken what was written; 0: it takes */
  slowSinceMs = 0;
  readonly #host: ListenerHost;
  readonly #acks = new AckQueue();
  /** what the client takes: QoS 1 and 2 messages on the way, and bytes of a packet */
  takes: { readonly receiveMaximum: number; readonly packetBytes: number } = {
    receiveMaximum: 65_535,
    packetBytes: 2 ** 32 - 1,
  };
  #asked = false;
  #silenceMs = 0;
  #heardMs = 0;
  #heardBytes = 0;
  #heldBytes = 0;
  #heldMessages = 0;
  #last: KnownTopic | undefined;
  #lastHeld: HeldMessage | undefined;
  /** where what is charged to held messages ends, in the bytes at hand */
  #charged = 0;
  #piece: Piece = { bytes: EMPTY, timeUs: 0, view: EMPTY, viewOf: undefined, held: 0, kept: true };
  #parts: Buffer[] = [];
  #partBytes = 0;
  #need = 0;
  /** why nothing is read: it is being asked about, too much is held, or it is too fast */
  #waits: "" | "admission" | "room" | "rate" = "";
  #tokens = 0;
  #tokensMs = 0;
  #corked = false;
  #flushing = false;

  constructor(socket: Socket, host: ListenerHost) {
    this.socket = socket;
    this.#host = host;
    this.#tokens = host.limits.messagesPerSecond;
    this.#tokensMs = performance.now();
    socket.on("data", (chunk) => this.receive(Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk)));
  }

  /** Takes what came from the socket. Never throws. */
  receive(chunk: Buffer): void {
    if (this.ended) return;
    if (this.#partBytes === 0 && this.#waits === "") {
      this.#run(chunk);
      return;
    }
    this.#parts.push(chunk);
    this.#partBytes += chunk.length;
    if (this.#waits === "" && this.#partBytes >= this.#need) this.#rerun();
  }

  /** Reads on, if there is room again. */
  resume(): void {
    if (this.#waits !== "room" || this.ended || this.#isFull()) return;
    this.#waits = "";
    if (this.#partBytes > 0) this.#rerun();
    this.#readOn();
  }

  /** A message of this connection is settled. */
  settled(message: HeldMessage, outcome: Outcome): void {
    this.#heldBytes -= message.bytes;
    this.#heldMessages -= 1;
    this.#host.hold(-message.bytes);
    const { known, retain } = message;
    if (outcome !== "dropped" && (retain || this.#host.isWanted(known))) {
      message.piece.kept = true;
      this.#host.pass(known, message.payload, message.qos, retain, message.about, this);
    }
    letGo(message.piece);
    if (message.qos === 2) this.#received(message.id, outcome);
    if (this.ended) return;
    if (outcome === "dropped") {
      // Without an acknowledgement the connection has to end, and the client sends it again.
      this.end(Reason.shuttingDown);
      return;
    }
    this.#acks.settle(message.place, this.#reasonOf(outcome));
    this.#flushLater();
  }

  /** Only MQTT 5 can say that a message was rejected; in 3.1.1 an acknowledgement is all there is. */
  #reasonOf(outcome: Outcome): number {
    return outcome === "rejected" && this.version === 5 ? Reason.payloadInvalid : Reason.success;
  }

  /** A QoS 2 message is settled: the same one that comes again, on whatever connection, is not passed on [MQTT-4.3.3-2]. */
  #received(id: number, outcome: Outcome): void {
    const open = this.session?.open;
    const owed = open?.get(id);
    if (open === undefined || owed === undefined || owed === true) return;
    // An identifier whose PUBREC carries an error is free again [5: 4.3.3], and so is one that the client must send again.
    if (outcome === "dropped" || owed.#reasonOf(outcome) !== Reason.success) open.delete(id);
    else open.set(id, true);
    // It was sent again over a new connection meanwhile.
    if (owed === this || owed.ended) return;
    if (outcome === "dropped") owed.end(Reason.shuttingDown);
    else owed.#ackNow(id, 2, owed.#reasonOf(outcome));
  }

  /** Writes acknowledgements that are due and what was corked, then reads on. */
  flush(): void {
    this.#flushing = false;
    const acks = this.ended ? undefined : this.#acks.take(this.version === 5);
    if (acks !== undefined) this.socket.write(acks);
    if (this.#corked) {
      this.#corked = false;
      this.socket.uncork();
    }
    this.resume();
  }

  /** Writes, together with whatever else is written in this turn. */
  write(...parts: readonly Uint8Array[]): void {
    if (this.ended) return;
    if (!this.#corked) {
      this.#corked = true;
      this.socket.cork();
      this.#flushLater();
    }
    for (const part of parts) this.socket.write(part);
  }

  /** Ends the connection; an MQTT 5 client is told why. */
  end(reason: number): void {
    if (this.ended) return;
    if (this.joined && this.version === 5) this.write(Buffer.from([Type.disconnect << 4, 1, reason]));
    this.#close();
  }

  /** No more is read, and what was written is seen off. */
  #close(): void {
    this.ended = true;
    this.#parts = [];
    this.#partBytes = 0;
    if (this.socket.writableLength === 0) this.socket.destroy();
    else {
      this.#corked = false;
      this.socket.uncork();
      this.socket.destroySoon();
    }
  }

  /** The socket is gone. */
  gone(): void {
    this.ended = true;
  }

  /**
   * Whether the client has been silent for longer than it promised [MQTT-3.1.2-24]. While it is us who don't read, the
   * silence is ours.
   */
  isSilent(nowMs: number): boolean {
    if (
      this.socket.bytesRead !== this.#heardBytes ||
      this.#heldMessages > 0 ||
      this.#waits !== "" ||
      this.#heardMs === 0
    ) {
      this.#heardBytes = this.socket.bytesRead;
      this.#heardMs = nowMs;
    }
    return this.#silenceMs > 0 && nowMs - this.#heardMs > this.#silenceMs;
  }

  #rerun(): void {
    const [first = EMPTY] = this.#parts;
    const bytes = this.#parts.length === 1 ? first : Buffer.concat(this.#parts, this.#partBytes);
    this.#parts = [];
    this.#partBytes = 0;
    this.#run(bytes);
  }

  /** Takes the packets that lie in `bytes`, in which a packet begins. Keeps what is left. */
  #run(bytes: Buffer): void {
    this.#charged = 0;
    const timeUs = Date.now() * 1000;
    const piece: Piece = { bytes, timeUs, view: EMPTY, viewOf: undefined, held: 1, kept: false };
    this.#piece = piece;
    this.#read(bytes, piece);
    letGo(piece);
  }

  #read(bytes: Buffer, piece: Piece): void {
    const end = bytes.length;
    const most = this.#host.limits.packetBytes;
    let at = 0;
    this.#need = 2;
    while (end - at >= 2) {
      if (this.#isFull()) {
        this.#wait("room");
        break;
      }
      const first = bytes[at] ?? 0;
      // The remaining length: at most four bytes (2.2.3).
      let length = 0;
      let body = at + 1;
      let byte = 0;
      for (let shift = 0; shift < 28 && body < end; shift += 7) {
        byte = bytes[body++] ?? 0;
        length |= (byte & 127) << shift;
        if (byte < 128) break;
      }
      if (byte > 127 && body - at < 5) {
        if (length > most) {
          this.#tooLong();
          return;
        }
        this.#need = end - at + 1;
        break;
      }
      if (byte > 127) {
        this.#malformed("a packet's length is malformed");
        return;
      }
      if (length > most) {
        this.#tooLong();
        return;
      }
      const next = body + length;
      if (next > end) {
        this.#need = next - at;
        break;
      }
      if (first >> 4 === Type.publish) {
        if (this.#host.limits.messagesPerSecond > 0 && !this.#hasToken()) {
          this.#wait("rate");
          break;
        }
        if (this.identity === undefined) {
          this.#malformed("a packet before CONNECT"); // [MQTT-3.1.0-1]
          return;
        }
        this.#publish(this.identity, first, bytes, body, next);
      } else this.#control(first, bytes, body, next);
      if (this.ended) return;
      at = next;
      if (this.#waits !== "") break;
    }
    if (this.#lastHeld !== undefined) {
      const trailing = at - this.#charged;
      this.#lastHeld.bytes += trailing;
      this.#heldBytes += trailing;
      this.#host.hold(trailing);
      this.#lastHeld = undefined;
    }
    if (at < end) {
      // A part of a packet is copied: it may wait for long, and would keep all that was read with it.
      if (this.#waits !== "") piece.kept = true;
      const rest = this.#waits === "" ? Buffer.from(bytes.subarray(at)) : bytes.subarray(at);
      this.#parts.unshift(rest);
      this.#partBytes += rest.length;
    }
  }

  #isFull(): boolean {
    return (
      this.#heldBytes >= HELD_BYTES ||
      this.#acks.size >= HELD_MESSAGES ||
      this.#host.isShut(this, this.#heldMessages) ||
      this.socket.writableLength > UNREAD_BYTES
    );
  }

  #wait(why: "admission" | "room" | "rate"): void {
    this.#waits = why;
    this.socket.pause();
    if (why === "rate") {
      const timer = setTimeout(() => {
        if (this.#waits !== "rate" || this.ended) return;
        this.#waits = "";
        if (this.#partBytes > 0) this.#rerun();
        this.#readOn();
      }, 50);
      timer.unref();
    } else if (why === "room" && this.socket.writableLength > UNREAD_BYTES) {
      this.socket.once("drain", () => this.resume());
    }
  }

  #readOn(): void {
    if (this.#waits === "" && !this.ended) this.socket.resume();
  }

  /** Takes a token of the rate's bucket, which holds a second's worth. */
  #hasToken(): boolean {
    if (this.#tokens < 1) {
      const rate = this.#host.limits.messagesPerSecond;
      const now = performance.now();
      this.#tokens = Math.min(rate, this.#tokens + ((now - this.#tokensMs) / 1000) * rate);
      this.#tokensMs = now;
      if (this.#tokens < 1) return false;
    }
    this.#tokens -= 1;
    return true;
  }

  #publish(identity: Identity, first: number, bytes: Buffer, from: number, to: number): void {
    const qos = (first >> 1) & 3;
    const topicFrom = from + 2;
    const topicTo = to - from < 2 ? to + 1 : topicFrom + (((bytes[from] ?? 0) << 8) | (bytes[from + 1] ?? 0));
    let at = topicTo + (qos > 0 ? 2 : 0);
    if (at > to) {
      this.#malformed("a PUBLISH is malformed");
      return;
    }
    const id = qos > 0 ? ((bytes[topicTo] ?? 0) << 8) | (bytes[topicTo + 1] ?? 0) : 1;
    // [MQTT-3.3.1-4], [MQTT-3.3.1-2], [MQTT-2.3.1-1]
    if (qos === 3 || (qos === 0 && (first & 8) !== 0) || id === 0) {
      this.#malformed("a PUBLISH is malformed");
      return;
    }
    let about: PublishAbout | undefined;
    if (this.version === 5) {
      if (at < to && bytes[at] === 0) at += 1;
      else {
        const found = readPublishProperties(bytes, at, to);
        if (typeof found === "number") {
          this.#host.refused(this, "a PUBLISH has properties that it may not have");
          this.end(found);
          return;
        }
        at = found.end;
        about = found;
      }
    }
    let known = this.#last;
    if (known === undefined || !isTopic(known, bytes, topicFrom, topicTo)) {
      known = this.#host.topics.find(bytes, topicFrom, topicTo, identity);
      if (known === undefined) {
        this.#malformed("a topic is not UTF-8"); // [MQTT-3.3.2-1]
        return;
      }
      this.#last = known;
      if (this.will !== undefined && known.verdict.route !== undefined && this.devices.size < DEVICES)
        this.devices.add(known.verdict.route.device);
    }
    const { refused, route } = known.verdict;
    if (refused !== undefined) {
      this.#host.refused(this, refused);
      // MQTT 3.1.1 knows no refusal, and an acknowledgement would be a lie.
      if (this.version === 5 && qos > 0) this.#ackNow(id, qos, Reason.notAuthorized);
      else this.end(Reason.notAuthorized);
      return;
    }
    const retain = (first & 1) !== 0;
    const open = this.session?.open;
    if (qos === 2 && open !== undefined) {
      const owed = open.get(id);
      if (owed !== undefined) {
        // The same message again: it is not passed on a second time [MQTT-4.3.3-2].
        if (owed === true) this.#ackNow(id, qos, Reason.success);
        else open.set(id, this);
        return;
      }
      if (open.size >= HELD_MESSAGES) {
        this.#host.refused(this, "too many QoS 2 messages are open");
        this.end(Reason.receiveMaximum);
        return;
      }
      open.set(id, route === undefined ? true : this);
    }
    if (route === undefined) {
      this.#host.unmatched();
      if (qos > 0) this.#ackNow(id, qos, Reason.success);
      this.#pass(known, bytes.subarray(at, to), qos === 0 ? 0 : qos === 1 ? 1 : 2, retain, about);
      return;
    }
    if (qos === 0) {
      const payload = bytes.subarray(at, to);
      // What a plugin decodes is kept until its chunk is sealed: alone, not with all that was read.
      const own = route.plugin === undefined ? payload : Buffer.from(payload);
      this.#host.intake?.message({
        topic: known.topic,
        route,
        payload: own,
        timeUs: this.#piece.timeUs,
        qos: 0,
        retained: false,
        settle: undefined,
      });
      this.#pass(known, payload, 0, retain, about);
      return;
    }
    const place = this.#acks.push(id, qos === 1 ? Type.puback << 4 : Type.pubrec << 4);
    const size = to - this.#charged;
    this.#charged = to;
    this.#heldBytes += size;
    this.#heldMessages += 1;
    this.#host.hold(size);
    const packed = (id << 2) | (qos === 2 ? 2 : 0) | (retain ? 1 : 0);
    const held = new HeldMessage(this, known, route, this.#piece, at, to, packed, place, size, about);
    this.#lastHeld = held;
    this.#piece.held += 1;
    this.#host.intake?.message(held);
  }

  #pass(
    known: KnownTopic,
    payload: Uint8Array,
    qos: 0 | 1 | 2,
    retain: boolean,
    about: PublishAbout | undefined,
  ): void {
    if (!retain && !this.#host.isWanted(known)) return;
    this.#piece.kept = true;
    this.#host.pass(known, payload, qos, retain, about, this);
  }

  #ackNow(id: number, qos: number, reason: number): void {
    const place = this.#acks.push(id, qos === 1 ? Type.puback << 4 : Type.pubrec << 4);
    this.#acks.settle(place, reason);
    this.#flushLater();
  }

  #control(first: number, bytes: Buffer, from: number, to: number): void {
    const type = first >> 4;
    if (type === Type.connect && !this.#asked && (first & 15) === 0) {
      this.#connect(bytes, from, to);
      return;
    }
    const { session } = this;
    // [MQTT-3.1.0-1, -2], [MQTT-2.2.2-2]
    if (session === undefined || (first & 15) !== (LITTLE_BITS.get(type) ?? 0)) {
      this.#malformed("a packet where it can't be");
      return;
    }
    switch (type) {
      case Type.pingreq:
        if (to === from) this.write(PINGRESP);
        else this.#malformed("a PINGREQ is malformed");
        return;
      case Type.puback:
      case Type.pubrec:
      case Type.pubrel:
      case Type.pubcomp: {
        const ack = readAck(bytes, from, to, this.version);
        if (ack === undefined) this.#malformed("an acknowledgement is malformed");
        else if (type === Type.pubrel) this.#released(session, ack.id);
        else session.acknowledged(type, ack.id, ack.reason >= 0x80);
        return;
      }
      case Type.subscribe:
        if (!session.subscribe(this, bytes, from, to)) this.#malformed("a SUBSCRIBE is malformed");
        return;
      case Type.unsubscribe:
        if (!session.unsubscribe(this, bytes, from, to)) this.#malformed("an UNSUBSCRIBE is malformed");
        return;
      case Type.disconnect: {
        const goodbye = readDisconnect(bytes, from, to, this.version);
        if (goodbye === undefined) {
          this.#malformed("a DISCONNECT is malformed");
          return;
        }
        const { reason, sessionExpiryS = session.expiryS } = goodbye;
        // A session that was to end with its connection can't be kept after all [5: MQTT-3.1.2.11.2].
        if (session.expiryS === 0 && sessionExpiryS > 0) {
          this.end(Reason.protocolError);
          return;
        }
        session.expiryS = this.#host.keeps(sessionExpiryS);
        if (reason !== Reason.withWill) this.will = undefined; // [MQTT-3.1.2-10]
        this.#close();
        return;
      }
      default:
        this.#malformed("a packet of a type that clients don't send");
    }
  }

  /** MQTT 3.1.1 answers an unknown identifier, too: the client must come to an end with it. */
  #released({ open }: Session, id: number): void {
    const known = open.delete(id);
    const reason = known || this.version !== 5 ? [] : [Reason.unknownId];
    this.write(encodePacket(Type.pubcomp << 4, [id >> 8, id & 255, ...reason]));
  }

  #connect(bytes: Buffer, from: number, to: number): void {
    this.#asked = true;
    // The password is looked at later.
    this.#piece.kept = true;
    const connect = readConnect(bytes, from, to);
    if (typeof connect === "number") {
      this.#host.refused(this, "its CONNECT can't be accepted");
      // The level is unknown, or the packet can't be trusted: 3.1.1's refusal is the one that everybody reads.
      const level = bytes[from + 6] ?? 0;
      if (level === 5) this.#refuse(connect, 5);
      else if (connect === Reason.unsupportedVersion) this.#refuse(connect, 4);
      else this.#close();
      return;
    }
    this.version = connect.version;
    this.clientId = connect.clientId;
    this.#wait("admission");
    void this.#host.admit(this, connect).then((answer) => {
      if (this.ended) return;
      if (typeof answer === "number") {
        this.#refuse(answer, connect.version);
        return;
      }
      this.identity = answer;
      this.will = connect.will;
      this.#silenceMs = connect.keepAliveS * 1500;
      this.joined = true;
      const { receiveMaximum, maximumPacketSize } = connect;
      this.takes = { receiveMaximum, packetBytes: maximumPacketSize };
      const { session, present } = this.#host.join(this, connect, answer);
      this.session = session;
      const expiryS = this.#host.keeps(connect.sessionExpiryS);
      this.write(encodeAccept(connect.version, present, this.#offer(connect, expiryS)));
      session.attach(this, expiryS);
      this.#waits = "";
      if (this.#partBytes > 0) this.#rerun();
      this.#readOn();
    });
  }

  /** What an MQTT 5 client is told of this broker when it is accepted [5: 3.2.2.3]. */
  #offer(connect: Connect, expiryS: number): Written[] {
    const properties: Written[] = [
      { id: Property.receiveMaximum, two: HELD_MESSAGES },
      { id: Property.maximumPacketSize, four: this.#host.limits.packetBytes },
      { id: Property.topicAliasMaximum, two: 0 },
      { id: Property.sharedAvailable, byte: 0 },
    ];
    if (connect.sessionExpiryS !== expiryS) properties.push({ id: Property.sessionExpiry, four: expiryS });
    if (connect.clientId === "") properties.push({ id: Property.assignedClientId, text: this.clientId });
    return properties;
  }

  #refuse(reason: number, version: Version): void {
    this.write(encodeRefusal(version, reason));
    this.#close();
  }

  #tooLong(): void {
    this.#host.refused(this, "a packet is too long");
    this.end(Reason.packetTooLarge);
  }

  #malformed(why: string): void {
    this.#host.refused(this, why);
    this.end(Reason.malformed);
  }

  #flushLater(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    this.#host.later(this);
  }
}

const EMPTY = Buffer.alloc(0);
