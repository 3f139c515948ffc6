/**
 * One client of the embedded broker: its packets (listener-input.ts) become messages, its messages acknowledgements
 * (listener-output.ts).
 *
 * A message is read where it lies in what came, and no string is made of a topic that is known. What is held unsettled is bounded
 * here, and by the host for all connections together: then nothing more is read.
 */
import type { Socket } from "node:net";
import type { Outcome } from "../core/ports.ts";
import { TokenBucket } from "../core/token-bucket.ts";
import type { Identity } from "./broker-access.ts";
import { takeControl } from "./listener-control.ts";
import {
  type HeldMessage,
  type HeldRun,
  type Keeper,
  letGo,
  makeOwn,
  PassingMessage,
} from "./listener-held.ts";
import type { ListenerHost } from "./listener-host.ts";
import { ClientInput, type PacketSink } from "./listener-input.ts";
import { ClientOutput } from "./listener-output.ts";
import { type Session, SLOW_BYTES } from "./listener-session.ts";
import { isTopic, type KnownTopic } from "./listener-topics.ts";
import {
  type Connect,
  type PublishAbout,
  readConnect,
  readPublishProperties,
  type Will,
} from "./mqtt-read.ts";
import { Property, Reason, Type, type Version } from "./mqtt-wire.ts";
import { encodeAccept, encodeRefusal, type Written } from "./mqtt-write.ts";

/** Unsettled messages of one connection, at which no more is read from it; MQTT 5 clients are told so. */
export const HELD_MESSAGES = 4096;
const HELD_BYTES = 256 * 1024;
/** Answers that may be unread beside what subscriptions have left. */
const ANSWER_BYTES = 64 * 1024;
/** Devices remembered of a connection with a will. */
const DEVICES = 4096;

/** A connection from its first byte to its end. */
export class ClientConnection implements PacketSink, Keeper {
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
  readonly #host: ListenerHost;
  readonly #input: ClientInput;
  readonly #output: ClientOutput;
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
  #passing: PassingMessage | undefined;
  /** holds the message of the piece at hand that came last */
  #lastHeld: HeldMessage | HeldRun | undefined;
  /** where what is charged to held messages ends, in the bytes at hand */
  #charged = 0;
  /** messages that it may send, where that is limited */
  readonly #rate: TokenBucket | undefined;

  constructor(socket: Socket, host: ListenerHost) {
    this.socket = socket;
    this.#host = host;
    this.#output = new ClientOutput(socket, () => host.later(this));
    const { messagesPerSecond, packetBytes } = host.limits;
    this.#rate = messagesPerSecond > 0 ? new TokenBucket(messagesPerSecond) : undefined;
    this.#input = new ClientInput(socket, this, packetBytes);
  }

  /** Reads on, if there is room again. */
  resume(): void {
    this.#input.resume();
  }

  hold({ size, packed }: PassingMessage): number {
    this.#heldBytes += size;
    this.#heldMessages += 1;
    this.#host.hold(size);
    return this.#output.owe(packed >> 2, (packed & 2) !== 0 ? 2 : 1);
  }

  #release(held: number, messages: number): void {
    this.#heldBytes -= held;
    this.#heldMessages -= messages;
    this.#host.hold(-held);
  }

  /** Messages of this connection are settled. */
  settledRun({ piece, first, held, messages }: HeldRun, outcome: Outcome): void {
    this.#release(held, messages);
    letGo(piece);
    if (this.ended) return;
    if (outcome === "dropped") this.end(Reason.shuttingDown);
    else this.#output.settle(first, this.#reasonOf(outcome), messages);
  }

  /** A message of this connection is settled. */
  settled(message: HeldMessage, outcome: Outcome): void {
    this.#release(message.held, 1);
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
    this.#output.settle(message.place, this.#reasonOf(outcome));
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
    this.#output.flush(this.ended ? undefined : { reasons: this.version === 5 });
    this.resume();
  }

  /** Writes, together with whatever else is written in this turn. */
  write(...parts: readonly Uint8Array[]): void {
    if (this.ended) return;
    this.#output.write(parts);
  }

  /** Ends the connection; an MQTT 5 client is told why. */
  end(reason: number): void {
    if (this.ended) return;
    if (this.joined && this.version === 5) this.write(Buffer.from([Type.disconnect << 4, 1, reason]));
    this.close();
  }

  /** No more is read, and what was written is seen off. */
  close(): void {
    this.ended = true;
    this.#input.close();
    this.#output.close();
  }

  /** The socket is gone. */
  gone(): void {
    this.ended = true;
    this.#input.close();
  }

  /**
   * Whether the client has been silent for longer than it promised [MQTT-3.1.2-24]. While it is us who don't read, the
   * silence is ours.
   */
  isSilent(nowMs: number): boolean {
    if (
      this.socket.bytesRead !== this.#heardBytes ||
      this.#heldMessages > 0 ||
      this.#input.waits !== "" ||
      this.#heardMs === 0
    ) {
      this.#heardBytes = this.socket.bytesRead;
      this.#heardMs = nowMs;
    }
    return this.#silenceMs > 0 && nowMs - this.#heardMs > this.#silenceMs;
  }

  isFull(): boolean {
    return (
      this.#isUnread() ||
      this.#heldBytes >= HELD_BYTES ||
      this.#output.owed >= HELD_MESSAGES ||
      this.#host.isShut(this, this.#heldMessages)
    );
  }

  /** Whether answers have been left unread, beyond what subscriptions may leave there. */
  #isUnread(): boolean {
    const unread = this.socket.writableLength;
    if (unread <= SLOW_BYTES) return false;
    const most = this.session?.subscribes === true ? this.#host.shedBytes() + ANSWER_BYTES : SLOW_BYTES;
    if (unread <= most) return false;
    this.#host.slow(this);
    return true;
  }

  packet(first: number, bytes: Buffer, from: number, to: number): boolean {
    if (first >> 4 === Type.publish) {
      if (this.#rate?.tryTake() === false) {
        this.#input.wait("rate");
        return false;
      }
      if (this.identity === undefined)
        this.#malformed("a packet before CONNECT"); // [MQTT-3.1.0-1]
      else this.#publish(this.identity, first, bytes, from, to);
    } else this.#control(first, bytes, from, to);
    return true;
  }

  pieceRead(at: number): void {
    if (this.#lastHeld !== undefined) {
      const trailing = at - this.#charged;
      this.#lastHeld.held += trailing;
      this.#heldBytes += trailing;
      this.#host.hold(trailing);
      this.#lastHeld = undefined;
    }
    this.#charged = 0;
  }

  broken(why: string, reason: number): void {
    this.#host.refused(this, why);
    this.end(reason);
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
          this.broken("a PUBLISH has properties that it may not have", found);
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
        // [MQTT-3.3.2-1, -2], [MQTT-1.5.3-2]; without an alias it has to be there [5: 3.3.2.3.4]
        if (topicTo > topicFrom) this.#malformed("a topic is not UTF-8, or has a NUL or a wildcard");
        else this.broken("a topic is empty", Reason.protocolError);
        return;
      }
      this.#last = known;
      if (this.will !== undefined && known.verdict.route !== undefined && this.devices.size < DEVICES)
        this.devices.add(known.verdict.route.device);
    }
    const { refused, route } = known.verdict;
    if (refused !== undefined) {
      this.#host.refused(this, `${refused}: ${JSON.stringify(known.topic.slice(0, 128))}`);
      // MQTT 3.1.1 knows no refusal, and an acknowledgement would be a lie.
      if (this.version === 5 && qos > 0) this.#ackNow(id, qos, Reason.notAuthorized);
      else this.end(Reason.notAuthorized);
      return;
    }
    const retain = (first & 1) !== 0;
    if (qos === 2 && !this.#opens(id, route !== undefined)) return;
    if (route === undefined) {
      this.#host.unmatched();
      if (qos > 0) this.#ackNow(id, qos, Reason.success);
      this.#pass(known, at, to, qos === 0 ? 0 : qos === 1 ? 1 : 2, retain, about);
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
        timeUs: this.#input.piece.timeUs,
        qos: 0,
        retained: false,
        trace: about?.trace,
        settle: undefined,
      });
      this.#pass(known, at, to, 0, retain, about);
      return;
    }
    this.#passing ??= new PassingMessage(this, known, route, this.#input.piece);
    const message = this.#passing;
    message.known = known;
    message.route = route;
    message.piece = this.#input.piece;
    message.from = at;
    message.to = to;
    message.packed = (id << 2) | (qos === 2 ? 2 : 0) | (retain ? 1 : 0);
    message.size = to - this.#charged;
    message.about = about;
    message.alone = retain || qos === 2 || this.#host.isWanted(known);
    message.holder = undefined;
    this.#charged = to;
    this.#host.intake?.message(message);
    this.#lastHeld = message.holder;
  }

  /** A QoS 2 message is open until its PUBREL. False where it is not to be passed on. */
  #opens(id: number, isHeld: boolean): boolean {
    const open = this.session?.open;
    if (open === undefined) return true;
    const owed = open.get(id);
    if (owed !== undefined) {
      // The same message again: it is not passed on a second time [MQTT-4.3.3-2].
      if (owed === true) this.#ackNow(id, 2, Reason.success);
      else open.set(id, this);
      return false;
    }
    if (open.size >= HELD_MESSAGES) {
      this.broken("too many QoS 2 messages are open", Reason.receiveMaximum);
      return false;
    }
    open.set(id, isHeld ? this : true);
    return true;
  }

  #pass(
    known: KnownTopic,
    from: number,
    to: number,
    qos: 0 | 1 | 2,
    retain: boolean,
    about: PublishAbout | undefined,
  ): void {
    if (!retain && !this.#host.isWanted(known)) return;
    const { piece } = this.#input;
    piece.kept = true;
    this.#host.pass(known, makeOwn(piece).subarray(from, to), qos, retain, about, this);
  }

  #ackNow(id: number, qos: number, reason: number): void {
    this.#output.settle(this.#output.owe(id, qos), reason);
  }

  #control(first: number, bytes: Buffer, from: number, to: number): void {
    if (first >> 4 === Type.connect && !this.#asked && (first & 15) === 0) {
      this.#connect(bytes, from, to);
      return;
    }
    const { session } = this;
    // [MQTT-3.1.0-1]
    if (session === undefined) this.#malformed("a packet where it can't be");
    else {
      const breach = takeControl(this, session, this.#host, first, bytes, from, to);
      if (breach !== undefined) this.broken(...breach);
    }
  }

  #connect(bytes: Buffer, from: number, to: number): void {
    this.#asked = true;
    // The password is looked at later.
    const { piece } = this.#input;
    piece.kept = true;
    const connect = readConnect(makeOwn(piece), from, to);
    if (typeof connect === "number") {
      this.#host.refused(this, "its CONNECT can't be accepted");
      // The level is unknown, or the packet can't be trusted: 3.1.1's refusal is the one that everybody reads.
      const level = bytes[from + 6] ?? 0;
      if (level === 5) this.#refuse(connect, 5);
      else if (connect === Reason.unsupportedVersion) this.#refuse(connect, 4);
      else this.close();
      return;
    }
    this.version = connect.version;
    this.clientId = connect.clientId;
    this.#input.wait("admission");
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
      this.#input.go();
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
    this.close();
  }

  #malformed(why: string): void {
    this.broken(why, Reason.malformed);
  }
}
