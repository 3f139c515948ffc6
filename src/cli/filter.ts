/** Choosing by name, as `weir tail --device 'press-*'` does. */

/** Whether a name matches one of comma-separated patterns, `*` for any characters; without patterns every name does. */
export function nameFilter(patterns: string | undefined): (name: string) => boolean {
  if (patterns === undefined) return () => true;
  const forms = patterns.split(",").map((pattern) => {
    const literal = pattern.replace(/[.*+?^${}()|[\]\\]/g, (char) => (char === "*" ? ".*" : `\\${char}`));
    return new RegExp(`^${literal}$`, "s");
  });
  return (name) => forms.some((form) => form.test(name));
}
