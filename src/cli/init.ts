import { writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { errnoOf, WeirError } from "../core/errors.ts";
import { lookAround } from "../machine.ts";
import type { Invocation } from "./commands.ts";
import { dim, green, line } from "./output.ts";

/** `weir init [file]`: writes a commented configuration for what is found on this machine. Never overwrites. */
export async function init({ positionals }: Invocation): Promise<number> {
  const file = resolve(positionals[0] ?? "weir.yaml");
  const { text, found } = await lookAround();
  try {
    writeFileSync(file, text, { flag: "wx", mode: 0o640 });
  } catch (thrown) {
    const why = errnoOf(thrown) === "EEXIST" ? "is there already; it is left as it is" : String(thrown);
    throw new WeirError("cli.usage", `${file} ${why}`);
  }
  line(`${green("wrote")} ${file}`);
  for (const one of found) line(dim(`  ${one}`));
  line("look at it, then `weir check` and `weir run`");
  return 0;
}
