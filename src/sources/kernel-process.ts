/** Rows of processes that start and end. Names: OpenTelemetry's conventions where there are any. */
import { RECORD_BYTES } from "../addon/index.ts";
import { Kind, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import { Field } from "./kernel-rows.ts";

/** enum weir_event_kind of native/bpf/layout.h */
const EXIT = 2;
/** Names that are remembered, by a part of their bytes: a power of two. */
const NAMES = 256;
const NAME_WORDS = (RECORD_BYTES - Field.comm) / 4;

/**
 * Process events as rows that share device and time: `event.name` (`process.exec`, `process.exit`), `process.pid`,
 * `process.parent_pid`, `process.executable.name` (up to 15 bytes, as the kernel keeps it), `process.real_user.id`, and for
 * an exit `process.exit.code` or `process.exit.signal`, and `process.uptime`.
 *
 * What a dictionary is asked is remembered for a call, and names as strings for good: else that is most of the time.
 */
export class ProcessEvents {
  readonly #words = new Uint32Array(NAMES * NAME_WORDS);
  readonly #names: string[] = new Array<string>(NAMES).fill("");
  /** in the builder of this call; -1: not asked yet */
  readonly #texts = new Int32Array(NAMES);

  /**
   * @param records `count` records of {@link RECORD_BYTES}
   * @param offsetUs from the kernel's boot time to the Unix epoch
   */
  add(into: FrameBuilder, records: Uint8Array, count: number, offsetUs: number): void {
    if (count === 0) return;
    const view = new DataView(records.buffer, records.byteOffset, records.byteLength);
    const device = into.device("_gateway");
    const [event, pid, parent] = [
      into.metric("event.name"),
      into.metric("process.pid"),
      into.metric("process.parent_pid"),
    ];
    const [name, user] = [into.metric("process.executable.name"), into.metric("process.real_user.id")];
    let [exec, exit, code, signal, uptime] = [-1, -1, -1, -1, -1];
    this.#texts.fill(-1);
    // Beyond 2^53 ns, 104 days of uptime, the sum is exact to 2 ns.
    const u64 = (at: number): number => view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
    const { text, integer, number } = Kind;
    const { good } = Status;
    for (let at = 0; at < count * RECORD_BYTES; at += RECORD_BYTES) {
      const timeUs = Math.round(u64(at + Field.time) / 1000 + offsetUs);
      const ends = view.getUint32(at + Field.kind, true) === EXIT;
      if (ends && exit < 0) exit = into.text("process.exit");
      if (!ends && exec < 0) exec = into.text("process.exec");
      into.add(device, event, timeUs, text, good, ends ? exit : exec);
      into.add(device, pid, timeUs, integer, good, view.getUint32(at + Field.pid, true));
      into.add(device, parent, timeUs, integer, good, view.getUint32(at + Field.ppid, true));
      into.add(device, name, timeUs, text, good, this.#name(into, view, at + Field.comm));
      into.add(device, user, timeUs, integer, good, view.getUint32(at + Field.uid, true));
      if (!ends) continue;
      // As wait(2) reports it: the signal in the low seven bits, else the code in the second byte.
      const status = view.getUint32(at + Field.status, true);
      if ((status & 0x7f) === 0) {
        if (code < 0) code = into.metric("process.exit.code");
        into.add(device, code, timeUs, integer, good, (status >> 8) & 0xff);
      } else {
        if (signal < 0) signal = into.metric("process.exit.signal");
        into.add(device, signal, timeUs, integer, good, status & 0x7f);
      }
      if (uptime < 0) uptime = into.metric("process.uptime", "s");
      into.add(device, uptime, timeUs, number, good, u64(at + Field.lifetime) / 1e9);
    }
  }

  /** Index of the name at `at` among the builder's texts. */
  #name(into: FrameBuilder, view: DataView, at: number): number {
    const a = view.getUint32(at, true);
    const b = view.getUint32(at + 4, true);
    const c = view.getUint32(at + 8, true);
    const d = view.getUint32(at + 12, true);
    const mixed = Math.imul(a ^ Math.imul(b ^ Math.imul(c ^ d, 0x9e37_79b1), 0x85eb_ca6b), 0xc2b2_ae35);
    const place = mixed >>> 24;
    const words = this.#words;
    const from = place * NAME_WORDS;
    if (words[from] !== a || words[from + 1] !== b || words[from + 2] !== c || words[from + 3] !== d) {
      words.set([a, b, c, d], from);
      this.#names[place] = Buffer.from(view.buffer, view.byteOffset + at, 4 * NAME_WORDS)
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
