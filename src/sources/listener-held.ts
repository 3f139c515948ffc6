/** Messages of the embedded broker's clients while their commit is waited for. */
import type { DeviceMessage, Outcome, Route } from "../core/ports.ts";
import type { KnownTopic } from "./listener-topics.ts";
import type { PublishAbout } from "./mqtt-read.ts";

/** What a message is to be settled with. */
interface Settler {
  settled(message: HeldMessage, outcome: Outcome): void;
}

/** What was read at once: its messages lie in it. */
export interface Piece {
  readonly bytes: Buffer;
  /** microseconds since the Unix epoch */
  readonly timeUs: number;
  /** the payload that was asked for last, and whose it is */
  view: Uint8Array;
  viewOf: HeldMessage | undefined;
  /** messages in it that are not settled, and one more while it is being read */
  held: number;
  /** something else may look into it for longer than that */
  kept: boolean;
}

/**
 * A message of a piece is settled, or the piece has been read. With the last of them its memory is free at once: what waits for
 * the collector would be tens of megabytes at full rate.
 */
export function letGo(piece: Piece): void {
  piece.held -= 1;
  if (piece.held > 0 || piece.kept) return;
  const { buffer, byteLength } = piece.bytes;
  // What a socket reads has a buffer of its own, unless it is small and from the pool.
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0);
}

/**
 * A message that is acknowledged once it is settled. There are as many as are being committed, and they outlive a young
 * generation: so it says where things are, and makes them when they are asked for.
 */
export class HeldMessage implements DeviceMessage {
  readonly known: KnownTopic;
  readonly route: Route;
  /** packet identifier, then a bit each for QoS 2 and retain */
  readonly packed: number;
  readonly place: number;
  /** of what was read, what it keeps from being freed */
  bytes: number;
  /** what the message brought in MQTT 5 beside its payload, or undefined */
  readonly about: PublishAbout | undefined;
  readonly #connection: Settler;
  readonly piece: Piece;
  readonly #from: number;
  readonly #to: number;

  constructor(
    connection: Settler,
    known: KnownTopic,
    route: Route,
    piece: Piece,
    from: number,
    to: number,
    packed: number,
    place: number,
    bytes: number,
    about: PublishAbout | undefined,
  ) {
    this.#connection = connection;
    this.known = known;
    this.route = route;
    this.piece = piece;
    this.#from = from;
    this.#to = to;
    this.packed = packed;
    this.place = place;
    this.bytes = bytes;
    this.about = about;
  }

  get topic(): string {
    return this.known.topic;
  }

  get payload(): Uint8Array {
    const { piece } = this;
    if (piece.viewOf !== this) {
      piece.viewOf = this;
      piece.view = piece.bytes.subarray(this.#from, this.#to);
    }
    return piece.view;
  }

  get timeUs(): number {
    return this.piece.timeUs;
  }

  get trace(): string | undefined {
    return this.about?.trace;
  }

  get qos(): 1 | 2 {
    return (this.packed & 2) !== 0 ? 2 : 1;
  }

  get retained(): false {
    return false;
  }

  get id(): number {
    return this.packed >> 2;
  }

  /** It is to be kept for later subscribers. */
  get retain(): boolean {
    return (this.packed & 1) !== 0;
  }

  settle(outcome: Outcome): void {
    this.#connection.settled(this, outcome);
  }
}
