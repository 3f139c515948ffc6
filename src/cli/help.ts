/** What `--help` says, folded to the terminal. */
import { didYouMean } from "../core/did-you-mean.ts";
import type { Command } from "./commands.ts";
import { hang } from "./output.ts";

/** `weir --help` */
export function mainHelp(commands: readonly Command[]): string {
  return [
    ...hang(
      "Weir: an agent for edge gateways. It watches this machine's kernel, takes device messages over MQTT, runs your " +
        "sandboxed plugins on them, and forwards batched telemetry over MQTT, with an account of what was lost.",
      0,
    ),
    "",
    "usage: weir <command> [options]",
    "",
    ...summaries(commands),
    "",
    "  weir <command> --help   its options",
    "  weir --version",
    "",
  ].join("\n");
}

/** The help of the commands that begin with a word, such as `plugin`; undefined when there are none. */
export function groupHelp(commands: readonly Command[], word: string): string | undefined {
  const group = commands.filter(({ name }) => name.startsWith(`${word} `));
  if (group.length === 0) return undefined;
  return [
    `usage: weir ${word} <command> [options]`,
    "",
    ...summaries(group),
    "",
    `  weir ${word} <command> --help   its options`,
    "",
  ].join("\n");
}

/** `weir <command> --help` */
export function commandHelp({ name, usage, about, options, help }: Command): string {
  const rows = Object.entries(help).flatMap(([option, text]) => {
    const { short, type } = options[option] ?? { type: "boolean" };
    const left = `${short === undefined ? "    " : `-${short}, `}--${option}${type === "string" ? " <value>" : ""}`;
    return row(`  ${left.padEnd(28)}`, text);
  });
  return [
    `usage: weir ${name}${usage === "" ? "" : ` ${usage}`}${rows.length > 0 ? " [options]" : ""}`,
    ...row("  ", about),
    "",
    ...rows,
    "",
  ].join("\n");
}

/** What may have been meant by words that name no command, for a message; else an empty text. */
export function suggestion(commands: readonly Command[], args: readonly string[]): string {
  const names = commands.map(({ name }) => name);
  const [first = "", second = ""] = args;
  const within = names.filter((name) => name.startsWith(`${first} `));
  return (
    didYouMean(`${first} ${second}`.trim(), names) ||
    (within.length > 0
      ? `; there are ${within.join(", ")}`
      : didYouMean(first, [...new Set(names.map((name) => name.split(" ")[0] ?? name))]))
  );
}

function summaries(commands: readonly Command[]): string[] {
  const width = Math.max(...commands.map(({ name, usage }) => name.length + usage.length)) + 3;
  return commands.flatMap(({ name, usage, about }) => row(`  ${`${name} ${usage}`.padEnd(width)}`, about));
}

/** One row, its text folded under itself. */
const row = (left: string, text: string): string[] =>
  hang(text, left.length).map((part, i) => `${i === 0 ? left : " ".repeat(left.length)}${part}`);
