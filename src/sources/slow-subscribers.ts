/** Subscribers that don't take what they are sent as fast as it comes. */
import type { ClientConnection } from "./listener-connection.ts";
import { SLOW_BYTES } from "./listener-session.ts";

/** Publishing waits for a slow subscriber, but not for longer than this, in milliseconds. */
const WAIT_MS = 1000;
/** What one may leave unread before messages for it are given up, … */
const MOST_BYTES = 4 * 1024 * 1024;
/** … and all of them together, as far as each keeps what makes it slow. */
const MOST_BYTES_OF_ALL = 64 * 1024 * 1024;
/** One that has not caught up for so long is given up. */
const MOST_MS = 60_000;

/** The slow subscribers of one broker. */
export class SlowSubscribers {
  /** since when, in milliseconds of the monotonic clock */
  readonly #slow = new Map<ClientConnection, number>();
  readonly #waiters = new Set<() => void>();

  /** What a client may leave unread now: the more of them are slow, the less. */
  get shedBytes(): number {
    return Math.max(SLOW_BYTES, Math.min(MOST_BYTES, MOST_BYTES_OF_ALL / Math.max(1, this.#slow.size)));
  }

  /** A client has much to read; it counts as slow until its socket is drained. */
  add(connection: ClientConnection): void {
    if (this.#slow.has(connection)) return;
    this.#slow.set(connection, performance.now());
    connection.socket.once("drain", () => this.remove(connection));
  }

  /** A client has taken what was written, or is gone. */
  remove(connection: ClientConnection): void {
    this.#slow.delete(connection);
    connection.session?.drained();
    if (this.#slow.size === 0) for (const wake of this.#waiters) wake();
  }

  /** Whether a client has been slow for too long. */
  isLost(connection: ClientConnection, nowMs: number): boolean {
    const sinceMs = this.#slow.get(connection) ?? nowMs;
    return nowMs - sinceMs > MOST_MS && connection.socket.writableLength > SLOW_BYTES;
  }

  /** Resolves when no subscriber is slow any more, or after a second: one that doesn't read can't stop the others. */
  async untilTaken(): Promise<void> {
    if (this.#slow.size === 0) return;
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#waiters.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, WAIT_MS);
      this.#waiters.add(wake);
    });
  }
}
