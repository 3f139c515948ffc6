/** Frames that differ in their rows and texts alone. */
import { type Dictionaries, Frame, HEADER_BYTES, newBlock, utf8Length, writeTexts } from "./frame.ts";
import { FrameBuilder } from "./frame-builder.ts";

/** What is the same in its frames' dictionaries is laid out once: of small frames that is most of the time. */
export class FrameTemplate {
  readonly #dictionaries: Dictionaries;
  /** of the dictionary section: the table of lengths, and the entries */
  readonly #lengths: Uint32Array;
  readonly #entries: Uint8Array;

  /** `metrics` come with their units. Names have passed `deviceProblem` and `nameProblem`. */
  constructor(device: string, metrics: readonly (readonly [name: string, unit: string])[]) {
    const builder = new FrameBuilder(1);
    builder.device(device);
    for (const [name, unit] of metrics) builder.metric(name, unit);
    const { buffer, dictionaries } = builder.build();
    this.#dictionaries = dictionaries;
    this.#lengths = new Uint32Array(buffer, HEADER_BYTES, 1 + 2 * metrics.length);
    const size = this.#lengths.reduce((sum, length) => sum + length, 0);
    this.#entries = new Uint8Array(buffer, HEADER_BYTES + this.#lengths.byteLength, size);
  }

  /**
   * A frame with these texts and with room for rows. Its columns hold whatever was in that memory: the caller writes every byte of them
   * before anybody else has the frame.
   * @param texts well-formed, each once
   */
  frame(rows: number, texts: readonly string[]): Frame {
    const { devices, metrics, units, blobs } = this.#dictionaries;
    const shared = this.#lengths.length;
    const joined = texts.join("");
    const buffer = newBlock({
      rows,
      counts: [devices.length, metrics.length, texts.length, 0],
      dictionaryBytes: 4 * (shared + texts.length) + this.#entries.length + utf8Length(joined),
    });
    const lengths = new Uint32Array(buffer, HEADER_BYTES, shared + texts.length);
    lengths.set(this.#lengths);
    const entries = new Uint8Array(buffer, HEADER_BYTES + lengths.byteLength);
    entries.set(this.#entries);
    writeTexts(lengths.subarray(shared), entries.subarray(this.#entries.length), texts, joined);
    return new Frame(buffer, { devices, metrics, units, texts, blobs });
  }
}
