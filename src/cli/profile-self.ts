import { writeFileSync } from "node:fs";
import { WeirError } from "../core/errors.ts";
import { formatSize } from "../core/units.ts";
import type { Invocation } from "./commands.ts";
import { agentOf, option } from "./context.ts";
import { dim, line, printJson } from "./output.ts";

/** `weir profile --self`: a CPU profile of the running agent's main thread; with `--heap` what its heap holds. */
export async function profileSelf(invocation: Invocation, forMs: number): Promise<number> {
  const agent = agentOf(invocation);
  if (invocation.values["heap"] === true) {
    printJson(await agent.heap());
    return 0;
  }
  const seconds = forMs / 1000;
  if (seconds < 1 || seconds > 60) throw new WeirError("cli.usage", "--for takes 1s to 60s with --self");
  const file = option(invocation, "out") ?? `weir-${Date.now()}.cpuprofile`;
  process.stderr.write(dim(`watching the agent for ${seconds} s\n`));
  const text = JSON.stringify(await agent.profile(seconds));
  writeFileSync(file, text, { mode: 0o600 });
  line(
    `${file}: ${formatSize(text.length)}; open it in Chrome's developer tools (Performance) or in speedscope`,
  );
  return 0;
}
