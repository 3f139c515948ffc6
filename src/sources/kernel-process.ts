/** Rows of processes that start and end. Names: OpenTelemetry's conventions where there are any. */
import { ProcessRows } from "../addon/process-rows.ts";
import { untilNul } from "../core/c-string.ts";
import type { Frame } from "../core/frame.ts";
import { FrameTemplate } from "../core/frame-template.ts";
import type { EventDecoder } from "./kernel-events.ts";

/** In the order in which native/ring/process_rows.cc counts them; the last two are instead of each other. */
const METRICS = [
  ["event.name", ""],
  ["process.pid", ""],
  ["process.parent_pid", ""],
  ["process.executable.name", ""],
  ["process.real_user.id", ""],
  ["process.exit.code", ""],
  ["process.uptime", "s"],
  ["process.exit.signal", ""],
] as const;
/** The first texts, in that order, too. */
const EVENTS = ["process.exec", "process.exit"] as const;

/** Names that are remembered, by a part of their bytes: a power of two. */
const NAMES = 256;
const NAME_WORDS = 4;

/**
 * Process events as rows that share device and time: `event.name` (`process.exec`, `process.exit`), `process.pid`,
 * `process.parent_pid`, `process.executable.name` (up to 15 bytes, as the kernel keeps it), `process.real_user.id`, and for
 * an exit `process.exit.code` or `process.exit.signal`, and `process.uptime`.
 */
export class ProcessEvents implements EventDecoder {
  readonly #rows = new ProcessRows();
  readonly #template = new FrameTemplate("_gateway", METRICS);
  readonly #words = new Uint32Array(NAMES * NAME_WORDS);
  readonly #names: string[] = new Array<string>(NAMES).fill("");
  readonly records = this.#rows.records;

  frame(count: number, offsetUs: number): Frame {
    const { rows, names } = this.#rows.survey(count);
    const texts: string[] = [...EVENTS];
    for (let i = 0; i < names; i++) {
      const name = this.#name(this.#rows.nameAt(i));
      // Names that differ may be one as text: what isn't UTF-8 becomes U+FFFD.
      const known = texts.indexOf(name);
      this.#rows.setName(i, known < 0 ? texts.push(name) - 1 : known);
    }
    const frame = this.#template.frame(rows, texts);
    this.#rows.write(frame.buffer, offsetUs);
    return frame;
  }

  /** The name at word `at` of the records. */
  #name(at: number): string {
    const words = this.#rows.words;
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
      this.#names[place] = untilNul(Buffer.from(own.buffer, 4 * from, 4 * NAME_WORDS));
    }
    return this.#names[place] ?? "";
  }
}
