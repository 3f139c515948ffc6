/** What `weir top` shows, worked out from two looks at the agent. */
import type {
  AgentStatus,
  LatencyCounts,
  LedgerReport,
  OutboxReport,
  PluginStatus,
  ProbeStatus,
  VitalsReport,
} from "../api/types.ts";
import { quantileOf } from "../core/histogram.ts";
import type { LedgerLine } from "../core/ledger.ts";

/** One look. */
export interface Look {
  readonly status: AgentStatus;
  readonly ledger: LedgerReport;
  readonly outbox: OutboxReport;
  readonly plugins: readonly PluginStatus[];
  readonly probes: readonly ProbeStatus[];
  readonly vitals: VitalsReport;
}

/** A stage's line: rates a second since the look before, losses since the start. */
export interface StageRate {
  readonly name: string;
  readonly unit: string;
  readonly inRate: number;
  readonly outRate: number;
  readonly held: number;
  readonly lost: number;
  readonly dropped: number;
  readonly rejected: number;
}

/** Milliseconds below which half, and 99 of 100, lay since the look before; undefined when there was nothing. */
export interface Latency {
  readonly name: string;
  readonly p50: number | undefined;
  readonly p99: number | undefined;
}

/** Everything on the screen. */
export interface Figures {
  readonly gateway: string;
  readonly version: string;
  readonly epoch: string;
  readonly uptimeS: number;
  readonly sources: readonly StageRate[];
  /** lines of stages with no section of their own (kernel, decode, effects …), named `<stage> <name>`: those that something is missing from */
  readonly short: readonly StageRate[];
  /** of all stages, each thing in its own unit */
  readonly losses: Pick<StageRate, "lost" | "dropped" | "rejected">;
  readonly commit: readonly StageRate[];
  readonly outbox: readonly (StageRate & { readonly oldestS: number | undefined })[];
  readonly outboxUsedBytes: number;
  readonly outboxLimitBytes: number;
  readonly latencies: readonly Latency[];
  readonly loopLagMs: number;
  readonly loopBusy: number;
  readonly openFds: number;
  readonly processes: readonly { readonly name: string; readonly pssBytes: number; readonly cpu: number }[];
  readonly plugins: readonly {
    readonly name: string;
    readonly state: string;
    readonly inRate: number;
    readonly busy: number;
    readonly memoryBytes: number;
    readonly failures: number;
    readonly reason: string | undefined;
  }[];
  readonly probesOn: number;
  readonly probesOff: readonly string[];
  /** what is not as it should be, a sentence each */
  readonly troubles: readonly string[];
}

/** Stages whose lines are shown whatever they say. */
const SHOWN: readonly string[] = ["source", "commit", "outbox"];

/** The figures between two looks, `before` the earlier. */
export function figuresOf(before: Look, now: Look): Figures {
  const seconds = Math.max(0.001, now.vitals.at - before.vitals.at);
  const old = new Map(before.ledger.lines.map((line) => [`${line.stage} ${line.name}`, line]));
  const rate = (line: LedgerLine): StageRate => {
    const was = old.get(`${line.stage} ${line.name}`);
    const { name, unit, held, lost, dropped, rejected } = line;
    const inRate = Math.max(0, line.in - (was?.in ?? 0)) / seconds;
    const outRate = Math.max(0, line.out - (was?.out ?? 0)) / seconds;
    return { name, unit, inRate, outRate, held, lost, dropped, rejected };
  };
  const stage = (name: string): StageRate[] =>
    now.ledger.lines.filter((line) => line.stage === name).map(rate);
  const pluginRates = new Map(stage("plugin").map((line) => [line.name, line.inRate]));
  const cpuBefore = new Map(before.vitals.processes.map(({ pid, cpuSeconds }) => [pid, cpuSeconds]));
  const busyBefore = new Map(before.plugins.map(({ name, busyMs }) => [name, busyMs]));
  const clock = Date.now();
  const oldest = new Map(
    now.outbox.oldest.map(({ uplink, stream, createdMs }) => [
      `${uplink}/${stream}`,
      (clock - createdMs) / 1000,
    ]),
  );
  return {
    gateway: now.status.gateway,
    version: now.status.version,
    epoch: now.status.epoch,
    uptimeS: now.status.uptime,
    sources: stage("source"),
    short: now.ledger.lines
      .filter(({ stage, lost, dropped, rejected }) => !SHOWN.includes(stage) && lost + dropped + rejected > 0)
      .map((line) => ({ ...rate(line), name: `${line.stage} ${line.name}` })),
    losses: {
      lost: sum(now.ledger.lines, "lost"),
      dropped: sum(now.ledger.lines, "dropped"),
      rejected: sum(now.ledger.lines, "rejected"),
    },
    commit: stage("commit"),
    outbox: stage("outbox").map((line) => ({ ...line, oldestS: oldest.get(line.name) })),
    outboxUsedBytes: now.outbox.usedBytes,
    outboxLimitBytes: now.outbox.limitBytes,
    latencies: Object.entries(now.vitals.latencies).map(([name, counts]) =>
      latency(name, before.vitals.latencies[name], counts),
    ),
    loopLagMs: now.vitals.loopLag * 1000,
    loopBusy: now.vitals.loopBusy,
    openFds: now.vitals.openFds,
    processes: now.vitals.processes.map(({ name, pid, pssBytes, cpuSeconds }) => ({
      name,
      pssBytes,
      cpu: Math.max(0, cpuSeconds - (cpuBefore.get(pid) ?? cpuSeconds)) / seconds,
    })),
    plugins: now.plugins.map(({ name, state, busyMs, wasmBytes, heapBytes, failures, reason }) => ({
      memoryBytes: wasmBytes + heapBytes,
      name,
      state,
      inRate: pluginRates.get(name) ?? 0,
      busy: Math.max(0, busyMs - (busyBefore.get(name) ?? busyMs)) / 1000 / seconds,
      failures,
      reason,
    })),
    probesOn: now.probes.filter(({ state }) => state === "on").length,
    probesOff: now.probes
      .filter(({ state, onDemand }) => state !== "on" && !onDemand)
      .map(({ name }) => name),
    troubles: [
      ...(now.outbox.full ? ["the outbox is full: nothing is taken in"] : []),
      ...now.status.parts
        .filter(({ name, state }) => state !== "on" && state !== "off" && !name.startsWith("kernel probe"))
        .map(({ name, reason, state }) => `${name}: ${reason ?? state}`),
    ],
  };
}

/** Adds up one figure of lines. */
export const sum = <K extends string>(lines: readonly Readonly<Record<K, number>>[], key: K): number =>
  lines.reduce((total, line) => total + line[key], 0);

function latency(
  name: string,
  before: LatencyCounts | undefined,
  { bounds, counts }: LatencyCounts,
): Latency {
  const fresh = counts.map((count, i) => count - (before?.counts[i] ?? 0));
  const ms = (q: number): number | undefined => {
    const found = quantileOf(bounds, fresh, q);
    return found === undefined ? undefined : found * 1000;
  };
  return { name, p50: ms(0.5), p99: ms(0.99) };
}
