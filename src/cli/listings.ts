import { imbalance, type LedgerLine } from "../core/ledger.ts";
import { formatSize } from "../core/units.ts";
import type { Invocation } from "./commands.ts";
import { agentOf } from "./context.ts";
import { dim, line, printJson, red, table } from "./output.ts";

/** `weir plugin ls` */
export async function pluginLs(invocation: Invocation): Promise<number> {
  const plugins = await agentOf(invocation).plugins();
  if (invocation.values["json"] === true) {
    printJson(plugins);
    return 0;
  }
  if (plugins.length === 0)
    line("no plugins: drop a .wasm file or a plugin's folder into the plugins folder");
  else {
    table(
      ["NAME", "VERSION", "STATE", "BIND", "EXPORTS", "FAILURES", "HASH", "REASON"],
      plugins.map((plugin) => [
        plugin.name,
        plugin.version,
        plugin.state,
        plugin.bind,
        plugin.exports.join(","),
        String(plugin.failures),
        plugin.hash.slice(0, 12),
        plugin.reason ?? "",
      ]),
      new Set(["FAILURES"]),
    );
  }
  return 0;
}

/** `weir probe ls` */
export async function probeLs(invocation: Invocation): Promise<number> {
  const probes = await agentOf(invocation).probes();
  if (invocation.values["json"] === true) {
    printJson(probes);
    return 0;
  }
  table(
    ["PROBE", "STATE", "MEMORY", "MEASURES", "REASON"],
    probes.map(({ name, state, about, reason, memoryBytes }) => [
      name,
      state,
      memoryBytes === undefined ? "" : formatSize(memoryBytes),
      about,
      reason ?? "",
    ]),
    new Set(["MEMORY"]),
  );
  for (const { name, remedy } of probes) if (remedy !== undefined) line(dim(`${name}: ${remedy}`));
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
