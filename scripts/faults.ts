/** Runs the fault suite in its long form and ends with one table: a line for each fault. Arguments go on to vitest. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tableOf } from "../test/faults/harness/table.ts";

const folder = mkdtempSync(join(tmpdir(), "weir-faults-"));
const table = join(folder, "table.ndjson");
writeFileSync(table, "");
const run = spawnSync(
  process.execPath,
  [join(import.meta.dirname, "test.ts"), "--project", "faults", ...process.argv.slice(2)],
  { stdio: "inherit", env: { WEIR_LONG: "1", ...process.env, WEIR_FAULTS_TABLE: table } },
);
process.stdout.write(`\n${tableOf(readFileSync(table, "utf8"))}\n`);
rmSync(folder, { recursive: true });
process.exitCode = run.status ?? 1;
