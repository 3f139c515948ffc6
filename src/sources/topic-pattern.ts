/**
 * Topic patterns of mapping rules (docs/specs/mapping.md).
 *
 * A pattern is matched level by level (levels are what stands between `/`):
 *
 *     text        that very level
 *     +           one level, any
 *     *           one or more levels, any
 *     #           zero or more levels, at the end only
 *     {device}    one level that is not empty: the device
 *     {device+}   one or more levels: the device, joined by `/`
 *     {channel}   one level that is not empty: the channel
 *     {channel+}  one or more levels: the channel, joined by `.`
 *
 * A level that begins with `$` is no device and no channel: brokers and Homie say of themselves there. At most one of `*`, `#`, `{device+}` and `{channel+}` may stand in a pattern, so matching is linear in the levels, whatever comes in.
 */

/** What a pattern found in a topic, as it stood there; "" where the pattern doesn't name it. */
export interface TopicMatch {
  readonly device: string;
  readonly channel: string;
}

type Token =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "one" | "device" | "channel" };
type Run = "none" | "levels" | "rest" | "device" | "channel";

/** Levels of a pattern that stand for several of a topic. */
const RUNS: ReadonlyMap<string, Run> = new Map([
  ["*", "levels"],
  ["#", "rest"],
  ["{device+}", "device"],
  ["{channel+}", "channel"],
]);

/** Longest pattern, in characters. */
const PATTERN_LENGTH = 1024;

/**
 * Why `text` is not a pattern, or undefined when it is. `captures`: whether it must name the device (a rule's topic),
 * or must name nothing (a skip pattern).
 */
export function patternProblem(text: string, captures: boolean): string | undefined {
  if (text === "") return "is empty";
  if (text.length > PATTERN_LENGTH) return `is over ${PATTERN_LENGTH} characters`;
  let devices = 0;
  let channels = 0;
  let runs = 0;
  const levels = text.split("/");
  for (const [i, level] of levels.entries()) {
    if (level === "{device}" || level === "{device+}") devices += 1;
    else if (level === "{channel}" || level === "{channel+}") channels += 1;
    else if (/[{}]/.test(level))
      return `has ${JSON.stringify(level)}: expected {device}, {device+}, {channel} or {channel+} as a whole level`;
    else if (level.length > 1 && /[+#]/.test(level))
      return `has + or # inside the level ${JSON.stringify(level)}`;
    else if (level === "#" && i < levels.length - 1) return "has # before its end";
    if (RUNS.has(level)) runs += 1;
  }
  if (runs > 1) return "has more than one of *, #, {device+} and {channel+}";
  if (captures) {
    if (devices !== 1) return "must have {device} or {device+} exactly once";
    if (channels > 1) return "has {channel} or {channel+} more than once";
  } else if (devices + channels > 0) return "must not name {device} or {channel}";
  return undefined;
}

/** A pattern that {@link patternProblem} has nothing against. */
export class TopicPattern {
  readonly #head: readonly Token[];
  readonly #tail: readonly Token[];
  readonly #run: Run;
  /** the narrowest topic filter (MQTT 3.1.1, 4.7) that has every topic of the pattern */
  readonly filter: string;

  constructor(text: string) {
    const levels = text.split("/");
    const at = levels.findIndex((level) => RUNS.has(level));
    this.#run = RUNS.get(levels[at] ?? "") ?? "none";
    this.#head = levels.slice(0, at < 0 ? levels.length : at).map(token);
    this.#tail = at < 0 ? [] : levels.slice(at + 1).map(token);
    const head = this.#head.map((one) => (one.type === "text" ? one.text : "+"));
    this.filter = [...head, ...(at < 0 ? [] : ["#"])].join("/");
  }

  /** What the pattern finds in a topic's levels, or undefined when they don't match. */
  match(levels: readonly string[]): TopicMatch | undefined {
    const head = this.#head.length;
    const run = levels.length - head - this.#tail.length;
    if (this.#run === "none" ? run !== 0 : run < (this.#run === "rest" ? 0 : 1)) return undefined;
    const found = { device: "", channel: "" };
    if (!take(this.#head, levels, 0, found) || !take(this.#tail, levels, head + run, found)) return undefined;
    if (this.#run !== "device" && this.#run !== "channel") return found;
    const named = levels.slice(head, head + run);
    if (named.some((level) => level.startsWith("$"))) return undefined;
    found[this.#run] = named.join(this.#run === "device" ? "/" : ".");
    return found[this.#run] === "" ? undefined : found;
  }
}

function token(level: string): Token {
  if (level === "+") return { type: "one" };
  if (level === "{device}") return { type: "device" };
  if (level === "{channel}") return { type: "channel" };
  return { type: "text", text: level };
}

/** Whether the levels from `at` on are what the tokens say; notes what they name. */
function take(
  tokens: readonly Token[],
  levels: readonly string[],
  at: number,
  found: { device: string; channel: string },
): boolean {
  for (const [i, token] of tokens.entries()) {
    const level = levels[at + i] ?? "";
    if (token.type === "text") {
      if (level !== token.text) return false;
    } else if (token.type !== "one") {
      if (level === "" || level.startsWith("$")) return false;
      found[token.type] = level;
    }
  }
  return true;
}
