/** `weir plugin …`: what is done to one plugin. */
import { existsSync } from "node:fs";
import type { PluginAction, PluginDetail } from "../api/types.ts";
import { WeirError } from "../core/errors.ts";
import { formatSize } from "../core/units.ts";
import { purgeKept } from "../kept-tools.ts";
import { inspectFile, runCases } from "../plugin-tools.ts";
import type { Invocation } from "./commands.ts";
import { agentOf, chosenConfigOf } from "./context.ts";
import { keptText } from "./listings.ts";
import { dim, green, line, printable, printJson, red } from "./output.ts";

function nameOf({ positionals }: Invocation): string {
  const [name] = positionals;
  if (name === undefined) throw new WeirError("cli.usage", "which plugin? `weir plugin ls` lists them");
  return name;
}

const act =
  (action: PluginAction) =>
  async (invocation: Invocation): Promise<number> => {
    const { name, state, version, reason } = await agentOf(invocation).pluginAction(
      nameOf(invocation),
      action,
    );
    line(`${name}: ${state}, version ${version}${reason === undefined ? "" : ` (${printable(reason)})`}`);
    return 0;
  };

/** `weir plugin enable <name>` */
export const enable: (invocation: Invocation) => Promise<number> = act("enable");
/** `weir plugin disable <name>` */
export const disable: (invocation: Invocation) => Promise<number> = act("disable");
/** `weir plugin rollback <name>` */
export const rollback: (invocation: Invocation) => Promise<number> = act("rollback");

/** `weir plugin purge <name>`: by the agent, or, where none runs, in its data folder. */
export async function purge(invocation: Invocation): Promise<number> {
  const name = nameOf(invocation);
  const purged = await agentOf(invocation)
    .purgePlugin(name)
    .catch(async (thrown: unknown) => {
      if (!(thrown instanceof WeirError) || thrown.code !== "cli.agent-unreachable") throw thrown;
      return await purgeKept(chosenConfigOf(invocation).loaded.config, name);
    });
  if (invocation.values["json"] === true) printJson(purged);
  else line(`${name}: ${keptText(purged)} removed`);
  return 0;
}

/** `weir plugin logs <name>` */
export async function logs(invocation: Invocation): Promise<number> {
  const { logs: entries } = await agentOf(invocation).plugin(nameOf(invocation));
  if (invocation.values["json"] === true) {
    printJson(entries);
    return 0;
  }
  if (entries.length === 0) line(dim("nothing was logged"));
  for (const { ts, level, message } of entries) {
    line(`${dim(new Date(ts).toISOString().slice(11, 23))} ${level.padEnd(5)} ${printable(message)}`);
  }
  return 0;
}

/** `weir plugin inspect <name|file.wasm|./folder>`: a running plugin, or what is to be dropped (exit code 1 when refused). */
export async function inspect(invocation: Invocation): Promise<number> {
  const name = nameOf(invocation);
  const json = invocation.values["json"] === true;
  if (name.endsWith(".wasm") || name.includes("/")) {
    if (!existsSync(name)) throw new WeirError("cli.usage", `${name}: no such file`);
    const verdict = await inspectFile(name);
    if (json) printJson(verdict);
    else {
      const mark = verdict.verdict === "good" ? green("good") : red("refused");
      const { bytes, hash } = verdict;
      const what = bytes === undefined ? "" : ` ${dim(`${formatSize(bytes)}, sha256 ${hash}`)}`;
      line(`${mark} ${printable(verdict.file)}${what}`);
      if (verdict.reason !== undefined) line(`  ${printable(verdict.reason)}`);
      for (const one of verdict.exports) line(`  exports ${printable(one)}`);
    }
    return verdict.verdict === "good" ? 0 : 1;
  }
  const detail = await agentOf(invocation).plugin(name);
  if (json) printJson(detail);
  else show(detail);
  return 0;
}

function show(detail: PluginDetail): void {
  const row = (title: string, text: string): void => line(`${title.padEnd(12)}${printable(text)}`);
  row("name", detail.name);
  row("version", `${detail.version}${detail.pinned ? " (rolled back)" : ""}`);
  row("component", `sha256 ${detail.hash}`);
  row("state", detail.state);
  if (detail.reason !== undefined) row("reason", detail.reason);
  row("bound to", detail.bind);
  row("order", String(detail.order));
  row("lanes", String(detail.lanes));
  row("exports", detail.exports.join(", "));
  row("asks for", detail.asks.join(", ") || "nothing");
  row("is granted", detail.grants.join(", ") || "nothing");
  row("failures", `${detail.failures}, restarted ${detail.restarts} times`);
  row("kept", detail.versions.map((id) => id.slice(0, 12)).join(", "));
  line("limits");
  for (const [name, value] of Object.entries(detail.limits ?? {})) line(`  ${name.padEnd(18)}${value}`);
  line("layers");
  for (const [name, state] of Object.entries(detail.layers ?? {}))
    line(`  ${name.padEnd(18)}${printable(state)}`);
}

/** `weir plugin test <folder>`: golden cases, without an agent. Exit code 1 when one fails. */
export async function test(invocation: Invocation): Promise<number> {
  const [dir] = invocation.positionals;
  if (dir === undefined) throw new WeirError("cli.usage", "which plugin's folder?");
  const results = await runCases(dir);
  const failed = results.filter(({ passed }) => !passed).length;
  if (invocation.values["json"] === true) printJson(results);
  else {
    for (const { name, passed, differences } of results) {
      line(`${passed ? green("ok") : red("failed")} ${name}`);
      for (const text of differences) line(`  ${(text.startsWith("+") ? green : red)(printable(text))}`);
    }
    line(`${results.length - failed} passed, ${failed} failed`);
  }
  return failed === 0 ? 0 : 1;
}
