/** The agent's parts in the words of the command line and of `weir check`. */
import type { PartStatus, PluginStatus, ProbeStatus } from "./api/types.ts";
import type { Uplink } from "./core/ports.ts";
import type { PluginInfo } from "./plugins/account.ts";
import type { MqttSource } from "./sources/mqtt-source.ts";

/** What each probe measures. */
export const PROBE_TEXTS = {
  runqlat: "how long tasks that can run wait for a CPU",
  offcpu: "where threads spend their time: on a CPU, preempted, blocked, asleep",
  softirq: "time in software interrupts, by vector",
  block: "latency and size of disk requests",
  tcp: "TCP connect latency and round-trip time",
  tcploss: "TCP segments sent again, and resets",
  drops: "packets dropped, by reason and interface",
  exec: "processes that start and end, with exit codes",
  coldstart: "from a program's start to listening, and to its first connection",
  oom: "processes killed for want of memory",
  fserror: "errors in ext4 file systems",
  thermal: "thermal zones that crossed a trip point",
} as const;

/** A plugin in the words of the command line. */
export function pluginStatus({ binding, limits: _limits, order: _order, ...info }: PluginInfo): PluginStatus {
  const metrics = binding.metrics.join(",");
  const bind = `${binding.sources.join(",")}:${binding.devices.join(",")}${metrics === "*" ? "" : `:${metrics}`}`;
  return { ...info, version: info.version ?? "", hash: info.hash ?? "", bind };
}

/** What is missing of the probes, one part for each reason. */
export function missingProbes(probes: readonly ProbeStatus[]): PartStatus[] {
  const groups = new Map<string, ProbeStatus[]>();
  for (const probe of probes) {
    if (probe.state !== "unavailable") continue;
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

/** An external broker, as a part of the agent. */
export function sourceStatus({ name, state, reason }: MqttSource): PartStatus {
  const remedy =
    reason === undefined
      ? undefined
      : state === "stopped"
        ? "give each client a clientId of its own, then restart"
        : "check the broker's address, permissions and the network; it keeps what is not acknowledged";
  return {
    name: `source ${name}`,
    state: state === "on" && reason === undefined ? "on" : "failed",
    reason: state === "connecting" ? (reason ?? "connecting") : reason,
    remedy,
  };
}

/** An uplink, as a part of the agent. */
export function uplinkStatus(uplink: Uplink): PartStatus {
  const reason = uplink.connected ? undefined : (uplink.lastError ?? "connecting");
  const remedy = uplink.connected
    ? undefined
    : "check the broker's address and the network; batches wait in the outbox";
  return { name: `uplink ${uplink.name}`, state: uplink.connected ? "on" : "failed", reason, remedy };
}
