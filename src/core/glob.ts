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

/**
 * Whether grants, which are topic filters (MQTT 4.7: `+` is a level, `#` the rest), allow publishing on a topic. Weir's own topics and those
 * of the broker (`$…`) only where a grant names them: a wildcard at the beginning stands for neither [MQTT-4.7.2-1].
 */
export function mayPublish(grants: readonly string[], topic: string): boolean {
  if (topic === "" || /[+#\0]/.test(topic)) return false;
  const levels = topic.split("/");
  const named = levels[0] === "weir" || topic.startsWith("$");
  return grants.some((grant) => {
    const wanted = grant.split("/");
    if (named && wanted[0] !== levels[0]) return false;
    for (let i = 0; i < wanted.length; i++) {
      if (wanted[i] === "#") return true;
      if (i >= levels.length || (wanted[i] !== "+" && wanted[i] !== levels[i])) return false;
    }
    return wanted.length === levels.length;
  });
}
