/**
 * Keeps oversized packets from a parser, which would collect all of their bytes. A PUBLISH that is too large is passed over, and told
 * of: ending the connection for it would bring it again on the next one, and nothing after it, for ever.
 */

/** A PUBLISH that was passed over. */
export interface Skipped {
  readonly topic: string;
  readonly qos: 0 | 1 | 2;
  /** its packet identifier; 0 with QoS 0 */
  readonly id: number;
  /** of the packet, without its fixed header */
  readonly bytes: number;
}

const PUBLISH = 3;

interface Skipping {
  readonly qos: 0 | 1 | 2;
  readonly bytes: number;
  /** its first bytes, as far as the topic and the identifier go */
  head: Buffer;
}

/** Follows the packets of one connection by their fixed headers (MQTT 3.1.1, 2.2). */
export class PacketGuard {
  readonly #limit: number;
  readonly #pass: (bytes: Buffer) => void;
  readonly #skipped: (packet: Skipped) => void;
  /** bytes of the current packet still to come */
  #left = 0;
  #skipping: Skipping | undefined;
  /** the fixed header so far; it is held back until it is whole */
  #header: number[] = [];

  /**
   * `limit`: the greatest remaining length that a packet may have, in bytes. `pass` gets every byte of the others, in order, as views;
   * `skipped` each PUBLISH beyond, when its last byte has come.
   */
  constructor(limit: number, pass: (bytes: Buffer) => void, skipped: (packet: Skipped) => void) {
    this.#limit = limit;
    this.#pass = pass;
    this.#skipped = skipped;
  }

  /** Whether the connection may go on: not when another packet is too long, or a length is malformed. */
  feed(bytes: Uint8Array): boolean {
    const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    /** where what may be passed begins, and where in this chunk the header does */
    let from = 0;
    let headerAt = 0;
    for (let at = 0; at < chunk.length; ) {
      if (this.#left > 0) {
        const end = Math.min(at + this.#left, chunk.length);
        this.#left -= end - at;
        if (this.#skipping !== undefined) {
          collect(this.#skipping, chunk.subarray(at, end));
          from = end;
          if (this.#left === 0 && !this.#tell(this.#skipping)) return false;
        }
        at = end;
        headerAt = at;
        continue;
      }
      if (this.#header.length === 0) headerAt = at;
      const byte = chunk[at++] ?? 0;
      this.#header.push(byte);
      if (this.#header.length === 1) continue;
      if (byte >= 128) {
        if (this.#header.length > 4) return false;
        continue;
      }
      const length = this.#header.slice(1).reduce((sum, part, i) => sum + (part & 127) * 128 ** i, 0);
      if (length > this.#limit) {
        const first = this.#header[0] ?? 0;
        const qos = (first >> 1) & 3;
        if (first >> 4 !== PUBLISH || qos === 3) return false;
        if (headerAt > from) this.#pass(chunk.subarray(from, headerAt));
        this.#skipping = { qos: qos === 0 ? 0 : qos === 1 ? 1 : 2, bytes: length, head: Buffer.alloc(0) };
        from = at;
      } else {
        // What of it came with an earlier chunk.
        const before = this.#header.length - (at - headerAt);
        if (before > 0) this.#pass(Buffer.from(this.#header.slice(0, before)));
      }
      this.#left = length;
      this.#header = [];
      headerAt = at;
    }
    const end = this.#header.length > 0 ? headerAt : chunk.length;
    if (end > from && this.#skipping === undefined) this.#pass(chunk.subarray(from, end));
    return true;
  }

  /** False when its topic goes beyond its end. */
  #tell(packet: Skipping): boolean {
    this.#skipping = undefined;
    const { qos, bytes, head } = packet;
    if (head.length < headBytes(packet)) return false;
    const end = 2 + head.readUInt16BE(0);
    const id = qos === 0 ? 0 : head.readUInt16BE(end);
    this.#skipped({ topic: head.toString("utf8", 2, end), qos, id, bytes });
    return true;
  }
}

/** How many of its first bytes are to be kept, as far as they say it themselves. */
const headBytes = ({ head, qos }: Skipping): number =>
  head.length < 2 ? 2 : 2 + head.readUInt16BE(0) + (qos === 0 ? 0 : 2);

function collect(packet: Skipping, part: Buffer): void {
  for (let at = 0; at < part.length && packet.head.length < headBytes(packet); ) {
    const end = at + headBytes(packet) - packet.head.length;
    packet.head = Buffer.concat([packet.head, part.subarray(at, end)]);
    at = end;
  }
}
