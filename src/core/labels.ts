/** A metric's name with labels in Graphite's tag form. */

const UNSAFE = /[;=~%\u0000-\u0020\u007f-\u009f]/g;

/**
 * `name;key=value;…` with keys sorted and `;`, `=`, `~`, `%`, blanks and control characters as `%XX` in keys and values.
 * Labels without a value are left out.
 */
export function metricName(name: string, labels: Readonly<Record<string, string>>): string {
  let out = name;
  const sorted = Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [key, value] of sorted) {
    if (value !== "") out += `;${escapeLabel(key)}=${escapeLabel(value)}`;
  }
  return out;
}

const escapeLabel = (text: string): string => text.replace(UNSAFE, (character) => percentEncode(character));

/** The UTF-8 bytes of a text as `%XX`. */
export function percentEncode(text: string): string {
  let out = "";
  for (const byte of Buffer.from(text)) out += `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  return out;
}
