/**
 * Frames of chunks that were committed just now. Most are leased within milliseconds: they need not be read back, decompressed and
 * unpacked. What is not leased soon is let go, and read from the database when its time comes.
 */
import type { Frame } from "../core/frame.ts";
import type { Stream } from "../core/ports.ts";

/** What is kept at most; more chunks are not taken in until there is room. */
const MOST_BYTES = 4 * 2 ** 20;
/** What a chunk takes beside its frame. */
const CHUNK_BYTES = 1024;

interface Recent {
  readonly chunk: number;
  readonly stream: Stream;
  readonly frame: Frame;
  /** uplinks that have not had it */
  readers: number;
  /** it was here at the last {@link RecentFrames.age} */
  old: boolean;
}

/** A few megabytes of frames, by the numbers of their chunks. */
export class RecentFrames {
  readonly #kept = new Map<number, Recent>();
  readonly #buffers = new Set<ArrayBuffer>();
  /** of the transaction that runs */
  #fresh: Recent[] = [];
  #bytes = 0;

  /** A chunk is stored, if the transaction commits; so many uplinks will want it. Its frame must stay as it is while it is {@link keeps kept}. */
  note(chunk: number, stream: Stream, frame: Frame, readers: number): void {
    this.#fresh.push({ chunk, stream, frame, readers, old: false });
  }

  commit(): void {
    for (const recent of this.#fresh) {
      const { chunk, frame } = recent;
      if (this.#bytes + frame.byteLength + CHUNK_BYTES > MOST_BYTES) continue;
      this.#bytes += frame.byteLength + CHUNK_BYTES;
      this.#kept.set(chunk, recent);
      this.#buffers.add(frame.buffer);
    }
    this.#fresh = [];
  }

  rollBack(): void {
    this.#fresh = [];
  }

  /** Whether a frame over this buffer is kept. */
  keeps(buffer: ArrayBuffer): boolean {
    return this.#buffers.has(buffer);
  }

  /** The frames of a stream's chunks from `first` to `last` for one of the uplinks, when all `rows` of them are here. */
  take(stream: Stream, first: number, last: number, rows: number): Frame[] | undefined {
    const found: Recent[] = [];
    let left = rows;
    for (const recent of this.#kept.values()) {
      if (recent.chunk < first || recent.stream !== stream) continue;
      if (recent.chunk > last) break;
      found.push(recent);
      left -= recent.frame.rows;
    }
    if (left !== 0) return undefined;
    for (const recent of found) {
      recent.readers -= 1;
      if (recent.readers <= 0) this.#drop(recent);
    }
    return found.map(({ frame }) => frame);
  }

  /** Lets go what was here at the last call already. Call it now and then. */
  age(): void {
    for (const recent of this.#kept.values()) {
      if (recent.old) this.#drop(recent);
      else recent.old = true;
    }
  }

  #drop({ chunk, frame }: Recent): void {
    this.#kept.delete(chunk);
    this.#buffers.delete(frame.buffer);
    this.#bytes -= frame.byteLength + CHUNK_BYTES;
  }
}
