/**
 * What a client is written. It goes out once what happens now is over, together: first the acknowledgements that are due, in the
 * order of the client's messages.
 */
import type { Socket } from "node:net";
import { AckQueue } from "./listener-acks.ts";
import { Type } from "./mqtt-wire.ts";

/** What is shorter is written together with what comes after it: each write to a socket costs a hundred bytes until it is taken. */
const SMALL_BYTES = 4 * 1024;
/** At so many bytes it is handed to the socket before the turn is over, which counts what is unread. */
const JOINED_BYTES = 16 * 1024;

/** The writing side of one connection. */
export class ClientOutput {
  readonly #socket: Socket;
  readonly #later: () => void;
  readonly #acks = new AckQueue();
  #small: Uint8Array[] = [];
  #smallBytes = 0;
  #corked = false;
  #isDue = false;

  /** `later` has {@link ClientOutput.flush} called once what happens now is over. */
  constructor(socket: Socket, later: () => void) {
    this.#socket = socket;
    this.#later = later;
  }

  /** Acknowledgements that are owed or not yet written. */
  get owed(): number {
    return this.#acks.size;
  }

  /** A message's acknowledgement is owed; answers its place, for {@link settle}. */
  owe(id: number, qos: number): number {
    return this.#acks.push(id, qos === 1 ? Type.puback << 4 : Type.pubrec << 4);
  }

  /** It can be written, and so can those that follow it, `count` in all. */
  settle(place: number, reason: number, count = 1): void {
    for (let i = 0; i < count; i++) this.#acks.settle(place + i, reason);
    this.#flushLater();
  }

  write(parts: readonly Uint8Array[]): void {
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      this.#flushLater();
    }
    for (const part of parts) {
      if (part.byteLength > SMALL_BYTES) {
        this.#join();
        this.#socket.write(part);
        continue;
      }
      this.#small.push(part);
      this.#smallBytes += part.byteLength;
      if (this.#smallBytes >= JOINED_BYTES) this.#join();
    }
  }

  /** Has all that was written on its way. `acks`: with acknowledgements, and whether the client reads their reasons. */
  flush(acks: { readonly reasons: boolean } | undefined): void {
    this.#isDue = false;
    this.#join();
    const due = acks === undefined ? undefined : this.#acks.take(acks.reasons);
    if (due !== undefined) this.#socket.write(due);
    if (this.#corked) {
      this.#corked = false;
      this.#socket.uncork();
    }
  }

  /** Closes the socket once what was written is on its way. */
  close(): void {
    this.#join();
    if (this.#socket.writableLength === 0) this.#socket.destroy();
    else {
      this.#corked = false;
      this.#socket.uncork();
      this.#socket.destroySoon();
    }
  }

  #join(): void {
    const [first] = this.#small;
    if (first === undefined) return;
    this.#socket.write(this.#small.length === 1 ? first : Buffer.concat(this.#small, this.#smallBytes));
    this.#small = [];
    this.#smallBytes = 0;
  }

  #flushLater(): void {
    if (this.#isDue) return;
    this.#isDue = true;
    this.#later();
  }
}
