import type { Invocation } from "./commands.ts";
import { agentOf } from "./context.ts";
import { line, printJson, yellow } from "./output.ts";

/** `weir reload` */
export async function reload(invocation: Invocation): Promise<number> {
  const report = await agentOf(invocation).reload();
  if (invocation.values["json"] === true) {
    printJson(report);
    return 0;
  }
  const { sections, restarted, atNextStart } = report;
  line(sections.length === 0 ? "the configuration is as before" : `changed: ${sections.join(", ")}`);
  if (restarted.length > 0) line(`restarted: ${restarted.join(", ")}`);
  for (const what of atNextStart) line(yellow(`${what} takes effect at the next start`));
  return 0;
}
