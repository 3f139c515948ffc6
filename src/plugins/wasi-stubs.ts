/**
 * WASI that gives nothing: no environment, no files, streams that are closed, clocks that stand still, zeros for random
 * bytes. What is not here at all (or throws) traps in the guest. Names are those that jco's generated code looks for.
 */

const denied = (what: string): never => {
  throw new Error(`${what} is not given to plugins`);
};

/** `wasi:cli/environment` */
export const environment = {
  getEnvironment: (): [string, string][] => [],
  getArguments: (): string[] => [],
  initialCwd: (): undefined => undefined,
};

/** `wasi:cli/exit`: ends the instance as a trap does. */
export const exit = { exit: (): never => denied("exit"), exitWithCode: (): never => denied("exit") };

class ClosedInput {
  read(): never {
    throw { tag: "closed" };
  }
  blockingRead(): never {
    throw { tag: "closed" };
  }
}

class ClosedOutput {
  checkWrite(): never {
    throw { tag: "closed" };
  }
  write(): never {
    throw { tag: "closed" };
  }
  flush(): never {
    throw { tag: "closed" };
  }
  blockingFlush(): never {
    throw { tag: "closed" };
  }
  blockingWriteAndFlush(): never {
    throw { tag: "closed" };
  }
}

class Nothing {}

/** `wasi:io/streams` */
export const streams = { InputStream: ClosedInput, OutputStream: ClosedOutput };
/** `wasi:io/error` */
export const error = { Error: Nothing };
/** `wasi:io/poll` */
export const poll = { Pollable: Nothing, poll: (): never => denied("poll") };
/** `wasi:cli/stdin` */
export const stdin = { getStdin: (): ClosedInput => new ClosedInput() };
/** `wasi:cli/stdout` */
export const stdout = { getStdout: (): ClosedOutput => new ClosedOutput() };
/** `wasi:cli/stderr` */
export const stderr = { getStderr: (): ClosedOutput => new ClosedOutput() };
/** `wasi:cli/terminal-input` */
export const terminalInput = { TerminalInput: Nothing };
/** `wasi:cli/terminal-output` */
export const terminalOutput = { TerminalOutput: Nothing };
/** `wasi:cli/terminal-stdin` */
export const terminalStdin = { getTerminalStdin: (): undefined => undefined };
/** `wasi:cli/terminal-stdout` */
export const terminalStdout = { getTerminalStdout: (): undefined => undefined };
/** `wasi:cli/terminal-stderr` */
export const terminalStderr = { getTerminalStderr: (): undefined => undefined };
/** `wasi:filesystem/preopens` */
export const preopens = { getDirectories: (): never[] => [] };
/** `wasi:filesystem/types` */
export const types = {
  Descriptor: Nothing,
  DirectoryEntryStream: Nothing,
  filesystemErrorCode: (): undefined => undefined,
};
/** `wasi:clocks/monotonic-clock` */
export const monotonicClock = {
  now: (): bigint => 0n,
  resolution: (): bigint => 1n,
  subscribeDuration: (): never => denied("waiting"),
  subscribeInstant: (): never => denied("waiting"),
};
/** `wasi:clocks/wall-clock` */
export const wallClock = {
  now: (): { seconds: bigint; nanoseconds: number } => ({ seconds: 0n, nanoseconds: 0 }),
  resolution: (): { seconds: bigint; nanoseconds: number } => ({ seconds: 1n, nanoseconds: 0 }),
};

const MOST_RANDOM = 65_536n;
const zeros = (length: bigint): Uint8Array =>
  new Uint8Array(length > MOST_RANDOM ? denied("so much") : Number(length));

/** `wasi:random/random` */
export const random = { getRandomBytes: zeros, getRandomU64: (): bigint => 0n };
/** `wasi:random/insecure` */
export const insecure = { getInsecureRandomBytes: zeros, getInsecureRandomU64: (): bigint => 0n };
/** `wasi:random/insecure-seed` */
export const insecureSeed = { insecureSeed: (): [bigint, bigint] => [0n, 0n] };

/** By the names under which generated code imports them. */
export const WASI: Readonly<Record<string, object>> = {
  "wasi:cli/environment": environment,
  "wasi:cli/exit": exit,
  "wasi:cli/stderr": stderr,
  "wasi:cli/stdin": stdin,
  "wasi:cli/stdout": stdout,
  "wasi:cli/terminal-input": terminalInput,
  "wasi:cli/terminal-output": terminalOutput,
  "wasi:cli/terminal-stderr": terminalStderr,
  "wasi:cli/terminal-stdin": terminalStdin,
  "wasi:cli/terminal-stdout": terminalStdout,
  "wasi:clocks/monotonic-clock": monotonicClock,
  "wasi:clocks/wall-clock": wallClock,
  "wasi:filesystem/preopens": preopens,
  "wasi:filesystem/types": types,
  "wasi:io/error": error,
  "wasi:io/poll": poll,
  "wasi:io/streams": streams,
  "wasi:random/insecure": insecure,
  "wasi:random/insecure-seed": insecureSeed,
  "wasi:random/random": random,
};
