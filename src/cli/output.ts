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

/** What a device or plugin wrote, made safe for a terminal: control characters show as \xNN. */
export const printable = (text: string): string =>
  text.replace(
    /[\u0000-\u001f\u007f-\u009f]/g,
    (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );

/** Prints one line. */
export function line(text = ""): void {
  process.stdout.write(`${text}\n`);
}

/** Prints a value as JSON. */
export function printJson(value: unknown): void {
  line(JSON.stringify(value, null, process.stdout.isTTY ? 2 : undefined));
}

/** Prints rows under a heading, columns aligned; `right` names the columns of numbers. */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  right: ReadonlySet<string> = new Set(),
): void {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => (row[i] ?? "").length)));
  const cells = (row: readonly string[]): string =>
    row
      .map((cell, i) =>
        right.has(head[i] ?? "") ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0),
      )
      .join("  ")
      .trimEnd();
  line(dim(cells(head)));
  for (const row of rows) line(cells(row));
}
