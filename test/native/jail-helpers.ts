import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Jailed, type JailOptions, type LayerReport, spawnJailed } from "../../src/plugins/jail.ts";

/** One thing that jailed code tries: its name in jail-inmate.mjs, then the arguments. */
export type Attempt = readonly [name: string, ...list: unknown[]];

/** The script that tries what it is told. */
export const inmate: string = fileURLToPath(new URL("./jail-inmate.mjs", import.meta.url));

/** What came of the attempts: their outcomes in order, or how the process ended before it could tell. */
export interface Verdict {
  readonly outcomes: readonly string[] | string;
  readonly layers: LayerReport;
  readonly output: string;
}

/** Starts the inmate; the rest of the options as given. */
export function imprison(attempts: readonly Attempt[], options: Partial<JailOptions> = {}): Jailed {
  return spawnJailed({
    script: inmate,
    scriptArgs: [JSON.stringify(attempts)],
    readPaths: [],
    pipes: 1,
    memoryMiB: 192,
    allowWorker: true,
    ...options,
    nodeFlags: ["--experimental-ffi", ...(options.nodeFlags ?? [])],
  });
}

/** Runs the attempts in a jail of their own and waits for its end. */
export async function attempt(
  attempts: readonly Attempt[],
  options: Partial<JailOptions> = {},
): Promise<Verdict> {
  const jailed = imprison(attempts, options);
  const ended = once(jailed.child, "exit");
  const [pipe] = jailed.pipes;
  if (pipe === undefined) throw new Error("no pipe");
  pipe.on("error", () => {});
  const lines: string[] = [];
  createInterface(pipe).on("line", (line) => {
    lines.push(line);
    pipe.end();
  });
  const [code, signal] = await ended;
  const answer: unknown = lines[0] === undefined ? undefined : JSON.parse(lines[0]);
  return {
    outcomes: Array.isArray(answer) ? answer.map(String) : `ended: ${signal ?? code}`,
    layers: await jailed.layers,
    output: jailed.output(),
  };
}

/** The outcomes beside their attempts, for assertions that say which attempt it was. */
export function byAttempt(
  attempts: readonly Attempt[],
  outcomes: readonly string[] | string,
): Record<string, string> {
  return Object.fromEntries(
    attempts.map((item, index) => [
      item.map(String).join(" "),
      typeof outcomes === "string" ? outcomes : (outcomes[index] ?? "no answer"),
    ]),
  );
}
