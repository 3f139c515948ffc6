// Checks the C++ and C of the addon and the launcher with clang-tidy (`npm run tidy`), where there is one; says so where there is
// none. The rules are in .clang-tidy. The kernel's side (native/bpf) has the verifier.
import { spawn, spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";

const require = createRequire(import.meta.url);
const packageFolder = (name) => dirname(require.resolve(`${name}/package.json`));
const system = [
  packageFolder("node-addon-api"),
  join(packageFolder(`node-linux-${process.arch}`), "include", "node"),
  join(packageFolder("xxhash-addon"), "xxHash"),
].flatMap((folder) => ["-isystem", folder]);
const defines = [
  "NAPI_VERSION=8",
  "NAPI_DISABLE_CPP_EXCEPTIONS",
  "NODE_ADDON_API_DISABLE_DEPRECATED",
  "WEIR_BENCH",
];

const program = ["clang-tidy-16", "clang-tidy"].find((name) => spawnSync(name, ["--version"]).status === 0);
if (program === undefined) {
  process.stdout.write("clang-tidy is not installed: C++ not checked\n");
} else {
  const files = readdirSync("native", { recursive: true, encoding: "utf8" })
    .filter((name) => /\.cc?$/.test(name) && !/\.bpf\.c$|^hash\/upstream_/.test(name))
    .map((name) => join("native", name));
  const turn = async () => {
    for (let file = files.pop(); file !== undefined; file = files.pop()) {
      const language = file.endsWith(".c") ? ["-std=gnu11"] : ["-std=c++20"];
      const flags = [...language, ...system, "-Inative/bpf/include", ...defines.map((name) => `-D${name}`)];
      const child = spawn(program, ["--quiet", file, "--", ...flags], {
        stdio: ["ignore", "inherit", "ignore"],
      });
      const code = await new Promise((resolve) => child.once("exit", resolve));
      if (code !== 0) process.exitCode = 1;
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, turn));
}
