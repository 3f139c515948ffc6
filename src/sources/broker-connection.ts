/** One client's connection to the embedded broker, with its bounds. */
import type { Socket } from "node:net";
import { PacketGuard } from "./packet-guard.ts";

/** Greatest packet, without its fixed header: a payload of 256 KiB has room, with its topic. */
const PACKET_BYTES = 260 * 1024;
/** Unsettled messages of one connection, at which no more is read from it. */
const HELD_BYTES = 256 * 1024;
const HELD_MESSAGES = 4096;

/** Watches over a socket that Aedes reads from. */
export class BrokerConnection {
  readonly socket: Socket;
  readonly filters = new Set<string>();
  clientId = "";
  /** milliseconds without a packet after which the client is taken for dead; 0: never */
  silenceMs = 0;
  #heldMessages = 0;
  #heldBytes = 0;
  #bytesRead = 0;
  #heardMs = 0;

  /**
   * Bounds what Aedes reads. `shut` says whether to leave bytes where they are for now; it is asked with what this
   * connection holds unsettled. Aedes reads again by itself after each message that is settled.
   */
  constructor(socket: Socket, shut: (heldMessages: number) => boolean, onTooLong: () => void) {
    this.socket = socket;
    const guard = new PacketGuard(PACKET_BYTES);
    const read = socket.read.bind(socket);
    // Aedes takes bytes through read() alone. read(0) is Node's own, to start reading from the system.
    socket.read = (size?: number): unknown => {
      const full = this.#heldBytes >= HELD_BYTES || this.#heldMessages >= HELD_MESSAGES;
      if (size !== 0 && (full || shut(this.#heldMessages))) return null;
      const chunk: unknown = read(size);
      if (!(chunk instanceof Uint8Array) || guard.pass(chunk)) return chunk;
      onTooLong();
      socket.destroy();
      return null;
    };
  }

  /** A message waits for its commit (`sign` 1), or no longer (-1). */
  hold(sign: 1 | -1, bytes: number): void {
    this.#heldMessages += sign;
    this.#heldBytes += sign * bytes;
  }

  /**
   * Whether the client has been silent for longer than it promised [MQTT-3.1.2-24]. While its messages wait for a
   * commit nothing is read from it, and its silence is ours.
   */
  isDead(nowMs: number): boolean {
    if (this.socket.bytesRead !== this.#bytesRead || this.#heldMessages > 0 || this.#heardMs === 0) {
      this.#bytesRead = this.socket.bytesRead;
      this.#heardMs = nowMs;
    }
    return this.silenceMs > 0 && nowMs - this.#heardMs > this.silenceMs;
  }
}
