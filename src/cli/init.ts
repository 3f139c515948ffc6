import { writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";
import { lookAround } from "../machine.ts";
import type { Invocation } from "./commands.ts";
import { agentOf } from "./context.ts";
import { dim, green, line } from "./output.ts";

/** `weir init [file]`: writes a commented configuration for what is found on this machine. Never overwrites. */
export async function init(invocation: Invocation): Promise<number> {
  const file = resolve(invocation.positionals[0] ?? "weir.yaml");
  // The broker of an agent that was started here without a file is not another one.
  const running = await agentOf(invocation)
    .status()
    .catch(() => undefined);
  const { text, found } = await lookAround(running?.broker);
  try {
    writeFileSync(file, text, { flag: "wx", mode: 0o640 });
  } catch (thrown) {
    const there = errnoOf(thrown) === "EEXIST";
    const why = there ? "is there already; it is left as it is" : `can't be written: ${messageOf(thrown)}`;
    throw new WeirError("cli.usage", `${file} ${why}`);
  }
  line(`${green("wrote")} ${file}`);
  for (const one of found) line(dim(`  ${one}`));
  line(
    running === undefined ? "look at it, then `weir check` and `weir run`" : "look at it, then `weir check`",
  );
  return 0;
}
