import { examine } from "../doctor.ts";
import type { Invocation } from "./commands.ts";
import { chosenConfigOf } from "./context.ts";
import { dim, green, hanging, printable, printJson, red, yellow } from "./output.ts";

const MARKS = { good: green("ok  "), warn: yellow("warn"), bad: red("bad ") } as const;

/** Characters of the first column. */
const WIDEST_SUBJECT = 24;

/** `weir check`: exit code 1 when something keeps the agent from running. */
export async function check(invocation: Invocation): Promise<number> {
  const findings = await examine(chosenConfigOf(invocation));
  if (invocation.values["json"] === true) printJson(findings);
  else {
    // A subject that lists many probes has a line to itself.
    const widths = findings.map(({ subject }) => subject.length).filter((one) => one <= WIDEST_SUBJECT);
    const width = Math.max(0, ...widths);
    for (const { subject, state, what, remedy } of findings) {
      const said = what.split("\n").map(printable).join("\n");
      const first = `${MARKS[state]} ${subject.padEnd(width)}`;
      if (subject.length <= width) hanging(`${first}  `, said, width + 7);
      else {
        hanging(`${MARKS[state]} `, subject, 5);
        hanging(" ".repeat(width + 7), said);
      }
      if (remedy !== undefined) hanging(`${" ".repeat(width + 7)}${dim("→")} `, remedy, width + 9, dim);
    }
  }
  return findings.some(({ state }) => state === "bad") ? 1 : 0;
}
