/** What `--help` says. */
import type { Command } from "./commands.ts";

/** `weir --help` */
export function mainHelp(commands: readonly Command[]): string {
  const width = Math.max(...commands.map(({ name, usage }) => name.length + usage.length)) + 3;
  const rows = commands.map(({ name, usage, about }) => `  ${`${name} ${usage}`.padEnd(width)}${about}`);
  return [
    "Weir: an agent for edge gateways. It watches this machine's kernel, takes device messages over MQTT, runs your",
    "sandboxed plugins on them, and forwards batched telemetry over MQTT, with an account of what was lost.",
    "",
    "usage: weir <command> [options]",
    "",
    ...rows,
    "",
    "  weir <command> --help   its options",
    "  weir --version",
    "",
  ].join("\n");
}

/** `weir <command> --help` */
export function commandHelp({ name, usage, about, options, help }: Command): string {
  const rows = Object.entries(help).map(([option, text]) => {
    const { short, type } = options[option] ?? { type: "boolean" };
    const left = `${short === undefined ? "    " : `-${short}, `}--${option}${type === "string" ? " <value>" : ""}`;
    return `  ${left.padEnd(28)}${text}`;
  });
  return [
    `usage: weir ${name}${usage === "" ? "" : ` ${usage}`}${rows.length > 0 ? " [options]" : ""}`,
    `  ${about}`,
    "",
    ...rows,
    "",
  ].join("\n");
}
