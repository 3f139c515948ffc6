/** Reading numbers out of the text files of /proc and /sys, which may hold anything. */

/** A whole number >= 0 that a double holds exactly; undefined for anything else. */
export function count(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,16}$/.test(text)) return undefined;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : undefined;
}

/** A decimal number, as in `0.52` or `-12`; undefined for anything else. */
export const decimal = (text: string | undefined): number | undefined =>
  text !== undefined && /^-?\d{1,15}(?:\.\d{1,9})?$/.test(text) ? Number(text) : undefined;

/** The words of a line, without the blanks around them. */
export const words = (line: string): string[] => line.trim().split(/\s+/);

/** Lines that are looked at in one file; the rest of a longer one is left. */
const LINES = 4096;

/** The lines of a file that are not empty. */
export const lines = (text: string): string[] => text.split("\n", LINES).filter((line) => line.trim() !== "");
