/** The table that a run of the fault suite ends with. Each fault adds a line to the file that `WEIR_FAULTS_TABLE` names. */
import { appendFileSync } from "node:fs";

/** One line: what a fault did. */
export interface Row {
  readonly fault: string;
  readonly acknowledged: number;
  readonly arrived: number;
  readonly missing: number;
  readonly doubled: number;
  /** `kept`, or how many came out of order */
  readonly order: string;
  /** from the fault's end until a message published after it has arrived */
  readonly freshS: number;
  /** `adds up`, or the stages that don't */
  readonly ledger: string;
  readonly note: string;
}

/** Adds a line, when somebody wants the table. */
export function record(row: Row): void {
  const file = process.env["WEIR_FAULTS_TABLE"];
  if (file !== undefined) appendFileSync(file, `${JSON.stringify(row)}\n`);
}

const HEAD = [
  "fault",
  "acknowledged",
  "arrived",
  "missing",
  "doubled",
  "order",
  "fresh after s",
  "ledger",
  "note",
];

/** The table as text, from such a file. */
export function tableOf(lines: string): string {
  const rows = lines
    .split("\n")
    .filter((line) => line !== "")
    .map((line): string[] => {
      const row: Row = JSON.parse(line);
      return [
        row.fault,
        String(row.acknowledged),
        String(row.arrived),
        String(row.missing),
        String(row.doubled),
        row.order,
        row.freshS.toFixed(1),
        row.ledger,
        row.note,
      ];
    })
    .sort(([a = ""], [b = ""]) => a.localeCompare(b));
  const widths = HEAD.map((head, i) => Math.max(head.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) =>
        (i > 0 && i < 5) || i === 6 ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0),
      )
      .join("  ")
      .trimEnd();
  return [line(HEAD), ...rows.map(line)].join("\n");
}
