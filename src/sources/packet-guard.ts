/** Keeps oversized packets from the broker, whose parser would wait for all of their bytes. */

/** Follows the packets of one connection by their fixed headers (MQTT 3.1.1, 2.2). */
export class PacketGuard {
  readonly #limit: number;
  /** bytes of the current packet still to come */
  #left = 0;
  /** what the next byte is: 0 a packet's type, else the place of a length byte, from 1 */
  #place = 0;
  #length = 0;

  /** `limit`: the greatest remaining length that a packet may have, in bytes. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Whether the connection may go on: false once a packet in it is too long, or its length is malformed. */
  pass(chunk: Uint8Array): boolean {
    let at = 0;
    while (at < chunk.byteLength) {
      if (this.#left > 0) {
        const part = Math.min(this.#left, chunk.byteLength - at);
        this.#left -= part;
        at += part;
      } else if (this.#place === 0) {
        this.#place = 1;
        this.#length = 0;
        at += 1;
      } else {
        const byte = chunk[at++] ?? 0;
        this.#length += (byte & 127) << (7 * (this.#place - 1));
        if (this.#length > this.#limit) return false;
        if (byte < 128) {
          this.#left = this.#length;
          this.#place = 0;
        } else if (++this.#place > 4) return false;
      }
    }
    return true;
  }
}
