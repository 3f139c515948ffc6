/** Messages of the embedded broker's clients while their commit is waited for. */
import { freeNow } from "../core/free.ts";
import type { DeviceMessage, Outcome, Owed, Route } from "../core/ports.ts";
import type { KnownTopic } from "./listener-topics.ts";
import type { PublishAbout } from "./mqtt-read.ts";

/** Whose messages these are. */
export interface Keeper {
  /** A message is held from now on; answers the place of its acknowledgement. */
  hold(message: PassingMessage): number;
  settled(message: HeldMessage, outcome: Outcome): void;
  settledRun(run: HeldRun, outcome: Outcome): void;
}

/** What was read at once: its messages lie in it. */
export interface Piece {
  bytes: Buffer;
  /** the bytes are its own: else they are gone once it has been read */
  own: boolean;
  /** microseconds since the Unix epoch */
  readonly timeUs: number;
  /** the payload that was asked for last, and whose it is */
  view: Uint8Array;
  viewOf: HeldMessage | undefined;
  /** what holds messages in it that are not settled, and one more while it is being read */
  held: number;
  /** something else may look into it for longer than that */
  kept: boolean;
}

/** Something will look into the piece after it has been read. */
export function makeOwn(piece: Piece): Buffer {
  if (!piece.own) {
    const { bytes } = piece;
    piece.bytes = Buffer.allocUnsafeSlow(bytes.length);
    bytes.copy(piece.bytes);
    piece.own = true;
  }
  return piece.bytes;
}

/** A message of a piece is settled, or the piece has been read. With the last of them its memory is free. */
export function letGo(piece: Piece): void {
  piece.held -= 1;
  if (piece.held > 0 || piece.kept || !piece.own) return;
  // What a socket reads has a buffer of its own, unless it is small and from the pool.
  freeNow(piece.bytes);
}

/**
 * Messages of a piece, one right after the other, that are acknowledged together: nobody else wants them. What is held outlives a young
 * generation, so one object for each message would be most of what there is to collect.
 */
export class HeldRun implements Owed {
  readonly piece: Piece;
  /** the place of the first one's acknowledgement */
  readonly first: number;
  messages = 1;
  /** bytes of what was read that they keep from being freed */
  held: number;
  readonly #keeper: Keeper;

  constructor(keeper: Keeper, piece: Piece, first: number, held: number) {
    this.#keeper = keeper;
    this.piece = piece;
    this.first = first;
    this.held = held;
    piece.held += 1;
  }

  get timeUs(): number {
    return this.piece.timeUs;
  }

  settle(outcome: Outcome): void {
    this.#keeper.settledRun(this, outcome);
  }
}

/** What every QoS 1 or 2 message says, from where it was read. */
abstract class Read {
  abstract readonly known: KnownTopic;
  abstract readonly piece: Piece;
  /** packet identifier, then a bit each for QoS 2 and retain */
  abstract readonly packed: number;
  /** what the message brought in MQTT 5 beside its payload, or undefined */
  abstract readonly about: PublishAbout | undefined;

  get topic(): string {
    return this.known.topic;
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
}

/** The QoS 1 or 2 message that a connection has read last: one object that moves on to the next. */
export class PassingMessage extends Read implements DeviceMessage {
  known: KnownTopic;
  route: Route;
  piece: Piece;
  from = 0;
  to = 0;
  packed = 0;
  /** bytes of what was read that it keeps from being freed */
  size = 0;
  about: PublishAbout | undefined;
  /** it is acknowledged alone: something is to be done with it then */
  alone = false;
  /** what it is held by */
  holder: HeldRun | HeldMessage | undefined;
  readonly #keeper: Keeper;

  constructor(keeper: Keeper, known: KnownTopic, route: Route, piece: Piece) {
    super();
    this.#keeper = keeper;
    this.known = known;
    this.route = route;
    this.piece = piece;
  }

  get bytes(): Uint8Array {
    return this.piece.bytes;
  }

  get payload(): Uint8Array {
    return this.piece.bytes.subarray(this.from, this.to);
  }

  join(before: Owed | undefined): Owed | undefined {
    if (this.alone) return undefined;
    const place = this.#keeper.hold(this);
    if (
      before instanceof HeldRun &&
      before.piece === this.piece &&
      before.first + before.messages === place
    ) {
      before.messages += 1;
      before.held += this.size;
      this.holder = before;
      return before;
    }
    const run = new HeldRun(this.#keeper, this.piece, place, this.size);
    this.holder = run;
    return run;
  }

  keep(): HeldMessage {
    const held = new HeldMessage(this.#keeper, this, this.#keeper.hold(this));
    this.holder = held;
    return held;
  }

  settle(outcome: Outcome): void {
    this.keep().settle(outcome);
  }
}

/** A message that is acknowledged once it is settled. It says where things are, and makes them when they are asked for. */
export class HeldMessage extends Read implements DeviceMessage {
  readonly known: KnownTopic;
  readonly route: Route;
  readonly packed: number;
  readonly place: number;
  /** bytes of what was read that it keeps from being freed */
  held: number;
  readonly about: PublishAbout | undefined;
  readonly #keeper: Keeper;
  readonly piece: Piece;
  readonly #from: number;
  readonly #to: number;

  constructor(keeper: Keeper, passing: PassingMessage, place: number) {
    super();
    const { known, route, piece, from, to, packed, size, about } = passing;
    this.#keeper = keeper;
    this.known = known;
    this.route = route;
    this.piece = piece;
    this.#from = from;
    this.#to = to;
    this.packed = packed;
    this.place = place;
    this.held = size;
    this.about = about;
    piece.held += 1;
    makeOwn(piece);
  }

  get payload(): Uint8Array {
    const { piece } = this;
    if (piece.viewOf !== this) {
      piece.viewOf = this;
      piece.view = piece.bytes.subarray(this.#from, this.#to);
    }
    return piece.view;
  }

  get id(): number {
    return this.packed >> 2;
  }

  /** It is to be kept for later subscribers. */
  get retain(): boolean {
    return (this.packed & 1) !== 0;
  }

  settle(outcome: Outcome): void {
    this.#keeper.settled(this, outcome);
  }
}
