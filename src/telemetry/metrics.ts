/** The table of Weir's own metrics, and their page in Prometheus' text format (0.0.4). docs/metrics.md is made from the table. */
import type { Histogram } from "../core/histogram.ts";
import type { LedgerLine } from "../core/ledger.ts";

/** What one metric is. */
export interface Metric {
  readonly type: "counter" | "gauge" | "histogram";
  readonly help: string;
  readonly labels: readonly string[];
}

/** The ledger's stages, each in its unit, with what its lines are named by. */
const STAGES = [
  { stage: "kernel", unit: "events", label: "probe", what: "kernel events" },
  { stage: "source", unit: "messages", label: "source", what: "device messages at a source" },
  { stage: "source", unit: "samples", label: "source", what: "samples of this gateway at a source" },
  { stage: "decode", unit: "messages", label: "source", what: "messages at the decoders" },
  { stage: "plugin", unit: "samples", label: "plugin", what: "samples bound to a plugin" },
  { stage: "commit", unit: "samples", label: "stream", what: "samples at the commit" },
  { stage: "effects", unit: "messages", label: "effect", what: "messages that plugins publish" },
  { stage: "outbox", unit: "samples", label: "uplink", what: "samples in the outbox" },
  { stage: "forward", unit: "batches", label: "uplink", what: "batches on their way to an uplink" },
] as const;

const OUTCOMES = {
  in: "that came in",
  out: "that went on",
  lost: "that could not be held",
  dropped: "that a policy dropped",
  rejected: "that were not valid, or refused",
} as const;
type Outcome = keyof typeof OUTCOMES;
const outcomes = Object.keys(OUTCOMES).filter((one): one is Outcome => Object.hasOwn(OUTCOMES, one));

const stageLabels = ({ stage, label }: (typeof STAGES)[number]): readonly string[] =>
  stage === "outbox" ? ["uplink", "stream"] : [label];

const fixed: Readonly<Record<string, Metric>> = {
  weir_build_info: {
    type: "gauge",
    help: "1, with the version in force",
    labels: ["version", "node", "arch"],
  },
  weir_start_time_seconds: {
    type: "gauge",
    help: "when the agent started, since the Unix epoch",
    labels: [],
  },
  weir_part_up: { type: "gauge", help: "1 when a part of the agent runs", labels: ["part"] },
  weir_ready: { type: "gauge", help: "1 when /readyz says so", labels: [] },
  weir_config_last_reload_success: {
    type: "gauge",
    help: "1 when the latest configuration was taken",
    labels: [],
  },
  weir_config_reloads_total: {
    type: "counter",
    help: "configurations looked at while running",
    labels: ["result"],
  },
  weir_ledger_notes_total: {
    type: "counter",
    help: "counts beside a stage's identity, such as samples made of messages",
    labels: ["stage", "name", "what"],
  },
  weir_device_ack_seconds: {
    type: "histogram",
    help: "from a device message's arrival to its settlement (PUBACK), every 16th of a chunk measured",
    labels: [],
  },
  weir_chain_seconds: { type: "histogram", help: "a chunk's way through the plugins", labels: [] },
  weir_hold_seconds: {
    type: "histogram",
    help: "how long inputs waited for something between two chunks, as a plugin's replacement",
    labels: [],
  },
  weir_commit_seconds: {
    type: "histogram",
    help: "from a chunk's hand-over to the outbox to its commit",
    labels: [],
  },
  weir_publish_seconds: {
    type: "histogram",
    help: "from a batch's publication to the uplink's acknowledgement",
    labels: ["uplink"],
  },
  weir_outbox_file_bytes: { type: "gauge", help: "size of the database file", labels: [] },
  weir_outbox_used_bytes: { type: "gauge", help: "bytes of it that hold something", labels: [] },
  weir_outbox_wal_bytes: {
    type: "gauge",
    help: "size of the WAL beside it; 16 MiB are usual, what is far more can't be emptied",
    labels: [],
  },
  weir_outbox_limit_bytes: { type: "gauge", help: "outbox.maxBytes", labels: [] },
  weir_outbox_full: { type: "gauge", help: "1 while nothing is taken in under overflow: pause", labels: [] },
  weir_outbox_writable: {
    type: "gauge",
    help: "0 while the database can't be written to, and nothing is acknowledged",
    labels: [],
  },
  weir_outbox_oldest_age_seconds: {
    type: "gauge",
    help: "age of the oldest sample that waits",
    labels: ["uplink", "stream"],
  },
  weir_devices: { type: "gauge", help: "devices whose latest values are kept", labels: [] },
  weir_devices_unkept_samples_total: {
    type: "counter",
    help: "samples whose value found no room in `last`: they are sent all the same",
    labels: [],
  },
  weir_outbox_restarts_total: { type: "counter", help: "restarts of the outbox's worker thread", labels: [] },
  weir_plugin_busy_seconds_total: {
    type: "counter",
    help: "time that a plugin had a call to answer",
    labels: ["plugin"],
  },
  weir_plugin_state_bytes: { type: "gauge", help: "state that a plugin keeps", labels: ["plugin"] },
  weir_plugin_memory_bytes: {
    type: "gauge",
    help: "what a plugin holds, as of its latest call: its WebAssembly memories, the JavaScript heaps of its threads",
    labels: ["plugin", "of"],
  },
  weir_plugin_failures_total: {
    type: "counter",
    help: "traps, missed deadlines and err answers",
    labels: ["plugin"],
  },
  weir_plugin_restarts_total: {
    type: "counter",
    help: "instances started after the first",
    labels: ["plugin"],
  },
  weir_plugin_up: { type: "gauge", help: "1 when a plugin is on", labels: ["plugin"] },
  weir_probe_up: { type: "gauge", help: "1 when a kernel probe is on", labels: ["probe"] },
  weir_probe_memory_bytes: {
    type: "gauge",
    help: "kernel memory of a probe's maps that is mapped here",
    labels: ["probe"],
  },
  weir_probe_run_seconds: {
    type: "gauge",
    help: "time of one run of a probe in the kernel, as last counted: a second in ten minutes",
    labels: ["probe"],
  },
  weir_probe_cpu_ratio: {
    type: "gauge",
    help: "part of one processor that a probe took in that second",
    labels: ["probe"],
  },
  weir_process_pss_bytes: { type: "gauge", help: "proportional set size", labels: ["process"] },
  weir_process_cpu_seconds_total: { type: "counter", help: "user and system time", labels: ["process"] },
  weir_process_open_fds: { type: "gauge", help: "open descriptors of the agent", labels: [] },
  weir_loop_lag_seconds: {
    type: "gauge",
    help: "the main loop's largest delay in the latest 10 s",
    labels: [],
  },
  weir_loop_busy_ratio: {
    type: "gauge",
    help: "part of the time that a thread's loop was busy: main in the latest 10 s, outbox since its start",
    labels: ["thread"],
  },
  weir_gc_pause_seconds: {
    type: "histogram",
    help: "pauses of the main thread's garbage collector",
    labels: ["kind"],
  },
  weir_heap_used_bytes: { type: "gauge", help: "JavaScript heap of the main thread in use", labels: [] },
  weir_log_suppressed_total: {
    type: "counter",
    help: "log lines left out because their like came too often",
    labels: [],
  },
};

/** Every metric, by name, in the order of the page. */
export const METRICS: ReadonlyMap<string, Metric> = new Map([
  ...STAGES.flatMap((entry) => [
    ...outcomes.map((outcome): [string, Metric] => [
      `weir_${entry.stage}_${outcome}_${entry.unit}_total`,
      { type: "counter", help: `${entry.what} ${OUTCOMES[outcome]}`, labels: stageLabels(entry) },
    ]),
    [
      `weir_${entry.stage}_held_${entry.unit}`,
      { type: "gauge", help: `${entry.what} that are held now`, labels: stageLabels(entry) },
    ] satisfies [string, Metric],
  ]),
  ...Object.entries(fixed),
]);

/** Label sets of one metric; what comes after them is added up under `overflow`. */
const MOST_SERIES = 200;
const OVERFLOW = "overflow";

interface Series {
  readonly labels: readonly string[];
  value: number;
  histogram: Histogram | undefined;
}

/** One reading of every metric. */
export class MetricsPage {
  readonly #families = new Map<string, Map<string, Series>>();

  /** Adds a value; label values in the order of the table. Unknown names throw: the table is the documentation. */
  add(name: string, labels: readonly string[], value: number | Histogram): void {
    const metric = METRICS.get(name);
    if (metric === undefined || metric.labels.length !== labels.length)
      throw new Error(`${name}: not in the table with ${labels.length} labels`);
    const family = this.#families.get(name) ?? new Map<string, Series>();
    this.#families.set(name, family);
    const full = family.size >= MOST_SERIES;
    const own = labels.join("\0");
    const names = full && !family.has(own) ? labels.map(() => OVERFLOW) : labels;
    const key = names.join("\0");
    const series: Series = family.get(key) ?? { labels: names, value: 0, histogram: undefined };
    family.set(key, series);
    if (typeof value === "number") series.value += value;
    else if (series.histogram === undefined) series.histogram = value;
    else series.histogram = series.histogram.plus(value);
  }

  /** Adds a line of the ledger. */
  addLine({ stage, name, unit, also, held, ...line }: LedgerLine): void {
    for (const [what, count] of Object.entries(also))
      this.add("weir_ledger_notes_total", [stage, name, what], count);
    const entry = STAGES.find((one) => one.stage === stage && one.unit === unit);
    if (entry === undefined) {
      // A stage that this table does not know yet is seen all the same.
      for (const outcome of outcomes)
        this.add("weir_ledger_notes_total", [stage, name, outcome], line[outcome]);
      return;
    }
    const labels = stage === "outbox" ? name.split("/", 2) : [name];
    for (const outcome of outcomes) this.add(`weir_${stage}_${outcome}_${unit}_total`, labels, line[outcome]);
    this.add(`weir_${stage}_held_${unit}`, labels, held);
  }

  /** The page. */
  text(): string {
    const lines: string[] = [];
    for (const [name, { type, help, labels }] of METRICS) {
      const family = this.#families.get(name);
      if (family === undefined) continue;
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
      for (const series of family.values()) {
        const pairs = labels.map((label, i) => `${label}="${escaped(series.labels[i] ?? "")}"`);
        if (series.histogram === undefined) lines.push(`${name}${braces(pairs)} ${series.value}`);
        else lines.push(...histogramLines(name, pairs, series.histogram));
      }
    }
    return `${lines.join("\n")}\n`;
  }
}

function histogramLines(
  name: string,
  pairs: readonly string[],
  { bounds, counts, sum }: Histogram,
): string[] {
  let seen = 0;
  const lines = bounds.map((bound, i) => {
    seen += counts[i] ?? 0;
    return `${name}_bucket${braces([...pairs, `le="${bound}"`])} ${seen}`;
  });
  seen += counts[bounds.length] ?? 0;
  return [
    ...lines,
    `${name}_bucket${braces([...pairs, 'le="+Inf"'])} ${seen}`,
    `${name}_sum${braces(pairs)} ${sum}`,
    `${name}_count${braces(pairs)} ${seen}`,
  ];
}

const braces = (pairs: readonly string[]): string => (pairs.length === 0 ? "" : `{${pairs.join(",")}}`);
const escaped = (value: string): string =>
  value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
