/**
 * What a client sends: its bytes become packets, which are read where they lie in what came from the socket. A packet is given on
 * once all of it is there; while nothing more is to be taken, nothing more is read.
 */
import type { Socket } from "node:net";
import { letGo, makeOwn, type Piece } from "./listener-held.ts";
import { readShared } from "./listener-read.ts";
import { Reason } from "./mqtt-wire.ts";

/** So many parts of a packet become one: a buffer costs a hundred times the byte that a slow client may have put into it. */
const LOOSE_PARTS = 64;
/** After this a client that was too fast is heard again, in milliseconds. */
const RATE_PAUSE_MS = 50;

/** What is made of the packets. */
export interface PacketSink {
  /** Whether it has all that it may have, or the client has not taken what it was answered. */
  isFull(): boolean;
  /** Takes a packet by its first byte; its body lies from `from` to `to`. False: not now, it is to come again. */
  packet(first: number, bytes: Buffer, from: number, to: number): boolean;
  /** No more packets come of the piece; those that came lie before `at`. */
  pieceRead(at: number): void;
  /** The client broke the protocol, or a limit: it is to be told the reason code, and closed. */
  broken(why: string, reason: number): void;
}

/** The reading side of one connection. */
export class ClientInput {
  /** what is being read */
  piece: Piece = { bytes: EMPTY, own: true, timeUs: 0, view: EMPTY, viewOf: undefined, held: 0, kept: true };
  /** why nothing is read: the client is being asked about, too much is held, or it is too fast */
  waits: "" | "admission" | "room" | "rate" = "";
  readonly #socket: Socket;
  readonly #sink: PacketSink;
  readonly #mostBytes: number;
  /** what was read and not taken; a packet begins in it */
  #parts: Buffer[] = [];
  #partBytes = 0;
  /** of them, those that came since some were made one */
  #loose = 0;
  #awaitsDrain = false;
  /** bytes that must be there before it is worth looking again */
  #need = 0;
  #closed = false;

  /** `mostBytes`: greatest remaining length of a packet. */
  constructor(socket: Socket, sink: PacketSink, mostBytes: number) {
    this.#socket = socket;
    this.#sink = sink;
    this.#mostBytes = mostBytes;
    if (!readShared(socket, (bytes) => this.#receive(bytes, false)))
      socket.on("data", (chunk) => this.#receive(Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk), true));
  }

  /** `own`: the bytes stay as they are. */
  #receive(chunk: Buffer, own: boolean): void {
    if (this.#closed) return;
    if (this.#partBytes === 0 && this.waits === "") {
      this.#read(chunk, own);
      return;
    }
    this.#parts.push(own ? chunk : Buffer.from(chunk));
    this.#partBytes += chunk.length;
    if (++this.#loose === LOOSE_PARTS) {
      this.#parts.push(Buffer.concat(this.#parts.splice(-LOOSE_PARTS)));
      this.#loose = 0;
    }
    if (this.waits === "" && this.#partBytes >= this.#need) this.#readParts();
  }

  /** Reads nothing more, until {@link go}, or by itself when there is room again or the client has been slow enough. */
  wait(why: "admission" | "room" | "rate"): void {
    this.waits = why;
    this.#socket.pause();
    if (why === "rate") {
      const timer = setTimeout(() => {
        if (this.waits === "rate") this.go();
      }, RATE_PAUSE_MS);
      timer.unref();
    } else if (why === "room" && this.#socket.writableNeedDrain && !this.#awaitsDrain) {
      this.#awaitsDrain = true;
      this.#socket.once("drain", () => {
        this.#awaitsDrain = false;
        this.resume();
      });
    }
  }

  /** Reads on, if it was room that was waited for and there is some. */
  resume(): void {
    if (this.waits === "room" && !this.#closed && !this.#sink.isFull()) this.go();
  }

  /** Reads on, whatever was waited for. */
  go(): void {
    if (this.#closed) return;
    this.waits = "";
    if (this.#partBytes > 0) this.#readParts();
    if (this.waits === "" && !this.#closed) this.#socket.resume();
  }

  /** Nothing more is read. */
  close(): void {
    this.#closed = true;
    this.#forgetParts();
  }

  #readParts(): void {
    const [first = EMPTY] = this.#parts;
    const bytes = this.#parts.length === 1 ? first : Buffer.concat(this.#parts, this.#partBytes);
    this.#forgetParts();
    this.#read(bytes, true);
  }

  #forgetParts(): void {
    this.#parts = [];
    this.#partBytes = 0;
    this.#loose = 0;
  }

  /** Takes the packets that lie in `bytes`, in which a packet begins. Keeps what is left. */
  #read(bytes: Buffer, own: boolean): void {
    const timeUs = Date.now() * 1000;
    const piece: Piece = { bytes, own, timeUs, view: EMPTY, viewOf: undefined, held: 1, kept: false };
    this.piece = piece;
    const at = this.#packets(bytes);
    if (!this.#closed) {
      this.#sink.pieceRead(at);
      this.#keep(piece, at);
    }
    letGo(piece);
  }

  /** Gives the packets on; answers where the first begins that is not whole, or not taken. */
  #packets(bytes: Buffer): number {
    const end = bytes.length;
    let at = 0;
    this.#need = 2;
    while (end - at >= 2) {
      if (this.#sink.isFull()) {
        this.wait("room");
        break;
      }
      // The remaining length: at most four bytes (2.2.3).
      let length = 0;
      let body = at + 1;
      let byte = 0;
      for (let shift = 0; shift < 28 && body < end; shift += 7) {
        byte = bytes[body++] ?? 0;
        length |= (byte & 127) << shift;
        if (byte < 128) break;
      }
      const isWhole = byte < 128;
      if (!isWhole && body - at === 5) {
        this.#sink.broken("a packet's length is malformed", Reason.malformed);
        break;
      }
      if (length > this.#mostBytes) {
        this.#sink.broken("a packet is too long", Reason.packetTooLarge);
        break;
      }
      const next = body + length;
      if (!isWhole || next > end) {
        this.#need = isWhole ? next - at : end - at + 1;
        break;
      }
      if (!this.#sink.packet(bytes[at] ?? 0, bytes, body, next) || this.#closed) break;
      at = next;
      if (this.waits !== "") break;
    }
    return at;
  }

  #keep(piece: Piece, at: number): void {
    if (at === piece.bytes.length) return;
    // A part of a packet is copied: it may wait for long, and would keep all that was read with it.
    if (this.waits !== "") piece.kept = true;
    const rest = this.waits === "" ? Buffer.from(piece.bytes.subarray(at)) : makeOwn(piece).subarray(at);
    this.#parts.unshift(rest);
    this.#partBytes += rest.length;
  }
}

const EMPTY = Buffer.alloc(0);
