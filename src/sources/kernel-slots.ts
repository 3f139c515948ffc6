/** Rows of what the probes count by label (docs/probes.md). What has no place in the kernel's table is labelled `_other`. */
import { constants } from "node:os";
import { type Counters, kernelEnum, type ProbeName, SLOT_WORDS } from "../addon/index.ts";
import { untilNul } from "../core/c-string.ts";
import { Kind, nameProblem, Status } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import { ipAddress } from "../core/ip-address.ts";
import { metricName } from "../core/labels.ts";

type Labels = Readonly<Record<string, string>>;

/** One value of a slot as a metric. `scale` divides: nanoseconds become seconds, a kind `number`. */
interface SlotValue {
  readonly metric: string;
  readonly unit: string;
  readonly scale: number;
  readonly labels: Labels;
}

interface SlotKind {
  readonly values: readonly (SlotValue | undefined)[];
  readonly labels: (words: readonly bigint[]) => Labels;
  /** rows in an interval: the largest; the others wait for a later one */
  readonly most: number;
}

const OTHER = "_other";
/** Bytes of label words up to the first NUL. */
function text(...words: readonly bigint[]): string {
  const bytes = Buffer.alloc(words.length * 8);
  for (const [i, word] of words.entries()) bytes.writeBigUInt64LE(word, i * 8);
  return untilNul(bytes);
}

/** The address of two label words. */
function address(a: bigint, b: bigint): string {
  if (a === 0n && b === 0n) return "";
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64LE(a, 0);
  bytes.writeBigUInt64LE(b, 8);
  return ipAddress(bytes);
}

const portText = (port: bigint): string => (port === 0n ? "" : String(port));
const byName = ([a = 0n, b = 0n]: readonly bigint[]): Labels => ({
  "process.executable.name": text(a, b) || OTHER,
});
const byDevice = ([a = 0n, b = 0n]: readonly bigint[]): Labels => ({ "system.device": text(a, b) || OTHER });
const count = (metric: string, unit: string, labels: Labels = {}): SlotValue => ({
  metric,
  unit,
  scale: 1,
  labels,
});
const time = (metric: string, labels: Labels = {}): SlotValue => ({ metric, unit: "s", scale: 1e9, labels });
const startup = (phase: string): readonly SlotValue[] => [
  time("process.startup.duration", { phase }),
  count("process.startup.count", "{process}", { phase }),
];

/** Peer and port of a TCP connection (native/bpf/endpoint.bpf.h). */
const byEndpoint = ([a = 0n, b = 0n, ports = 0n]: readonly bigint[]): Labels => ({
  "network.peer.address": address(a, b) || OTHER,
  "network.local.port": portText(ports & 0xffffn),
  "network.peer.port": portText((ports >> 16n) & 0xffffn),
});

let reasons: ReadonlyMap<number, string> | undefined;
/** The running kernel's name for a reason, such as `no_socket`; its number when it says none. */
function dropReason(code: bigint): string {
  reasons ??= kernelEnum("skb_drop_reason");
  const name = reasons.get(Number(code));
  return name === undefined ? String(code) : name.replace(/^SKB_(?:DROP_REASON_)?/, "").toLowerCase();
}

const SIGNALS = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]));
/** Such as `SIGTERM`; real-time ones by their number. */
const signalName = (number: bigint): string => SIGNALS.get(Number(number)) ?? portText(number);

const KINDS: Readonly<Partial<Record<ProbeName, SlotKind>>> = {
  sched: {
    values: ["cpu", "preempted", "blocked", "sleeping"].map((state) =>
      time("process.thread.time", { state }),
    ),
    labels: byName,
    most: 40,
  },
  tcp: {
    values: [
      time("tcp.peer.connect.duration.sum"),
      count("tcp.peer.connect.count", "{connection}"),
      time("tcp.peer.rtt.sum"),
      count("tcp.peer.rtt.count", "{segment}"),
    ],
    labels: byEndpoint,
    most: 64,
  },
  tcploss: {
    values: [
      count("tcp.retransmits", "{segment}"),
      count("tcp.resets", "{segment}", { "network.io.direction": "transmit" }),
      count("tcp.resets", "{segment}", { "network.io.direction": "receive" }),
    ],
    labels: byEndpoint,
    most: 64,
  },
  drops: {
    values: [count("system.linux.packet.dropped", "{packet}")],
    labels: ([a = 0n, b = 0n, reason = 0n]) => ({
      "network.interface.name": text(a, b) || OTHER,
      reason: dropReason(reason),
    }),
    most: 64,
  },
  exec: {
    values: [
      count("process.starts", "{process}"),
      count("process.exits", "{process}", { outcome: "success" }),
      count("process.exits", "{process}", { outcome: "failure" }),
      count("process.exits", "{process}", { outcome: "signal" }),
    ],
    labels: byName,
    most: 64,
  },
  coldstart: {
    values: [...startup("listen"), ...startup("connection")],
    labels: ([a = 0n, b = 0n, port = 0n]) => ({ ...byName([a, b]), "network.local.port": portText(port) }),
    most: 32,
  },
  sockcalls: {
    values: [
      time("process.socket.call.duration.sum"),
      count("process.socket.call.count", "{call}"),
      count("process.socket.call.errors", "{error}"),
    ],
    labels: ([a = 0n, b = 0n, kind = 0n]) => ({
      ...byName([a, b]),
      call: ["connect", "accept", "send", "receive"][Number(kind) - 1] ?? "",
    }),
    most: 128,
  },
  opens: {
    values: ["success", "not_found", "denied", "error"].map((outcome) =>
      count("process.file.opens", "{file}", { outcome }),
    ),
    labels: byName,
    most: 128,
  },
  signals: {
    values: [count("process.signals", "{signal}"), count("process.signals.foreign", "{signal}")],
    labels: ([a = 0n, b = 0n, number = 0n]) => ({ ...byName([a, b]), signal: signalName(number) }),
    most: 128,
  },
  dns: {
    values: [
      time("dns.server.duration.sum"),
      count("dns.server.answers", "{answer}"),
      count("dns.server.errors", "{answer}"),
      count("dns.server.unknown_names", "{answer}"),
    ],
    labels: ([a = 0n, b = 0n]) => ({ "server.address": address(a, b) || OTHER }),
    most: 64,
  },
  oom: { values: [count("process.oom_kills", "{process}")], labels: byName, most: 32 },
  fserror: { values: [count("system.filesystem.errors", "{error}")], labels: byDevice, most: 16 },
  writeerror: {
    values: [count("system.filesystem.write_errors", "{error}")],
    labels: byDevice,
    most: 16,
  },
  thermal: {
    values: [count("hw.temperature.trips", "{trip}")],
    labels: ([a = 0n, b = 0n, trip = 0n]) => ({
      "hw.name": text(a, b) || OTHER,
      trip: String(trip & 0xffffn),
    }),
    most: 32,
  },
  block: {
    values: [undefined, undefined, count("system.disk.errors", "{error}")],
    labels: byDevice,
    most: 8,
  },
};

/** The rows of one probe's slots: what each value grew by in the interval, zeros left out. Remembers the totals. */
export class SlotRows {
  readonly #kind: SlotKind | undefined;
  #before = new Map<string, number>();
  #totals = new BigUint64Array();
  #worn = false;

  constructor(probe: ProbeName) {
    this.#kind = KINDS[probe];
  }

  /** In the latest interval some found no place, while half of the places were held by what didn't happen again. */
  get worn(): boolean {
    return this.#worn;
  }

  /** Adds the rows of what was counted since the last call. */
  add(into: FrameBuilder, { slots }: Counters, timeUs: number): void {
    const kind = this.#kind;
    if (kind === undefined) return;
    this.#look(slots);
    const totals = new Map<string, { readonly value: SlotValue; total: number }>();
    for (let at = 0; at < slots.length; at += SLOT_WORDS) {
      if (slots[at] === 0n && at + SLOT_WORDS < slots.length) continue;
      const labels = kind.labels([...slots.subarray(at + 1, at + 4)]);
      for (const [place, value] of kind.values.entries()) {
        const total = Number(slots[at + 4 + place] ?? 0n);
        if (value === undefined || total === 0) continue;
        const metric = metricName(value.metric, { ...labels, ...value.labels });
        const known = totals.get(metric);
        // Two labels may look the same: a name's bytes behind its end differ.
        if (known === undefined) totals.set(metric, { value, total });
        else known.total += total;
      }
    }
    const grown: { metric: string; value: SlotValue; by: number }[] = [];
    for (const [metric, { value, total }] of totals) {
      const by = total - (this.#before.get(metric) ?? 0);
      if (by > 0 && nameProblem(metric) === undefined) grown.push({ metric, value, by });
    }
    grown.sort((a, b) => b.by / b.value.scale - a.by / a.value.scale);
    const sent = grown.slice(0, kind.most);
    // What is left out now goes on growing from where it was last sent: nothing is lost, it comes later.
    const left = new Set(grown.slice(kind.most).map(({ metric }) => metric));
    this.#before = new Map(
      [...totals].map(([metric, { total }]) => [
        metric,
        left.has(metric) ? (this.#before.get(metric) ?? 0) : total,
      ]),
    );
    const device = into.device("_gateway");
    for (const { metric, value, by } of sent) {
      const number = value.scale > 1;
      const shown = number ? Math.round((by / value.scale) * 1e6) / 1e6 : by;
      into.add(
        device,
        into.metric(metric, value.unit),
        timeUs,
        number ? Kind.number : Kind.integer,
        Status.good,
        shown,
      );
    }
  }

  #look(slots: BigUint64Array): void {
    const places = slots.length / SLOT_WORDS;
    if (this.#totals.length !== places) this.#totals = new BigUint64Array(places);
    let [held, quiet, crowded] = [0, 0, false];
    for (let place = 0; place < places; place++) {
      const values = slots.subarray(place * SLOT_WORDS + 4, (place + 1) * SLOT_WORDS);
      const total = values.reduce((sum, value) => sum + value, 0n);
      const grew = total !== this.#totals[place];
      this.#totals[place] = total;
      if (place === places - 1) crowded = grew;
      else if (slots[place * SLOT_WORDS] !== 0n) {
        held++;
        if (!grew) quiet++;
      }
    }
    this.#worn = crowded && quiet * 2 >= held;
  }
}
