import { WeirError } from "../core/errors.ts";
import { formatSize } from "../core/units.ts";
import type { Invocation } from "./commands.ts";
import { agentOf, writeOut } from "./context.ts";
import { option } from "./option.ts";
import { line, note, printJson } from "./output.ts";

/** `weir profile --self`: a CPU profile of the running agent's main thread; with `--heap` what its heap holds. */
export async function profileSelf(invocation: Invocation, forMs: number): Promise<number> {
  const agent = agentOf(invocation);
  if (invocation.values["heap"] === true) {
    printJson(await agent.heap());
    return 0;
  }
  const seconds = forMs / 1000;
  if (seconds < 1 || seconds > 60) throw new WeirError("cli.usage", "--for takes 1s to 60s with --self");
  const named = option(invocation, "out");
  const file = named ?? `weir-${Date.now()}.cpuprofile`;
  note(`watching the agent for ${seconds} s`);
  const text = JSON.stringify(await agent.profile(seconds));
  writeOut(file, text, 0o600, named === undefined);
  line(
    `${file}: ${formatSize(text.length)}; open it in Chrome's developer tools (Performance) or in speedscope`,
  );
  return 0;
}
