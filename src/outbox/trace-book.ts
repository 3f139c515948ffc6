/** Trace contexts by chunk, in memory: they are to help a person look for something, and are not worth a place in the database. */
import { joinTraces, type Traces } from "../core/trace.ts";

/** Chunks that are remembered. */
const MOST_CHUNKS = 1_024;

/** The contexts of the latest chunks that had any. */
export class TraceBook {
  readonly #byChunk = new Map<number, Traces>();
  readonly #wanted: boolean;

  /** `wanted`: an uplink sends them; else nothing is kept */
  constructor(wanted: boolean) {
    this.#wanted = wanted;
  }

  /** Notes a chunk's; one that was rolled back had the same number. */
  note(chunk: number, traces: Traces | undefined): void {
    if (!this.#wanted) return;
    this.#byChunk.delete(chunk);
    if (traces === undefined) return;
    this.#byChunk.set(chunk, traces);
    const [oldest] = this.#byChunk.keys();
    if (oldest !== undefined && this.#byChunk.size > MOST_CHUNKS) this.#byChunk.delete(oldest);
  }

  get isEmpty(): boolean {
    return this.#byChunk.size === 0;
  }

  /** Those of some chunks together. */
  of(chunks: readonly number[]): Traces | undefined {
    return joinTraces(chunks.map((chunk) => this.#byChunk.get(chunk)));
  }
}
