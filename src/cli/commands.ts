/** The table of commands: help, options and code of each. */
import type { ParseArgsOptionsConfig } from "node:util";

/** What was typed, parsed. */
export interface Invocation {
  readonly values: Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>;
  readonly positionals: readonly string[];
}

/** One command. */
export interface Command {
  /** one or two words */
  readonly name: string;
  /** what follows the name in the help */
  readonly usage: string;
  /** one line */
  readonly about: string;
  readonly options: ParseArgsOptionsConfig;
  /** one line for each option */
  readonly help: Readonly<Record<string, string>>;
  /** most positional arguments */
  readonly positionals: number;
  /** Resolves to the exit code. */
  run(invocation: Invocation): Promise<number>;
}

const config = { config: { type: "string", short: "c" }, "data-dir": { type: "string" } } as const;
const configHelp = {
  config: "the configuration file (default: ./weir.yaml, then /etc/weir/weir.yaml)",
  "data-dir": "the data folder (default: data.dir, ./.weir)",
};
const json = { json: { type: "boolean" } } as const;
const jsonHelp = { json: "as JSON" };
/** Options of commands that show something, that ask the agent for something, and that need nothing. */
const listing = { options: { ...config, ...json }, help: { ...configHelp, ...jsonHelp } };
const asking = { options: config, help: configHelp };
const plain = { options: {}, help: {} };

/** A command whose code is loaded when it runs: `weir --version` is not to wait for a database. */
function command(
  fields: Omit<Command, "run">,
  load: () => Promise<(invocation: Invocation) => Promise<number>>,
): Command {
  return { ...fields, run: async (invocation) => (await load())(invocation) };
}

/** Every command, in the order of the help. */
export const COMMANDS: readonly Command[] = [
  command(
    {
      name: "run",
      usage: "",
      about: "run the agent",
      options: { ...config, "log-level": { type: "string" } },
      help: { ...configHelp, "log-level": "trace, debug, info (default), warn, error" },
      positionals: 0,
    },
    async () => (await import("./run.ts")).run,
  ),
  command(
    {
      name: "tail",
      usage: "[topic]",
      about: "show what subscribers get, decoded",
      options: {
        ...config,
        ...json,
        stream: { type: "string" },
        device: { type: "string" },
        metric: { type: "string" },
        rejected: { type: "boolean" },
        dedupe: { type: "boolean" },
        count: { type: "string", short: "n" },
        username: { type: "string", short: "u" },
        "password-file": { type: "string" },
      },
      help: {
        ...configHelp,
        ...jsonHelp,
        stream: "of this stream alone: alarm, data or host",
        device: "of these devices alone, such as 'press-*,pump-1'",
        metric: "these metrics alone, such as 'temp*'",
        rejected: "show device messages that were not valid, with the reason",
        dedupe: "leave out batches that came before, by their key",
        count: "end after so many lines",
        username: "one of broker.identities that may subscribe to weir/#, where they are wanted",
        "password-file": "file whose first line is its password",
      },
      positionals: 1,
    },
    async () => (await import("./tail.ts")).tail,
  ),
  command(
    {
      name: "init",
      usage: "[file]",
      about: "write a commented configuration for what is found on this machine; never overwrites",
      ...plain,
      positionals: 1,
    },
    async () => (await import("./init.ts")).init,
  ),
  command(
    {
      name: "top",
      usage: "",
      about: "watch the running agent: rates, latencies, loss, outbox, plugins, probes; q ends",
      options: { ...config, ...json, once: { type: "boolean" }, interval: { type: "string", short: "i" } },
      help: {
        ...configHelp,
        json: "a line of JSON a look",
        once: "one look, as plain text",
        interval: "seconds between looks (default: 2)",
      },
      positionals: 0,
    },
    async () => (await import("./top.ts")).top,
  ),
  command(
    {
      name: "diag",
      usage: "",
      about: "write a support bundle (tar.gz) without secrets",
      options: { ...config, out: { type: "string", short: "o" } },
      help: { ...configHelp, out: "the file to write" },
      positionals: 0,
    },
    async () => (await import("./diag.ts")).diag,
  ),
  command(
    {
      name: "profile",
      usage: "",
      about: "sample what the processors do (folded stacks, a flame graph), or the running agent itself",
      options: {
        ...config,
        for: { type: "string" },
        pid: { type: "string" },
        frequency: { type: "string" },
        svg: { type: "string" },
        folded: { type: "string" },
        self: { type: "boolean" },
        heap: { type: "boolean" },
        out: { type: "string", short: "o" },
      },
      help: {
        for: "how long, such as 30s (default: 10s)",
        pid: "one process only",
        frequency: "samples a second on each processor (default: 99)",
        svg: "write a flame graph to this file",
        folded: "write the folded stacks to this file (without either: to standard output)",
        self: "of the agent's main thread instead, through the agent: a .cpuprofile",
        heap: "with --self: heap statistics instead",
        out: "with --self: the file to write",
        ...configHelp,
      },
      positionals: 0,
    },
    async () => (await import("./profile.ts")).profile,
  ),
  command(
    {
      name: "reload",
      usage: "",
      about: "have the running agent read its configuration again; what is not valid is refused as a whole",
      ...listing,
      positionals: 0,
    },
    async () => (await import("./reload.ts")).reload,
  ),
  command(
    {
      name: "check",
      usage: "",
      about: "look at this machine, the configuration and the running agent; say how to mend what is missing",
      ...listing,
      positionals: 0,
    },
    async () => (await import("./check.ts")).check,
  ),
  command(
    {
      name: "passwd",
      usage: "",
      about: "make the hash of a password, read from standard input, for a client of the embedded broker",
      options: { name: { type: "string" } },
      help: { name: "print a line of broker.identitiesFile, for this identity" },
      positionals: 0,
    },
    async () => (await import("./passwd.ts")).passwd,
  ),
  command(
    {
      name: "plugin ls",
      usage: "",
      about: "list plugins, their state, binding and failures, and what is kept of removed ones",
      ...listing,
      positionals: 0,
    },
    async () => (await import("./listings.ts")).pluginLs,
  ),
  command(
    {
      name: "plugin inspect",
      usage: "<name|file.wasm|./folder>",
      about: "show a plugin with its limits and walls, or vet what is to be dropped",
      ...listing,
      positionals: 1,
    },
    async () => (await import("./plugins.ts")).inspect,
  ),
  command(
    {
      name: "plugin logs",
      usage: "<name>",
      about: "show what a plugin logged, and what was logged about it",
      ...listing,
      positionals: 1,
    },
    async () => (await import("./plugins.ts")).logs,
  ),
  command(
    {
      name: "plugin enable",
      usage: "<name>",
      about: "let a disabled or quarantined plugin in again",
      ...asking,
      positionals: 1,
    },
    async () => (await import("./plugins.ts")).enable,
  ),
  command(
    {
      name: "plugin disable",
      usage: "<name>",
      about: "take a plugin out, over restarts",
      ...asking,
      positionals: 1,
    },
    async () => (await import("./plugins.ts")).disable,
  ),
  command(
    {
      name: "plugin rollback",
      usage: "<name>",
      about: "go back to the version before, until the dropped file changes",
      ...asking,
      positionals: 1,
    },
    async () => (await import("./plugins.ts")).rollback,
  ),
  command(
    {
      name: "plugin purge",
      usage: "<name>",
      about: "forget what is kept of a plugin that is removed or disabled: its state and versions",
      ...listing,
      positionals: 1,
    },
    async () => (await import("./plugins.ts")).purge,
  ),
  command(
    {
      name: "plugin test",
      usage: "<folder>",
      about: "run a plugin's golden cases, without an agent",
      options: json,
      help: jsonHelp,
      positionals: 1,
    },
    async () => (await import("./plugins.ts")).test,
  ),
  command(
    {
      name: "probe ls",
      usage: "",
      about: "list kernel probes, and why one is off",
      ...listing,
      positionals: 0,
    },
    async () => (await import("./listings.ts")).probeLs,
  ),
  command(
    {
      name: "probe on",
      usage: "<name>",
      about: "run a probe on demand, for a time",
      options: { ...config, for: { type: "string" } },
      help: { ...configHelp, for: "how long, such as 60s; at most 1h" },
      positionals: 1,
    },
    async () => (await import("./listings.ts")).probeOn,
  ),
  command(
    {
      name: "probe off",
      usage: "<name>",
      about: "end a probe on demand before its time",
      ...asking,
      positionals: 1,
    },
    async () => (await import("./listings.ts")).probeOff,
  ),
  command(
    {
      name: "probe connections",
      usage: "",
      about:
        "the TCP connections there are, with queues, round-trip times, segments sent again; needs no agent",
      options: json,
      help: jsonHelp,
      positionals: 0,
    },
    async () => (await import("./connections.ts")).connections,
  ),
  command(
    {
      name: "ledger",
      usage: "",
      about: "the account of every stage: in = out + lost + dropped + rejected + held",
      ...listing,
      positionals: 0,
    },
    async () => (await import("./listings.ts")).ledger,
  ),
  command(
    {
      name: "outbox ls",
      usage: "",
      about: "what waits in the outbox, by uplink and stream",
      ...listing,
      positionals: 0,
    },
    async () => (await import("./outbox.ts")).ls,
  ),
  command(
    {
      name: "outbox export",
      usage: "",
      about: "write what the outbox holds to standard output; works without an agent, too",
      options: {
        ...config,
        rejected: { type: "boolean" },
        stream: { type: "string" },
        format: { type: "string" },
      },
      help: {
        ...configHelp,
        rejected:
          "what brokers refused and was set aside, with which uplink, why and when, instead of what waits",
        stream: "alarm, data or host (default: all)",
        format: "ndjson (default): a sample object a line; block: blocks one after the other",
      },
      positionals: 0,
    },
    async () => (await import("./outbox.ts")).exportAll,
  ),
  command(
    {
      name: "outbox purge",
      usage: "",
      about: "drop what the outbox holds; counted as dropped, and announced as gaps",
      options: {
        ...config,
        ...json,
        uplink: { type: "string" },
        stream: { type: "string" },
        "older-than": { type: "string" },
        all: { type: "boolean" },
      },
      help: {
        ...configHelp,
        ...jsonHelp,
        uplink: "at this uplink only",
        stream: "alarm, data or host",
        "older-than": "stored longer ago than this, such as 12h",
        all: "everything",
      },
      positionals: 0,
    },
    async () => (await import("./outbox.ts")).purge,
  ),
  command(
    {
      name: "config validate",
      usage: "[file]",
      about: "check a configuration file; every error at once, with its line",
      ...plain,
      positionals: 1,
    },
    async () => (await import("./config.ts")).validate,
  ),
  command(
    {
      name: "config print",
      usage: "",
      about: "the configuration in force, defaults filled in, secrets hidden",
      ...listing,
      positionals: 0,
    },
    async () => (await import("./config.ts")).print,
  ),
  command(
    {
      name: "config default",
      usage: "",
      about: "every key with its default, as YAML",
      options: { ...json },
      help: jsonHelp,
      positionals: 0,
    },
    async () => (await import("./config.ts")).printDefaults,
  ),
  command(
    {
      name: "config schema",
      usage: "",
      about: "the JSON Schema of weir.yaml, for editors",
      ...plain,
      positionals: 0,
    },
    async () => (await import("./config.ts")).printSchema,
  ),
];

/** The command that arguments begin with, and what follows its name. */
export function findCommand(
  args: readonly string[],
): { command: Command; rest: readonly string[] } | undefined {
  for (const words of [2, 1]) {
    const name = args.slice(0, words).join(" ");
    const found = COMMANDS.find((candidate) => candidate.name === name);
    if (found !== undefined) return { command: found, rest: args.slice(words) };
  }
  return undefined;
}
