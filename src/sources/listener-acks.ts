/** What a client is still owed: its acknowledgements, written in the order in which its messages came, many at once. */
import { Reason } from "./mqtt-wire.ts";

const WAITING = -1;
const FIRST_ROOM = 16;

/**
 * Acknowledgements of one connection, in order [MQTT-4.6.0-2, -3]: one that is settled waits for those before it.
 */
export class AckQueue {
  #ids = new Uint16Array(FIRST_ROOM);
  /** the packet's first byte: PUBACK or PUBREC */
  #types = new Uint8Array(FIRST_ROOM);
  /** reason code, or WAITING */
  #reasons = new Int16Array(FIRST_ROOM);
  #head = 0;
  #tail = 0;

  /** Acknowledgements that are owed or not yet written. */
  get size(): number {
    return this.#tail - this.#head;
  }

  /** Adds one and answers its place, for {@link settle}. `type`: the acknowledgement's first byte. */
  push(id: number, type: number): number {
    if (this.size === this.#ids.length) this.#grow();
    const slot = this.#tail & (this.#ids.length - 1);
    this.#ids[slot] = id;
    this.#types[slot] = type;
    this.#reasons[slot] = WAITING;
    return this.#tail++;
  }

  settle(place: number, reason: number): void {
    this.#reasons[place & (this.#ids.length - 1)] = reason;
  }

  /** The bytes of all that can be written now, or undefined. `reasons`: whether the client reads reason codes (MQTT 5). */
  take(reasons: boolean): Buffer | undefined {
    const mask = this.#ids.length - 1;
    let end = this.#head;
    while (end < this.#tail && this.#reasons[end & mask] !== WAITING) end += 1;
    if (end === this.#head) return undefined;
    const bytes = Buffer.allocUnsafe(5 * (end - this.#head));
    let at = 0;
    for (let place = this.#head; place < end; place++) {
      const slot = place & mask;
      const id = this.#ids[slot] ?? 0;
      const reason = reasons ? (this.#reasons[slot] ?? 0) : 0;
      bytes[at] = this.#types[slot] ?? 0;
      // A reason of success is left out [5: 3.4.2.1].
      bytes[at + 1] = reason === Reason.success ? 2 : 3;
      bytes[at + 2] = id >> 8;
      bytes[at + 3] = id & 255;
      at += 4;
      if (reason !== Reason.success) bytes[at++] = reason;
    }
    this.#head = end;
    return bytes.subarray(0, at);
  }

  #grow(): void {
    const before = this.#ids.length;
    const [ids, types, reasons] = [this.#ids, this.#types, this.#reasons];
    this.#ids = new Uint16Array(2 * before);
    this.#types = new Uint8Array(2 * before);
    this.#reasons = new Int16Array(2 * before);
    for (let place = this.#head; place < this.#tail; place++) {
      const to = place & (2 * before - 1);
      const from = place & (before - 1);
      this.#ids[to] = ids[from] ?? 0;
      this.#types[to] = types[from] ?? 0;
      this.#reasons[to] = reasons[from] ?? 0;
    }
  }
}
