import { examine } from "../doctor.ts";
import type { Invocation } from "./commands.ts";
import { chosenConfigOf } from "./context.ts";
import { dim, green, line, printJson, red, yellow } from "./output.ts";

const MARKS = { good: green("ok  "), warn: yellow("warn"), bad: red("bad ") } as const;

/** `weir check`: exit code 1 when something keeps the agent from running. */
export async function check(invocation: Invocation): Promise<number> {
  const findings = await examine(chosenConfigOf(invocation));
  if (invocation.values["json"] === true) printJson(findings);
  else {
    const width = Math.max(...findings.map(({ subject }) => subject.length));
    for (const { subject, state, what, remedy } of findings) {
      line(`${MARKS[state]} ${subject.padEnd(width)}  ${what}`);
      if (remedy !== undefined) line(`     ${" ".repeat(width)}  ${dim(`→ ${remedy}`)}`);
    }
  }
  return findings.some(({ state }) => state === "bad") ? 1 : 0;
}
