/** Patterns over names: `*` stands for any characters, also none. Matching is linear in the name's length. */

/** Whether a name is meant. */
export type Matcher = (name: string) => boolean;

/** Answers kept per matcher; a device that invents names must not fill the memory. */
const MEMO_ENTRIES = 8_192;

/** Whether one of the patterns stands for the name; answers are remembered. */
export function matcher(patterns: readonly string[]): Matcher {
  if (patterns.includes("*")) return () => true;
  const parts = patterns.map((pattern) => pattern.split("*"));
  const memo = new Map<string, boolean>();
  return (name) => {
    let known = memo.get(name);
    if (known === undefined) {
      known = parts.some((pattern) => matches(pattern, name));
      if (memo.size >= MEMO_ENTRIES) memo.clear();
      memo.set(name, known);
    }
    return known;
  };
}

/** `parts`: the pattern split at its stars. Taking the first place for each middle part is enough: a later one gains nothing. */
function matches(parts: readonly string[], name: string): boolean {
  const first = parts[0] ?? "";
  const last = parts.at(-1) ?? "";
  if (parts.length === 1) return name === first;
  if (name.length < first.length + last.length || !name.startsWith(first) || !name.endsWith(last))
    return false;
  let at = first.length;
  for (const part of parts.slice(1, -1)) {
    at = name.indexOf(part, at);
    if (at < 0) return false;
    at += part.length;
  }
  return at <= name.length - last.length;
}

/** Whether an MQTT topic fits one of the filters (MQTT 4.7): `+` is a level, `#` the rest. */
export function topicMatches(filters: readonly string[], topic: string): boolean {
  const levels = topic.split("/");
  return filters.some((filter) => {
    const wanted = filter.split("/");
    for (let i = 0; i < wanted.length; i++) {
      if (wanted[i] === "#") return true;
      if (i >= levels.length || (wanted[i] !== "+" && wanted[i] !== levels[i])) return false;
    }
    return wanted.length === levels.length;
  });
}
