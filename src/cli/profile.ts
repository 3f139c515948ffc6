/** `weir profile`: what the processors do, as folded stacks and as a flame graph; with --self what the agent does. */
import { existsSync } from "node:fs";
import { WeirError } from "../core/errors.ts";
import { parseDuration } from "../core/units.ts";
import { recordProfile } from "../profile-tools.ts";
import type { Invocation } from "./commands.ts";
import { writeOut } from "./context.ts";
import { flameGraph } from "./flame-graph.ts";
import { option } from "./option.ts";
import { profileSelf } from "./profile-self.ts";

/** `weir profile`. Without a file to write to, the folded stacks go to standard output. Ctrl-C ends the recording early. */
export async function profile(invocation: Invocation): Promise<number> {
  const forMs = parseDuration(option(invocation, "for") ?? "10s");
  if (forMs === undefined || forMs < 100 || forMs > 600_000)
    throw new WeirError("cli.usage", "--for takes a time from 100ms to 10m");
  if (invocation.values["self"] === true) return await profileSelf(invocation, forMs);
  const pid = wholeOption(invocation, "pid", 1, 4_194_304);
  if (pid !== undefined && !existsSync(`/proc/${pid}`))
    throw new WeirError("cli.usage", `--pid ${pid}: no such process`);
  const perSecond = wholeOption(invocation, "frequency", 1, 10_000) ?? 99;
  const [svg, folded] = [option(invocation, "svg"), option(invocation, "folded")];
  const controller = new AbortController();
  process.once("SIGINT", () => controller.abort());
  process.once("SIGTERM", () => controller.abort());
  const { stacks, samples, lost, kernelKnown } = await recordProfile(
    { forMs, pid, perSecond },
    controller.signal,
  );

  const lines = [...stacks].sort(([, a], [, b]) => b - a).map(([stack, count]) => `${stack} ${count}\n`);
  const whose = pid === undefined ? "all processes" : `process ${pid}`;
  if (svg !== undefined) writeOut(svg, flameGraph(stacks, `${whose}: ${samples} samples at ${perSecond} Hz`));
  if (folded !== undefined) writeOut(folded, lines.join(""));
  if (svg === undefined && folded === undefined) process.stdout.write(lines.join(""));
  const hidden = kernelKnown
    ? ""
    : "; the kernel hides its functions' names (kernel.kptr_restrict, CAP_SYSLOG)";
  process.stderr.write(`${samples} samples of ${whose}, ${lost} lost${hidden}\n`);
  return 0;
}

function wholeOption(invocation: Invocation, name: string, least: number, most: number): number | undefined {
  const text = option(invocation, name);
  const value = text === undefined ? undefined : Number(text);
  if (value === undefined || (Number.isInteger(value) && value >= least && value <= most)) return value;
  throw new WeirError("cli.usage", `--${name} takes a whole number from ${least} to ${most}, not ${text}`);
}
