/** What a name that isn't known may have been meant to be. */

/** Characters of a name's beginning that are enough to suggest the whole. */
const LEAST_BEGINNING = 4;

/** `; did you mean "x"?` for something close to what exists, else an empty text. */
export function didYouMean(given: string, known: readonly string[]): string {
  const close = known
    .map((name) => ({ name, far: distance(name.toLowerCase(), given.toLowerCase()) }))
    .filter(({ far, name }) => far <= Math.min(2, Math.floor(name.length / 2)))
    .sort((a, b) => a.far - b.far)[0];
  const name =
    close?.name ?? (given.length < LEAST_BEGINNING ? undefined : known.find((one) => one.startsWith(given)));
  return name === undefined ? "" : `; did you mean "${name}"?`;
}

/** Levenshtein's distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
