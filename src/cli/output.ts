/** How the commands print. Colour only on a terminal, and not when NO_COLOR is set. */

/** Whether standard output is to have colour. */
const coloured: boolean =
  process.stdout.isTTY === true && (process.env["NO_COLOR"] ?? "") === "" && process.env["TERM"] !== "dumb";

const paint =
  (code: number) =>
  (text: string): string =>
    coloured ? `\u001b[${code}m${text}\u001b[0m` : text;
export const dim: (text: string) => string = paint(90);
export const red: (text: string) => string = paint(31);
export const green: (text: string) => string = paint(32);
export const yellow: (text: string) => string = paint(33);
export const bold: (text: string) => string = paint(1);

/**
 * What a device or plugin wrote, made safe for a terminal: control characters show as \xNN, those that turn the order of others round
 * as \uNNNN.
 */
export const printable = (text: string): string =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (char) => {
    const hex = char.charCodeAt(0).toString(16);
    return hex.length > 2 ? `\\u${hex}` : `\\x${hex.padStart(2, "0")}`;
  });

/** A value as JSON, on a line unless `indent` says otherwise; what a terminal would act on stands escaped, as JSON allows. */
export const jsonText = (value: unknown, indent?: number): string =>
  (JSON.stringify(value, null, indent) ?? "null").replace(
    /[\u007f-\u009f]/g,
    (char) => `\\u00${char.charCodeAt(0).toString(16)}`,
  );

/** Prints what is said beside the output, on standard error. */
export function note(text: string): void {
  process.stderr.write(`${process.stderr.isTTY === true ? dim(text) : text}\n`);
}

/** Prints one line. */
export function line(text = ""): void {
  process.stdout.write(`${text}\n`);
}

/** Prints a value as JSON. */
export function printJson(value: unknown): void {
  line(jsonText(value, process.stdout.isTTY ? 2 : undefined));
}

/** Columns of the terminal; what goes to a file or a pipe is never folded. */
const columns = (): number =>
  process.stdout.isTTY ? process.stdout.columns || 80 : Number.POSITIVE_INFINITY;

/** The least that a text is folded to. */
const LEAST_COLUMN = 12;
/** Longer words are cut where they don't fit. */
const LONGEST_WORD = 48;

/** A text in lines of at most `width`, broken at spaces; a word that is longer is cut. */
function fold(text: string, width: number): string[] {
  const lines: string[] = [];
  let current = "";
  for (let word of text.split(" ")) {
    if (current !== "" && current.length + 1 + word.length <= width) current += ` ${word}`;
    else {
      if (current !== "") lines.push(current);
      for (; word.length > width; word = word.slice(width)) lines.push(word.slice(0, width));
      current = word;
    }
  }
  return [...lines, current];
}

/** Prints `first` and a text behind it, which is folded under itself where the terminal ends. `first` may have colour: `width` is how wide it shows. */
export function hanging(
  first: string,
  text: string,
  width = first.length,
  paint: (text: string) => string = (plain) => plain,
): void {
  for (const [i, part] of hang(text, width).entries())
    line(`${i === 0 ? first : " ".repeat(width)}${paint(part)}`);
}

/** The lines of a text, so that they fit the terminal behind an indentation. */
export const hang = (text: string, indent: number): string[] =>
  text
    .split("\n")
    .flatMap((one) => (columns() - indent < LEAST_COLUMN ? [one] : fold(one, columns() - indent)));

const longest = (texts: readonly string[]): number =>
  texts.reduce((most, text) => Math.max(most, text.length), 0);

/**
 * Rows under a heading as lines of at most `width`. What is wider than that loses its empty columns and the second space between them; then
 * the widest columns of text are folded, as far as they can be. `right` names the columns of numbers. The first line is the heading.
 */
export function tableLines(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  right: ReadonlySet<string>,
  width: number,
): string[] {
  let columns = head.map((title, i) => {
    const cells = rows.map((row) => printable(row[i] ?? ""));
    const words = Math.min(LONGEST_WORD, longest(cells.flatMap((cell) => cell.split(" "))));
    const least = Math.max(LEAST_COLUMN, title.length, words);
    return { title, cells, text: !right.has(title), width: longest([title, ...cells]), least };
  });
  let gap = "  ";
  const excess = (): number =>
    columns.reduce((sum, column) => sum + column.width + gap.length, -gap.length) - width;
  if (excess() > 0) {
    columns = columns.filter(({ cells }) => cells.some((cell) => cell !== ""));
    gap = " ";
  }
  while (excess() > 0) {
    const [widest] = columns
      .filter((column) => column.text && column.width > column.least)
      .sort((a, b) => b.width - a.width);
    if (widest === undefined) break;
    widest.width -= 1;
  }
  return [undefined, ...rows.keys()].flatMap((at) => {
    const folded = columns.map((column) =>
      fold(at === undefined ? column.title : (column.cells[at] ?? ""), column.width),
    );
    return Array.from({ length: Math.max(...folded.map((cell) => cell.length)) }, (_, part) =>
      columns
        .map((column, i) => {
          const text = folded[i]?.[part] ?? "";
          return column.text ? text.padEnd(column.width) : text.padStart(column.width);
        })
        .join(gap)
        .trimEnd(),
    );
  });
}

/** Prints rows under a heading, columns aligned; on a terminal they are folded to its width. `right` names the columns of numbers. */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  right: ReadonlySet<string> = new Set(),
): void {
  const [title = "", ...lines] = tableLines(head, rows, right, columns());
  line(dim(title));
  for (const one of lines) line(one);
}
