/** Makes rows of what the probes count and send. Names and units: OpenTelemetry's conventions where there are any, UCUM. */
import { getSystemErrorName } from "node:util";
import { BUCKETS, type Counters, RECORD_BYTES } from "../addon/index.ts";
import { untilNul } from "../core/c-string.ts";
import { type Frame, Kind, Status } from "../core/frame.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import { metricName } from "../core/labels.ts";
import type { EventDecoder } from "./kernel-events.ts";

/** The device that the gateway's own telemetry belongs to. */
const GATEWAY = "_gateway";
/** enum weir_event_kind of native/bpf/layout.h */
const OPEN = 3;
const TEXT = 4;
/** of `struct weir_event`, behind the record's header */
export const Field = {
  time: 8,
  lifetime: 16,
  kind: 24,
  pid: 28,
  ppid: 32,
  status: 36,
  comm: 48,
} as const;

/** What grew since the last time; a counter that fell has started again from 0, and all of it is new. */
const grown = (now: bigint, before: bigint): number => Number(now >= before ? now - before : now);

/**
 * One histogram of a probe as rows: the interval's count in each non-zero bucket (`<metric>;le=<seconds>`), `<metric>.count`
 * and `<metric>.sum` in seconds. Remembers the totals to take the next interval's from.
 */
export class HistogramRows {
  readonly #histogram: number;
  readonly #count: string;
  readonly #sum: string;
  readonly #bucketMetrics: readonly string[];
  readonly #before = new BigUint64Array(BUCKETS);
  #sumBefore = 0n;

  /** `histogram`: its place in the probe's {@link Counters}; `metric`: with plain labels, or without. */
  constructor(histogram: number, metric: string) {
    this.#histogram = histogram;
    const [name = "", ...labels] = metric.split(";");
    const suffixed = (suffix: string): string => [`${name}${suffix}`, ...labels].join(";");
    this.#count = suffixed(".count");
    this.#sum = suffixed(".sum");
    const own = Object.fromEntries(labels.map((label) => label.split("=", 2)));
    this.#bucketMetrics = Array.from({ length: BUCKETS }, (_, bucket) =>
      metricName(name, { ...own, le: String(2 ** bucket / 1e9) }),
    );
  }

  /** Adds the rows of what was counted since the last call. */
  add(into: FrameBuilder, counters: Counters, timeUs: number): void {
    const device = into.device(GATEWAY);
    const buckets = counters.buckets[this.#histogram] ?? this.#before;
    let count = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const total = buckets[bucket] ?? 0n;
      const delta = grown(total, this.#before[bucket] ?? 0n);
      this.#before[bucket] = total;
      count += delta;
      const metric = this.#bucketMetrics[bucket];
      if (delta === 0 || metric === undefined) continue;
      into.add(device, into.metric(metric, "1"), timeUs, Kind.integer, Status.good, delta);
    }
    const sum = counters.sumNs[this.#histogram] ?? 0n;
    const sumSeconds = grown(sum, this.#sumBefore) / 1e9;
    this.#sumBefore = sum;
    into.add(device, into.metric(this.#count, "1"), timeUs, Kind.integer, Status.good, count);
    into.add(device, into.metric(this.#sum, "s"), timeUs, Kind.number, Status.good, sumSeconds);
  }
}

/** Records of opens and paths that are held, and so decoded together. An open is up to 5 rows. */
const HELD_RECORDS = 384;
/** A path's beginning is sent in parts of so many bytes. */
const TEXT_BYTES = 32;
/** Threads whose path has come and whose event has not. */
const MOST_OPEN = 4096;

/**
 * Files that are opened, as rows that share device and time: `event.name` (`file.open`), `process.pid`,
 * `process.executable.name`, `file.path` (its first 63 bytes, as the program gave it), and `error.type` when it was refused.
 */
export class OpenEvents implements EventDecoder {
  readonly records = Buffer.alloc(HELD_RECORDS * RECORD_BYTES);
  readonly #builder = new FrameBuilder();
  readonly #paths = new Map<number, Path>();

  /** The parts of a path come before its event. */
  frame(count: number, offsetUs: number): Frame {
    const bytes = this.records;
    const into = this.#builder;
    const device = into.device(GATEWAY);
    for (let at = 0; at < count * RECORD_BYTES; at += RECORD_BYTES) {
      const kind = bytes.readUInt32LE(at + Field.kind);
      if (kind === TEXT) this.#keep(bytes, at);
      if (kind !== OPEN) continue;
      const nanoseconds = timeOf(bytes, at);
      const timeUs = Math.round(nanoseconds / 1000 + offsetUs);
      const text = (metric: string, value: string): void =>
        into.add(device, into.metric(metric), timeUs, Kind.text, Status.good, into.text(value));
      const thread = bytes.readUInt32LE(at + Field.ppid);
      const path = this.#paths.get(thread);
      this.#paths.delete(thread);
      text("event.name", "file.open");
      into.add(
        device,
        into.metric("process.pid"),
        timeUs,
        Kind.integer,
        Status.good,
        bytes.readUInt32LE(at + Field.pid),
      );
      text("process.executable.name", untilNul(bytes.subarray(at + Field.comm, at + RECORD_BYTES)));
      if (path?.time === nanoseconds && isWhole(path)) text("file.path", untilNul(path.text));
      const result = bytes.readInt32LE(at + Field.status);
      if (result < 0) text("error.type", getSystemErrorName(result));
    }
    return into.build();
  }

  #keep(bytes: Buffer, at: number): void {
    const thread = bytes.readUInt32LE(at + Field.pid);
    const part = bytes[at + Field.lifetime] === 0 ? 0 : 1;
    if (this.#paths.size >= MOST_OPEN) this.#paths.clear();
    const time = timeOf(bytes, at);
    // An earlier one's event may have been lost.
    let path = this.#paths.get(thread);
    if (path?.time !== time) path = { time, parts: 0, text: Buffer.alloc(2 * TEXT_BYTES) };
    path.parts |= 1 << part;
    bytes.copy(path.text, part * TEXT_BYTES, at + Field.ppid, at + Field.ppid + TEXT_BYTES);
    this.#paths.set(thread, path);
  }
}

/** As far as its records have come: each of them may be lost. */
interface Path {
  /** of its event, too */
  readonly time: number;
  /** a bit for each */
  parts: number;
  readonly text: Buffer;
}

const isWhole = ({ parts, text }: Path): boolean =>
  parts === 3 || (parts === 1 && text.indexOf(0) < TEXT_BYTES);

/** In nanoseconds. */
const timeOf = (bytes: Buffer, at: number): number =>
  bytes.readUInt32LE(at + Field.time) + bytes.readUInt32LE(at + Field.time + 4) * 2 ** 32;
