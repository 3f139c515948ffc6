/** What is never shown: not in `weir config print`, the log, a support bundle. */

/** Keys whose values are secrets, wherever they stand, in a plugin's own part too. */
const SECRET_KEY = /password|passphrase|secret|token|credential|authorization|(?:api|private)[-_]?key/i;
/** Shorter ones are hidden where they stand, and not searched for in other text: they would hide half of it. */
const LEAST_LENGTH = 4;
const HIDDEN = "(hidden)";

/** Every secret of a configuration. */
export function secretsOf(value: unknown): string[] {
  const found: string[] = [];
  walk(value, (secret) => {
    // A number is hidden where it stands: looked for elsewhere it would hide ports and counts.
    if (typeof secret === "string") found.push(secret);
    return secret;
  });
  return found;
}

/** A copy as plain objects, with every secret hidden. */
export function withoutSecrets(value: unknown, secrets: ReadonlySet<string>): unknown {
  const redact = redactor(secrets);
  return walk(
    value,
    () => HIDDEN,
    (text) => redact(text),
  );
}

/** Hides secrets in text. */
export function redactor(secrets: Iterable<string>): (text: string) => string {
  // In JSON, as in the log, a secret stands escaped.
  const forms = [...secrets].flatMap((secret) => [secret, JSON.stringify(secret).slice(1, -1)]);
  const known = [...new Set(forms)]
    .filter((form) => form.length >= LEAST_LENGTH)
    .sort((a, b) => b.length - a.length);
  return (text) => known.reduce((rest, secret) => rest.replaceAll(secret, HIDDEN), text);
}

/** `isSecret`: the key says so. Of a mapping each key says it anew: it may be one of names that people choose, as of plugins. */
function walk(
  value: unknown,
  onSecret: (secret: string | number) => string | number,
  onText: (text: string) => string = (text) => text,
  isSecret = false,
): unknown {
  if (isSecret && value !== "" && (typeof value === "string" || typeof value === "number"))
    return onSecret(value);
  if (typeof value === "string") return onText(value);
  if (Array.isArray(value)) return value.map((item) => walk(item, onSecret, onText, isSecret));
  if (value instanceof Map) return walk(Object.fromEntries(value), onSecret, onText);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, walk(item, onSecret, onText, SECRET_KEY.test(key))]),
  );
}
