/** Work of the agent's own that somebody else's text can make endless: a pattern in a schema, references that branch again and again. */
import { runInNewContext } from "node:vm";
import { WeirError } from "../core/errors.ts";

/** Far beyond what honest text takes on a slow machine, and short enough for everything else to wait. */
const LIMIT_MS = 1_000;
/** Where the machine gave this thread little of that time, the work is tried so often before it is taken for endless. */
const TRIES = 5;
const TIMEOUT = "ERR_SCRIPT_EXECUTION_TIMEOUT";

/**
 * Does `work` on this thread and ends it, wherever it is, when it takes longer than a second. It may be done again, so it should change
 * nothing.
 * @param what names the text, for the error
 * @throws what `work` throws, or WeirError `plugin.refused` when it takes too long
 */
export function withinTime<T>(what: string, work: () => T): T {
  const done: { value?: T } = {};
  const run = (): void => {
    done.value = work();
  };
  for (let tries = 1; ; tries++) {
    const before = process.threadCpuUsage();
    try {
      // Nothing of the plugin's is evaluated: the script is these five characters, and the limit holds for all that they call.
      runInNewContext("run()", { run }, { timeout: LIMIT_MS });
      return done.value as T;
    } catch (thrown) {
      // Node makes this one in the script's own realm, where `Error` is another.
      const isLate = typeof thrown === "object" && thrown !== null && Reflect.get(thrown, "code") === TIMEOUT;
      if (!isLate) throw thrown;
      const { user, system } = process.threadCpuUsage(before);
      if (tries < TRIES && (user + system) / 1000 < LIMIT_MS / 2) continue;
      const reason = `${what}: takes longer than ${LIMIT_MS} ms to check`;
      throw new WeirError("plugin.refused", reason, { cause: thrown });
    }
  }
}
