// Whether what is generated and committed is what the sources give: skeletons and sample plugins. Each needs tools that
// users don't have; where they are missing this says so and passes.
import { spawnSync } from "node:child_process";

let failed = false;
for (const [script, missing] of [
  ["gen-skeletons.mjs", 2],
  ["build-plugins.mjs", 3],
]) {
  const run = spawnSync(process.execPath, [`scripts/${script}`, "--check"], { stdio: "inherit" });
  if (run.status === missing) process.stdout.write(`${script}: tools missing, not checked\n`);
  else if (run.status !== 0) failed = true;
}
process.exitCode = failed ? 1 : 0;
