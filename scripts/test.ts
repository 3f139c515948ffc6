/**
 * Runs every test and closes with one line of counts, taken from the runner's own report. A suite of which every
 * test was skipped fails the run in CI: it has shown nothing. Arguments go on to vitest.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";

interface FileReport {
  readonly name: string;
  readonly assertionResults: readonly { readonly status: string; readonly title: string }[];
  readonly message: string;
  readonly status: string;
}

const folder = mkdtempSync(join(tmpdir(), "weir-test-"));
const report = join(folder, "report.json");
const run = spawnSync(
  "vitest",
  ["run", "--reporter=default", "--reporter=json", `--outputFile.json=${report}`, ...process.argv.slice(2)],
  { stdio: "inherit" },
);
let files: readonly FileReport[] = [];
try {
  files = JSON.parse(readFileSync(report, "utf8")).testResults;
} catch {
  process.stderr.write("the test runner left no report\n");
}
rmSync(folder, { recursive: true, force: true });

const count = (...statuses: string[]): number =>
  files.reduce(
    (sum, file) => sum + file.assertionResults.filter((one) => statuses.includes(one.status)).length,
    0,
  );
const passed = count("passed");
// A file that could not even be collected reports no tests: it counts as one that failed.
const broken = files.filter(
  (file) => file.status === "failed" && file.assertionResults.every((one) => one.status !== "failed"),
).length;
const failed = count("failed") + broken;
const skipped = count("skipped", "pending", "todo", "disabled");

const suites = new Map<string, { ran: number; all: number }>();
for (const file of files) {
  const suite = relative("test", relative(process.cwd(), file.name)).split("/")[0] ?? "";
  const total = suites.get(suite) ?? { ran: 0, all: 0 };
  total.all += file.assertionResults.length;
  total.ran += file.assertionResults.filter(
    (one) => one.status === "passed" || one.status === "failed",
  ).length;
  suites.set(suite, total);
}
const silent = [...suites].filter(([, { ran, all }]) => all > 0 && ran === 0).map(([suite]) => suite);
for (const suite of silent) process.stderr.write(`every test of test/${suite} was skipped\n`);
const bad =
  run.status !== 0 || failed > 0 || passed === 0 || (process.env["CI"] !== undefined && silent.length > 0);

process.stdout.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`);
process.exitCode = bad ? 1 : 0;
