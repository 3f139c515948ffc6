import type { ProbeStatus, RemovedPlugin } from "../api/types.ts";
import { WeirError } from "../core/errors.ts";
import { imbalance, type LedgerLine } from "../core/ledger.ts";
import { formatSize, parseDuration } from "../core/units.ts";
import type { Invocation } from "./commands.ts";
import { agentOf } from "./context.ts";
import { option } from "./option.ts";
import { dim, hang, line, printJson, red, table } from "./output.ts";

/** `weir plugin ls` */
export async function pluginLs(invocation: Invocation): Promise<number> {
  const agent = agentOf(invocation);
  const [plugins, removed] = await Promise.all([agent.plugins(), agent.removedPlugins()]);
  if (invocation.values["json"] === true) {
    printJson([...plugins, ...removed]);
    return 0;
  }
  if (plugins.length === 0)
    line("no plugins: drop a .wasm file or a plugin's folder into the plugins folder");
  else {
    table(
      ["NAME", "VERSION", "STATE", "BIND", "EXPORTS", "MEMORY", "FAILURES", "HASH", "REASON"],
      plugins.map((plugin) => [
        plugin.name,
        plugin.version,
        plugin.state,
        plugin.bind,
        plugin.exports.join(","),
        plugin.state === "on" ? formatSize(plugin.wasmBytes + plugin.heapBytes) : "",
        String(plugin.failures),
        plugin.hash.slice(0, 12),
        plugin.reason ?? "",
      ]),
      new Set(["MEMORY", "FAILURES"]),
    );
  }
  for (const plugin of removed) line(dim(`${plugin.name} is removed, and ${keptText(plugin)} kept`));
  return 0;
}

/** Such as `12 KiB of state (30 entries) and 2 versions (3.4 MiB) are`. */
export function keptText({ stateBytes, stateEntries, versions, versionBytes }: RemovedPlugin): string {
  const state = `${formatSize(stateBytes)} of state (${stateEntries} ${stateEntries === 1 ? "entry" : "entries"})`;
  return `${state} and ${versions.length} ${versions.length === 1 ? "version" : "versions"} (${formatSize(versionBytes)}) are`;
}

/** `weir probe ls` */
export async function probeLs(invocation: Invocation): Promise<number> {
  const probes = await agentOf(invocation).probes();
  if (invocation.values["json"] === true) {
    printJson(probes);
    return 0;
  }
  if (probes.length === 0) {
    line("kernel probes are off: set sources.kernel.enabled to true");
    return 0;
  }
  table(
    ["PROBE", "STATE", "FALLBACK", "MEMORY", "COST", "MEASURES", "REASON"],
    probes.map(({ name, state, fallback, about, reason, memoryBytes, cost, onDemand, untilMs }) => [
      name,
      untilMs === undefined ? (onDemand && state === "off" ? "on demand" : state) : leftText(untilMs),
      fallback ?? "",
      memoryBytes === undefined ? "" : formatSize(memoryBytes),
      cost === undefined ? "" : costText(cost),
      about,
      reason ?? "",
    ]),
    new Set(["MEMORY"]),
  );
  for (const [remedy, group] of Map.groupBy(probes, (probe) => probe.remedy)) {
    if (remedy === undefined) continue;
    for (const part of hang(`${group.map(({ name }) => name).join(", ")}: ${remedy}`, 0)) line(dim(part));
  }
  return 0;
}

/** Such as `126 ns x 4100/s`: in the kernel, for each event and in a second. */
const costText = ({ nsPerRun, runsPerSecond }: NonNullable<ProbeStatus["cost"]>): string =>
  `${nsPerRun.toFixed(0)} ns x ${runsPerSecond.toFixed(runsPerSecond < 10 ? 1 : 0)}/s`;

const leftText = (untilMs: number): string =>
  `on, ${Math.max(0, Math.ceil((untilMs - Date.now()) / 1000))} s left`;

/** `weir probe on`: for a time that has to be said. */
export async function probeOn(invocation: Invocation): Promise<number> {
  const [name] = invocation.positionals;
  if (name === undefined)
    throw new WeirError("cli.usage", "which probe? `weir probe ls` lists those on demand");
  const wanted = option(invocation, "for");
  const forMs = wanted === undefined ? undefined : parseDuration(wanted);
  if (forMs === undefined) throw new WeirError("cli.usage", "say for how long: --for 60s (at most 1h)");
  const { untilMs, about, fallback, reason } = await agentOf(invocation).switchProbe(name, forMs);
  line(`${name} (${about}) is on until ${new Date(untilMs ?? 0).toISOString()}; its rows are in stream host`);
  if (fallback !== undefined) line(`read through ${fallback}: ${reason}`);
  return 0;
}

/** `weir probe off` */
export async function probeOff(invocation: Invocation): Promise<number> {
  const [name] = invocation.positionals;
  if (name === undefined)
    throw new WeirError("cli.usage", "which probe? `weir probe ls` lists those that are on");
  await agentOf(invocation).switchProbe(name, undefined);
  line(`${name} is off`);
  return 0;
}

/** `weir ledger`: exit code 1 when an identity does not hold. */
export async function ledger(invocation: Invocation): Promise<number> {
  const { epoch, lines } = await agentOf(invocation).ledger();
  const wrong = lines.filter((one) => imbalance(one) !== 0);
  if (invocation.values["json"] === true) printJson({ epoch, lines });
  else {
    line(dim(`epoch ${epoch}; in = out + lost + dropped + rejected + held`));
    table(
      ["STAGE", "NAME", "UNIT", "IN", "OUT", "LOST", "DROPPED", "REJECTED", "HELD", "ALSO"],
      lines.map(row),
      new Set(["IN", "OUT", "LOST", "DROPPED", "REJECTED", "HELD"]),
    );
    for (const one of wrong)
      line(red(`${one.stage} ${one.name} does not add up: ${imbalance(one)} unaccounted for`));
  }
  return wrong.length === 0 ? 0 : 1;
}

function row(one: LedgerLine): string[] {
  const numbers = [one.in, one.out, one.lost, one.dropped, one.rejected, one.held].map(String);
  const also = Object.entries(one.also).map(([name, count]) => `${name}=${count}`);
  return [one.stage, one.name, one.unit, ...numbers, also.join(" ")];
}
