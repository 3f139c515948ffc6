/** Rows of processes that start and end. Names: OpenTelemetry's conventions where there are any. */
import { RECORD_BYTES } from "../addon/index.ts";
import { Kind, Status } from "../core/frame.ts";
import type { Columns, FrameBuilder } from "../core/frame-builder.ts";
import { Field, MOST_EVENT_ROWS } from "./kernel-rows.ts";

/** enum weir_event_kind of native/bpf/layout.h */
const EXIT = 2;
/** Names that are remembered, by a part of their bytes: a power of two. */
const NAMES = 256;
const NAME_WORDS = (RECORD_BYTES - Field.comm) / 4;
const RECORD_WORDS = RECORD_BYTES / 4;
/** Where a record's fields are, in words. */
const Word = {
  time: Field.time / 4,
  lifetime: Field.lifetime / 4,
  kind: Field.kind / 4,
  pid: Field.pid / 4,
  ppid: Field.ppid / 4,
  status: Field.status / 4,
  uid: Field.uid / 4,
  comm: Field.comm / 4,
} as const;

/** Indexes in the dictionaries of a builder. */
interface Indexes {
  readonly event: number;
  readonly pid: number;
  readonly parent: number;
  readonly name: number;
  readonly user: number;
  readonly code: number;
  readonly signal: number;
  readonly uptime: number;
  readonly exec: number;
  readonly exit: number;
}

/**
 * Process events as rows that share device and time: `event.name` (`process.exec`, `process.exit`), `process.pid`,
 * `process.parent_pid`, `process.executable.name` (up to 15 bytes, as the kernel keeps it), `process.real_user.id`, and for
 * an exit `process.exit.code` or `process.exit.signal`, and `process.uptime`.
 *
 * First the dictionaries are asked, then the rows are written, in a loop without calls: both together take half the time.
 */
export class ProcessEvents {
  readonly #words = new Uint32Array(NAMES * NAME_WORDS);
  readonly #names: string[] = new Array<string>(NAMES).fill("");
  /** in the builder of this call; -1: not asked yet */
  readonly #texts = new Int32Array(NAMES);
  /** of each record of this call, its name's index */
  #nameOf = new Uint32Array(0);

  /**
   * @param records `count` records of {@link RECORD_BYTES}, at a multiple of 4 bytes of their buffer
   * @param offsetUs from the kernel's boot time to the Unix epoch
   */
  add(into: FrameBuilder, records: Uint8Array, count: number, offsetUs: number): void {
    if (count === 0) return;
    const words = new Uint32Array(records.buffer, records.byteOffset, count * RECORD_WORDS);
    if (this.#nameOf.length < count) this.#nameOf = new Uint32Array(count);
    this.#texts.fill(-1);
    let [starts, codes, signals] = [0, 0, 0];
    for (let i = 0, at = 0; i < count; i++, at += RECORD_WORDS) {
      this.#nameOf[i] = this.#name(into, words, at + Word.comm);
      if (words[at + Word.kind] !== EXIT) starts++;
      else if (((words[at + Word.status] ?? 0) & 0x7f) === 0) codes++;
      else signals++;
    }
    const ends = codes + signals;
    const indexes = {
      event: into.metric("event.name"),
      pid: into.metric("process.pid"),
      parent: into.metric("process.parent_pid"),
      name: into.metric("process.executable.name"),
      user: into.metric("process.real_user.id"),
      code: codes > 0 ? into.metric("process.exit.code") : 0,
      signal: signals > 0 ? into.metric("process.exit.signal") : 0,
      uptime: ends > 0 ? into.metric("process.uptime", "s") : 0,
      exec: starts > 0 ? into.text("process.exec") : 0,
      exit: ends > 0 ? into.text("process.exit") : 0,
    };
    const columns = into.room(count * MOST_EVENT_ROWS);
    const end = writeRows(columns, into.rows, words, this.#nameOf, indexes, offsetUs);
    into.filled(end, into.device("_gateway"), Status.good);
  }

  /** Index of the name at word `at` among the builder's texts. */
  #name(into: FrameBuilder, words: Uint32Array, at: number): number {
    const a = words[at] ?? 0;
    const b = words[at + 1] ?? 0;
    const c = words[at + 2] ?? 0;
    const d = words[at + 3] ?? 0;
    const mixed = Math.imul(a ^ Math.imul(b ^ Math.imul(c ^ d, 0x9e37_79b1), 0x85eb_ca6b), 0xc2b2_ae35);
    const place = mixed >>> 24;
    const own = this.#words;
    const from = place * NAME_WORDS;
    if (own[from] !== a || own[from + 1] !== b || own[from + 2] !== c || own[from + 3] !== d) {
      own.set([a, b, c, d], from);
      this.#names[place] = Buffer.from(words.buffer, words.byteOffset + 4 * at, 4 * NAME_WORDS)
        .toString("utf8")
        .split("\0", 1)
        .join();
      this.#texts[place] = -1;
    }
    let index = this.#texts[place] ?? -1;
    if (index < 0) this.#texts[place] = index = into.text(this.#names[place] ?? "");
    return index;
  }
}

/** Writes the rows of all records from row `first` on, but for what they share. Returns the row after the last. */
function writeRows(
  { time, metric, kind, value }: Columns,
  first: number,
  words: Uint32Array,
  nameOf: Uint32Array,
  of: Indexes,
  offsetUs: number,
): number {
  const { text, integer, number } = Kind;
  const { event, pid, parent, name, user, code, signal, uptime, exec, exit } = of;
  let row = first;
  for (let i = 0, at = 0; at < words.length; i++, at += RECORD_WORDS) {
    const ends = words[at + Word.kind] === EXIT;
    const timeUs = Math.round(u64(words, at + Word.time) / 1000 + offsetUs);
    time[row] = time[row + 1] = time[row + 2] = time[row + 3] = time[row + 4] = timeUs;
    metric[row] = event;
    metric[row + 1] = pid;
    metric[row + 2] = parent;
    metric[row + 3] = name;
    metric[row + 4] = user;
    kind[row] = kind[row + 3] = text;
    kind[row + 1] = kind[row + 2] = kind[row + 4] = integer;
    value[row] = ends ? exit : exec;
    value[row + 1] = words[at + Word.pid] ?? 0;
    value[row + 2] = words[at + Word.ppid] ?? 0;
    value[row + 3] = nameOf[i] ?? 0;
    value[row + 4] = words[at + Word.uid] ?? 0;
    row += 5;
    if (!ends) continue;
    // As wait(2) reports it: the signal in the low seven bits, else the code in the second byte.
    const status = words[at + Word.status] ?? 0;
    const killed = status & 0x7f;
    time[row] = time[row + 1] = timeUs;
    metric[row] = killed === 0 ? code : signal;
    metric[row + 1] = uptime;
    kind[row] = integer;
    kind[row + 1] = number;
    value[row] = killed === 0 ? (status >> 8) & 0xff : killed;
    value[row + 1] = u64(words, at + Word.lifetime) / 1e9;
    row += 2;
  }
  return row;
}

/** Beyond 2^53 ns, 104 days of uptime, the sum is exact to 2 ns. */
function u64(words: Uint32Array, at: number): number {
  return (words[at] ?? 0) + (words[at + 1] ?? 0) * 2 ** 32;
}
