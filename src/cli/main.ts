/** The command line: `bin/weir` starts this file. Exit codes: 0 good, 1 failed, 2 wrong usage or configuration. */
import { parseArgs } from "node:util";
import { messageOf, WeirError } from "../core/errors.ts";
import { COMMANDS, type Command, findCommand, type Invocation } from "./commands.ts";
import { commandHelp, mainHelp } from "./help.ts";
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
    throw usage(messageOf(thrown));
  }
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
  if (found === undefined) throw usage(`no such command: ${args.slice(0, 2).join(" ")}`);
  const invocation = parse(found.command, found.rest);
  if (invocation.values["help"] === true) {
    process.stdout.write(commandHelp(found.command));
    return 0;
  }
  return await found.command.run(invocation);
}

function report(thrown: unknown): number {
  process.stderr.write(`weir: ${messageOf(thrown)}\n`);
  if (!(thrown instanceof WeirError)) return EXIT_FAILED;
  process.stderr.write(`  (${thrown.code}) ${thrown.remedy}\n`);
  return thrown.code === "cli.usage" || thrown.code === "config.invalid" ? EXIT_USAGE : EXIT_FAILED;
}

// A reader that goes away (`weir ledger | head -1`) ends the command quietly.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

process.exitCode = await run(process.argv.slice(2)).catch(report);
