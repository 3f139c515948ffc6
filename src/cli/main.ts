/** The command line: `bin/weir` starts this file. Exit codes: 0 good, 1 failed, 2 wrong usage or configuration. */
import { parseArgs } from "node:util";
import { didYouMean } from "../core/did-you-mean.ts";
import { messageOf, WeirError } from "../core/errors.ts";
import { COMMANDS, type Command, findCommand, type Invocation } from "./commands.ts";
import { commandHelp, groupHelp, mainHelp, suggestion } from "./help.ts";
import { printable } from "./output.ts";
import { version } from "./version.ts";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

function usage(message: string): WeirError {
  return new WeirError("cli.usage", message);
}

function parse(command: Command, args: readonly string[]): Invocation {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: { help: { type: "boolean", short: "h" }, ...command.options },
    });
    if (positionals.length > command.positionals)
      throw usage(`unexpected argument: ${positionals[command.positionals]}`);
    return { values, positionals };
  } catch (thrown) {
    if (thrown instanceof WeirError) throw thrown;
    throw usage(explain(thrown, command));
  }
}

/** Node's words for a wrong option, without its advice on arguments that begin with a dash; and what may have been meant. */
function explain(thrown: unknown, command: Command): string {
  const [first = ""] = messageOf(thrown).split(". ");
  const [, unknown] = /^Unknown option '(?:--?)([^']+)'/.exec(first) ?? [];
  return unknown === undefined
    ? first
    : `${first}${didYouMean(
        `--${unknown}`,
        Object.keys(command.options).map((name) => `--${name}`),
      )}`;
}

async function run(args: readonly string[]): Promise<number> {
  const [first] = args;
  if (first === undefined || first === "--help" || first === "-h" || first === "help") {
    process.stdout.write(mainHelp(COMMANDS));
    return first === undefined ? EXIT_USAGE : 0;
  }
  if (first === "--version" || first === "-V") {
    process.stdout.write(`${version()}\n`);
    return 0;
  }
  const found = findCommand(args);
  if (found === undefined) {
    const group = groupHelp(COMMANDS, first);
    const [, second] = args;
    if (group === undefined || (second !== undefined && second !== "--help" && second !== "-h")) {
      const option = args.findIndex((word) => word.startsWith("-"));
      const words = args.slice(0, option < 1 ? 2 : Math.min(option, 2));
      throw usage(`no such command: ${words.join(" ")}${suggestion(COMMANDS, words)}`);
    }
    process.stdout.write(group);
    return second === undefined ? EXIT_USAGE : 0;
  }
  const invocation = parse(found.command, found.rest);
  if (invocation.values["help"] === true) {
    process.stdout.write(commandHelp(found.command));
    return 0;
  }
  return await found.command.run(invocation);
}

function report(args: readonly string[], thrown: unknown): number {
  // It may quote what a device, a plugin or a file's name says.
  const lines = messageOf(thrown).split("\n").map(printable);
  process.stderr.write(`weir:${lines.length > 1 ? "\n" : " "}${lines.join("\n")}\n`);
  if (!(thrown instanceof WeirError)) return EXIT_FAILED;
  const command = findCommand(args)?.command.name;
  const remedy =
    thrown.code === "cli.usage" && command !== undefined ? `See \`weir ${command} --help\`.` : thrown.remedy;
  process.stderr.write(`  (${thrown.code}) ${remedy}\n`);
  return thrown.code === "cli.usage" || thrown.code === "config.invalid" ? EXIT_USAGE : EXIT_FAILED;
}

// A reader that goes away (`weir ledger | head -1`) ends the command quietly.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

const args = process.argv.slice(2);
process.exitCode = await run(args).catch((thrown: unknown) => report(args, thrown));
