/** `npm run bench [name…]`: runs bench/<name>.bench.ts, all of them without a name, one after the other. */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";

const all = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith(".bench.ts"))
  .map((file) => file.slice(0, -".bench.ts".length));
const wanted = process.argv.length > 2 ? process.argv.slice(2) : all;
const unknown = wanted.filter((name) => !all.includes(name));
if (unknown.length > 0) {
  console.error(`no such bench: ${unknown.join(", ")}; there are ${all.join(", ")}`);
  process.exit(2);
}
for (const name of wanted) {
  console.log(`\n# ${name}`);
  const run = spawnSync(process.execPath, [join(import.meta.dirname, `${name}.bench.ts`)], {
    stdio: "inherit",
  });
  if (run.status !== 0) process.exitCode = 1;
}
