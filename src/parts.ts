/** The agent's parts in the words of each other, of the command line and of `weir check`. */

import { createHash } from "node:crypto";
import type { PartStatus, PluginStatus, ProbeStatus, RemovedPlugin } from "./api/types.ts";
import { brokerRemedy } from "./broker-remedy.ts";
import { hardwareId } from "./config/gateway.ts";
import type { Config } from "./config/schema.ts";
import type { LedgerLine } from "./core/ledger.ts";
import type { Gap, OutboxCount, Outgoing } from "./core/ports.ts";
import { NEIGHBOUR } from "./neighbour-name.ts";
import type { DataPaths } from "./outbox/data-folder.ts";
import type { OutboxPlan } from "./outbox/plan.ts";
import type { PluginInfo } from "./plugins/account.ts";
import type { KeptPlugin } from "./plugins/kept.ts";
import type { RunningUplink } from "./running.ts";
import type { MqttSource } from "./sources/mqtt-source.ts";
import type { UplinkOptions } from "./uplink/options.ts";
import { fillTopic } from "./uplink/topics.ts";

/** What each probe measures. */
export const PROBE_TEXTS = {
  sched: "how long threads wait for a CPU; where they spend their time: on a CPU, preempted, blocked, asleep",
  softirq: "time in software interrupts, by vector",
  block: "latency and size of disk requests",
  tcp: "TCP connect latency and round-trip time",
  tcploss: "TCP segments sent again, and resets",
  drops: "packets dropped, by reason and interface",
  exec: "processes that start and end, with exit codes",
  coldstart: "from a program's start to listening, and to its first connection",
  oom: "processes killed for want of memory",
  fserror: "errors in ext4 file systems",
  writeerror: "writes that failed, of any file system",
  thermal: "thermal zones that crossed a trip point",
  sockcalls: "how long system calls on sockets take, by process",
  opens: "files that are opened, and by whom",
  signals: "signals, by who gets them",
  dns: "how long answers of name servers take",
  connections: "the TCP connections there are, by state, peer and port",
  counters: "context switches, migrations between CPUs",
  hardware: "instructions, cycles, cache references and misses",
} as const;

/** A plugin in the words of the command line. */
export function pluginStatus({ binding, limits: _limits, order: _order, ...info }: PluginInfo): PluginStatus {
  const metrics = binding.metrics.join(",");
  const bind = `${binding.sources.join(",")}:${binding.devices.join(",")}${metrics === "*" ? "" : `:${metrics}`}`;
  return { ...info, version: info.version ?? "", hash: info.hash ?? "", bind };
}

/** What is kept of a plugin, for people. */
export const removedPlugin = ({ plugin, entries, bytes, ...versions }: KeptPlugin): RemovedPlugin => ({
  name: plugin,
  state: "removed",
  stateEntries: entries,
  stateBytes: bytes,
  ...versions,
});

/** What is missing of the probes, one part for each reason. */
export function missingProbes(probes: readonly ProbeStatus[]): PartStatus[] {
  const groups = new Map<string, ProbeStatus[]>();
  for (const probe of probes) {
    if (probe.state !== "unavailable" || probe.onDemand) continue;
    const key = `${probe.reason}\n${probe.remedy}`;
    groups.set(key, [...(groups.get(key) ?? []), probe]);
  }
  return [...groups.values()].map((group) => ({
    name: `kernel probe${group.length > 1 ? "s" : ""} ${group.map(({ name }) => name).join(", ")}`,
    state: "unavailable",
    reason: group[0]?.reason,
    remedy: group[0]?.remedy,
  }));
}

/** What is left of the capabilities that `sources.kernel.lockDown` gives up, as a part of the agent; nothing when they are gone. */
export function lockDownStatus(lock: { readonly problem: string | undefined } | undefined): PartStatus[] {
  if (lock?.problem === undefined) return [];
  return [
    {
      name: "lockDown",
      state: "failed",
      reason: lock.problem,
      remedy:
        "run Weir through its own program (bin/weir), as a service with CAP_BPF and CAP_PERFMON instead of root",
    },
  ];
}

/** An external broker, as a part of the agent. */
export function sourceStatus({ name, state, reason }: MqttSource): PartStatus {
  const remedy =
    reason === undefined
      ? undefined
      : state === "stopped"
        ? "give each client a clientId of its own, then restart"
        : name === `mqtt/${NEIGHBOUR}`
          ? `${brokerRemedy(reason)}; or restart Weir: where that broker is gone, its own takes the port`
          : `${brokerRemedy(reason)}; the broker keeps what is not acknowledged`;
  return {
    name: `source ${name}`,
    state: state === "on" && reason === undefined ? "on" : "failed",
    reason: state === "connecting" ? (reason ?? "connecting") : reason,
    remedy,
  };
}

/** An uplink, as a part of the agent. */
export function uplinkStatus({ uplink, forward }: RunningUplink): PartStatus {
  const failed = (reason: string, remedy: string): PartStatus => ({
    name: `uplink ${uplink.name}`,
    state: "failed",
    reason,
    remedy,
  });
  if (!uplink.connected) {
    const { lastError } = uplink;
    // At the start nothing is wrong yet.
    if (lastError === undefined) return failed("connecting", "batches wait in the outbox");
    return failed(lastError, `${brokerRemedy(lastError)}; batches wait in the outbox`);
  }
  if (forward.exhausted)
    return failed(
      "the month's bytes are used up, so that only alarms are sent",
      "raise bytesPerMonth, or wait for the next month; batches wait in the outbox",
    );
  if (forward.trouble !== undefined)
    return failed(forward.trouble, "it is tried again with one batch at a time; batches wait in the outbox");
  return { name: `uplink ${uplink.name}`, state: "on", reason: undefined, remedy: undefined };
}

/** What the outbox is told of a configuration. An uplink whose broker does not run keeps its place: what it is to get waits. */
export function outboxPlan(paths: DataPaths, { gateway, outbox, uplinks, broker }: Config): OutboxPlan {
  const wanted = Object.entries(uplinks).filter(([, { url }]) => url !== "embedded" || broker.enabled);
  return {
    path: paths.database,
    gateway: gateway.name,
    labels: gateway.labels,
    sync: outbox.sync,
    maxBytes: outbox.maxBytes,
    machine: createHash("sha256").update(hardwareId()).digest("hex").slice(0, 16),
    uplinks: wanted.map(([name, options]) => {
      const { streams, batch, topics, last, url, overflow, ttl, replay } = options;
      const { encoding, compression, filter, qos, traceparent, messagesPerSecond } = options;
      const keepsLast = last ?? url === "embedded";
      return {
        name,
        streams,
        batch,
        format: { encoding, compression },
        filter,
        qos,
        traceparent,
        ...(messagesPerSecond === undefined
          ? {}
          : { retainedAtOnce: Math.max(2, Math.floor(messagesPerSecond / 2)) }),
        overflow,
        ttlMs: ttl,
        replay: { share: Number.parseInt(replay.share, 10) / 100, afterMs: replay.after },
        topics: {
          batch: topics.batch,
          last: keepsLast ? topics.last : undefined,
          meta: keepsLast ? topics.meta : undefined,
          alarm: keepsLast ? topics.alarm : undefined,
        },
      };
    }),
  };
}

/** `gap {epoch, stream, from, to, reason}`; both ends belong to it (docs/specs/json.md). */
export function gapMessage({ topics }: UplinkOptions, gateway: string, gap: Gap): Outgoing {
  const { epoch, stream, from, to, reason } = gap;
  return {
    topic: fillTopic(topics.gap, { gateway }),
    payload: Buffer.from(JSON.stringify({ v: 1, gateway, epoch, stream, from, to, reason })),
    qos: 1,
    retain: false,
    contentType: "application/json",
    userProperties: undefined,
  };
}

/** The outbox's account as lines of the ledger. */
export const outboxLine = ({ uplink, stream, committed, acked, ...rest }: OutboxCount): LedgerLine => ({
  stage: "outbox",
  name: `${uplink}/${stream}`,
  unit: "samples",
  in: committed,
  out: acked,
  lost: rest.lost,
  dropped: rest.dropped,
  rejected: rest.rejected,
  held: rest.held,
  also: {},
});
