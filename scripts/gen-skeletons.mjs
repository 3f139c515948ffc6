// Regenerates native/bpf/<probe>.lskel.h from native/bpf/<probe>.bpf.c, and <probe>.raw.lskel.h where the source can be built
// for raw tracepoints, too (common.bpf.h). For developers: users compile what is committed.
//
//   node scripts/gen-skeletons.mjs           writes the skeletons
//   node scripts/gen-skeletons.mjs --check   compares only; exits 1 and names the ones that differ
//
// Needs Debian 12's clang-16, libbpf-dev and bpftool. Their versions are pinned: another clang gives other bytes, and
// another bpftool another agreement between skeleton and native/bpf/include/bpf/skel_internal.h. The result depends neither on
// the machine's kernel nor on where the tree lies.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../native/bpf/", import.meta.url));
const tools = [
  { name: "clang-16", args: ["--version"], version: /version (16)\./, wanted: "16", package: "clang-16" },
  { name: "bpftool", args: ["version"], version: /bpftool v(\d+\.\d+)/, wanted: "7.1", package: "bpftool" },
];

/** Runs a tool with the system folders of administrators on the path, where Debian puts bpftool. */
function run(name, args, cwd) {
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  return execFileSync(name, args, { cwd, env, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
}

for (const tool of tools) {
  let found;
  try {
    found = tool.version.exec(run(tool.name, tool.args, folder))?.[1];
  } catch {
    found = undefined;
  }
  if (found !== tool.wanted) {
    console.error(
      `${tool.name} ${tool.wanted} is needed, found ${found ?? "none"}: apt-get install ${tool.package} libbpf-dev`,
    );
    process.exit(2);
  }
}

/** Writes `target`.lskel.h, or remembers that it differs. */
function generate(source, target, name, defines) {
  const object = join(temporary, `${target}.o`);
  const flags = [
    "-g",
    "-O2",
    "-mcpu=v3",
    "-target",
    "bpf",
    "-Wall",
    "-Werror",
    `-ffile-prefix-map=${folder}=`,
  ];
  run(
    "clang-16",
    [...flags, ...defines, "-fdebug-compilation-dir=.", `-I${multiarch}`, "-c", source, "-o", object],
    folder,
  );
  const text = run("bpftool", ["gen", "skeleton", "-L", object, "name", name], folder);
  const path = join(folder, `${target}.lskel.h`);
  if (existsSync(path) && readFileSync(path, "utf8") === text) return;
  differing.push(target);
  if (!check) writeFileSync(path, text);
}

const check = process.argv.includes("--check");
const multiarch = `/usr/include/${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu`;
const temporary = mkdtempSync(join(tmpdir(), "weir-bpf-"));
const differing = [];
try {
  for (const source of readdirSync(folder)
    .filter((name) => name.endsWith(".bpf.c"))
    .sort()) {
    const probe = source.slice(0, -".bpf.c".length);
    generate(source, probe, `weir_${probe}`, []);
    if (/SEC\(TP "/.test(readFileSync(join(folder, source), "utf8")))
      generate(source, `${probe}.raw`, `weir_${probe}_raw`, ["-DWEIR_RAW"]);
  }
} finally {
  rmSync(temporary, { recursive: true });
}
if (differing.length > 0) console.log(`${check ? "out of date" : "written"}: ${differing.join(", ")}`);
if (check && differing.length > 0) process.exit(1);
