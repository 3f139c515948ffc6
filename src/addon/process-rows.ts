/**
 * Process events as rows of a frame, by the addon (native/ring/process_rows.h): it looks at records and says what is in them, and then
 * writes the columns into the frame that was made for them. The memory between both sides is known to both from the start: a
 * call with arguments costs as much as a dozen events.
 */
import { addonState, RECORD_BYTES } from "./index.ts";
import type { NativeProcessRows } from "./native.ts";

/** Records that there is room for; they make at most 2,044 rows. */
export const MOST_PROCESS_EVENTS = 292;

/** Rows of a process that starts, and of one that ends. */
const [START_ROWS, END_ROWS] = [5, 7];
/** `struct ProcessMemory`: words of its head, then the offset, two tables of a word for each name, and the records. */
const Word = { count: 0, starts: 1, ends: 2, names: 3 } as const;
const OFFSET_AT = 16;
const TABLES_AT = 24;
const TABLE_BYTES = 4 * MOST_PROCESS_EVENTS;
const RECORDS_AT = TABLES_AT + 2 * TABLE_BYTES;
/** Where in a record the name is, in words. */
const NAME_WORD = 12;

/** What {@link ProcessRows.survey} found. */
export interface ProcessSurvey {
  readonly rows: number;
  /** how many; hardly any twice */
  readonly names: number;
}

/** Records, and the addon's view of them. */
export class ProcessRows {
  /** Where records are drained to. */
  readonly records: Uint8Array;
  /** the same */
  readonly words: Uint32Array;
  readonly #native: NativeProcessRows;
  readonly #head: Uint32Array;
  readonly #offsetUs: Float64Array;
  readonly #nameRecords: Uint32Array;
  readonly #nameTexts: Uint32Array;

  /** @throws TypeError where there is no addon, and so no record */
  constructor() {
    const addon = addonState();
    if (!addon.ok) throw new TypeError(addon.reason);
    // Shared, because that can't be detached; nobody else has it.
    const memory = new SharedArrayBuffer(RECORDS_AT + MOST_PROCESS_EVENTS * RECORD_BYTES);
    this.#head = new Uint32Array(memory, 0, 4);
    this.#offsetUs = new Float64Array(memory, OFFSET_AT, 1);
    this.#nameRecords = new Uint32Array(memory, TABLES_AT, MOST_PROCESS_EVENTS);
    this.#nameTexts = new Uint32Array(memory, TABLES_AT + TABLE_BYTES, MOST_PROCESS_EVENTS);
    this.records = new Uint8Array(memory, RECORDS_AT);
    this.words = new Uint32Array(memory, RECORDS_AT);
    this.#native = new addon.native.ProcessRows(new Uint8Array(memory));
  }

  /** Looks at the first `count` records. */
  survey(count: number): ProcessSurvey {
    const head = this.#head;
    head[Word.count] = count;
    this.#native.survey();
    const rows = START_ROWS * (head[Word.starts] ?? 0) + END_ROWS * (head[Word.ends] ?? 0);
    return { rows, names: head[Word.names] ?? 0 };
  }

  /** Where in {@link words} name `i` of those found is: four words, NUL-padded. */
  nameAt(i: number): number {
    return (this.#nameRecords[i] ?? 0) * (RECORD_BYTES / 4) + NAME_WORD;
  }

  /** Name `i` of those found is text `text` of the frame. */
  setName(i: number, text: number): void {
    this.#nameTexts[i] = text;
  }

  /**
   * Writes every byte of the columns of what was looked at: the end of `block`. All rows are of device 0 and status 0.
   * @param offsetUs from the kernel's boot time to the Unix epoch
   */
  write(block: ArrayBuffer, offsetUs: number): void {
    this.#offsetUs[0] = offsetUs;
    if (!this.#native.write(block)) throw new RangeError("process events: there is no room for the columns");
  }
}
