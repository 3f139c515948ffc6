/** The table that a run of the fault suite ends with. Each fault adds a line to the file that `WEIR_FAULTS_TABLE` names. */
import { appendFileSync } from "node:fs";
import type { Verdict } from "./judge.ts";

/** What the judge found after a fault, how soon data flowed again, and whether the account adds up. */
export interface Outcome extends Verdict {
  /** from the fault's end until a message published after it has arrived */
  readonly freshS: number;
  /** the stages that don't add up; empty when all do */
  readonly unbalanced: string;
}

/** One line of the file. */
interface Row extends Outcome {
  readonly fault: string;
  readonly note: string;
}

/** Adds a line, when somebody wants the table. */
export function record(fault: string, outcome: Outcome, note: string): void {
  const file = process.env["WEIR_FAULTS_TABLE"];
  const row: Row = { fault, ...outcome, note };
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
        row.disorder === 0 ? "kept" : `${row.disorder} late`,
        row.freshS.toFixed(1),
        row.unbalanced === "" ? "adds up" : row.unbalanced,
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
