/** Sizes and durations as people write them in configuration files. */

const SIZE = /^(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|KiB|MiB|GiB)?$/;
const SIZES: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
};

/** Bytes of a size such as `100KiB`, `1GiB` or `2048`; undefined when it is not one. */
export function parseSize(text: string): number | undefined {
  const [, amount, unit = "B"] = SIZE.exec(text.trim()) ?? [];
  return amount === undefined ? undefined : Math.round(Number(amount) * (SIZES[unit] ?? 1));
}

const DURATION = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$/;
const DURATIONS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3_600e3, d: 86_400e3 };

/** Milliseconds of a duration such as `500ms`, `30s`, `5m`, `12h` or `1d`; undefined when it is not one. */
export function parseDuration(text: string): number | undefined {
  const [, amount, unit = ""] = DURATION.exec(text.trim()) ?? [];
  return amount === undefined ? undefined : Math.round(Number(amount) * (DURATIONS[unit] ?? 1));
}

/** A size for people: the largest binary unit that leaves a number of at least one. */
export function formatSize(bytes: number): string {
  for (const [unit, size] of [
    ["GiB", 2 ** 30],
    ["MiB", 2 ** 20],
    ["KiB", 2 ** 10],
  ] as const) {
    if (bytes >= size) return `${Number((bytes / size).toFixed(1))} ${unit}`;
  }
  return `${bytes} B`;
}
