/** Room for what all clients of the embedded broker have sent and what is not settled yet. */
import type { ClientConnection } from "./listener-connection.ts";

/** Unsettled bytes at which only connections that hold none are read from; at twice as many, none is. */
const HELD_BYTES = 16 * 1024 * 1024;

/** What all connections of one broker hold. */
export class HeldRoom {
  #heldBytes = 0;
  /** connections that hold nothing and were left unread because of what others hold */
  readonly #starved = new Set<ClientConnection>();

  /** Notes bytes held (or, below 0, settled) by one of the connections. */
  hold(bytes: number): void {
    this.#heldBytes += bytes;
  }

  /** Whether bytes of a connection that holds so many messages must wait in its socket. */
  isShut(connection: ClientConnection, heldMessages: number): boolean {
    if (this.#heldBytes < (heldMessages > 0 ? HELD_BYTES : 2 * HELD_BYTES)) return false;
    // Nothing of its own will be settled and make it read on.
    if (heldMessages === 0) this.#starved.add(connection);
    return true;
  }

  /** Where there is room again, those that were left unread are read. */
  feed(): void {
    if (this.#starved.size === 0 || this.#heldBytes >= HELD_BYTES) return;
    const starved = [...this.#starved];
    this.#starved.clear();
    for (const connection of starved) connection.resume();
  }

  /** A connection is gone. */
  forget(connection: ClientConnection): void {
    this.#starved.delete(connection);
  }
}
