/** Work of the agent's own that somebody else's text can make endless: a pattern in a schema, references that branch again and again. */
import { runInNewContext } from "node:vm";
import { WeirError } from "../core/errors.ts";

/** Far beyond what honest text takes on a slow machine, and short enough for everything else to wait. */
const LIMIT_MS = 1_000;
const TIMEOUT = "ERR_SCRIPT_EXECUTION_TIMEOUT";

/**
 * Does `work` on this thread and ends it, wherever it is, when it takes longer than a second. What it has changed until then stays, so it
 * should change nothing.
 * @param what names the text, for the error
 * @throws what `work` throws, or WeirError `plugin.refused` when it takes too long
 */
export function withinTime<T>(what: string, work: () => T, limitMs: number = LIMIT_MS): T {
  const done: { value?: T } = {};
  const run = (): void => {
    done.value = work();
  };
  try {
    // Nothing of the plugin's is evaluated: the script is these five characters, and the limit holds for all that they call.
    runInNewContext("run()", { run }, { timeout: limitMs });
  } catch (thrown) {
    // Node makes this one in the script's own realm, where `Error` is another.
    const isLate = typeof thrown === "object" && thrown !== null && Reflect.get(thrown, "code") === TIMEOUT;
    if (!isLate) throw thrown;
    throw new WeirError("plugin.refused", `${what}: takes longer than ${limitMs} ms to check`, {
      cause: thrown,
    });
  }
  return done.value as T;
}
