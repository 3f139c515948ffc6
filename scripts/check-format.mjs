// Checks the C and C++ sources with clang-format, where there is one; says so where there is none.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";

const program = ["clang-format-16", "clang-format"].find(
  (name) => spawnSync(name, ["--version"]).status === 0,
);
const files = ["native", "plugins", "wit", "test/fixtures"].flatMap((folder) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(?:cc|c|h)$/.test(name) && !name.endsWith(".lskel.h"))
    .map((name) => join(folder, name)),
);
if (program === undefined) {
  process.stdout.write("clang-format is not installed: C and C++ formatting not checked\n");
} else {
  process.exitCode =
    spawnSync(program, ["--dry-run", "--Werror", ...files], { stdio: "inherit" }).status ?? 1;
}
