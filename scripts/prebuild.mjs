// Builds the addon and the jail launcher for another machine to use: prebuilds/linux-<arch>/{weir.node, weir-jail, weir-trim.node}.
//
// The build is binding.gyp's, in a folder of its own, stripped. libstdc++ stays the machine's: Node needs it as well, and in a
// newer version than the addon does; linked in, it would ask for a newer C library than Node's. Debian's
// g++-aarch64-linux-gnu cross-compiles for arm64 on x64, g++-x86-64-linux-gnu the other way round.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const require = createRequire(import.meta.url);
const TRIPLES = { x64: "x86_64-linux-gnu", arm64: "aarch64-linux-gnu" };

/** The architectures that prebuilds are made for. */
export const ARCHITECTURES = Object.keys(TRIPLES);

/** The compiler for an architecture, or undefined where it is not installed. */
export function compilerFor(arch) {
  const prefix = arch === process.arch ? "" : `${TRIPLES[arch]}-`;
  const found = ["gcc", "g++"].every((tool) => spawnSync(`${prefix}${tool}`, ["--version"]).status === 0);
  return found ? { CC: `${prefix}gcc`, CXX: `${prefix}g++` } : undefined;
}

/**
 * Builds for one architecture into `<into>/linux-<arch>`.
 * @throws Error with the compiler's words
 */
export function prebuild(arch, into) {
  const compiler = compilerFor(arch);
  if (compiler === undefined)
    throw new Error(`no compiler for ${arch}: install g++-${TRIPLES[arch].replace("_", "-")}`);
  mkdirSync(join(root, "build"), { recursive: true });
  const folder = mkdtempSync(join(root, "build", "prebuild-"));
  try {
    for (const name of ["binding.gyp", "native", "node_modules", "package.json"]) {
      symlinkSync(join(root, name), join(folder, name));
    }
    build(arch, compiler, folder);
    const target = join(into, `linux-${arch}`);
    mkdirSync(target, { recursive: true });
    for (const name of ["weir.node", "weir-jail", "weir-trim.node"]) {
      cpSync(join(folder, "build", "Release", name), join(target, name));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs node-gyp in a folder that binding.gyp lies in. */
function build(arch, compiler, folder) {
  const nodedir = join(dirname(require.resolve(`node-linux-${process.arch}/package.json`)));
  const gyp = require.resolve("node-gyp/bin/node-gyp.js");
  const LDFLAGS = "-s";
  // Paths of this machine are nothing that a release should carry.
  const flags = `-ffile-prefix-map=${root}=. -ffile-prefix-map=${folder}=.`;
  const env = {
    ...process.env,
    ...compiler,
    LDFLAGS,
    CFLAGS: flags,
    CXXFLAGS: flags,
    PATH: `${dirname(process.execPath)}:${process.env["PATH"]}`,
  };
  const args = ["rebuild", `--arch=${arch}`, `--nodedir=${nodedir}`, "--loglevel=error"];
  const built = spawnSync(process.execPath, [gyp, ...args], { cwd: folder, env, encoding: "utf8" });
  if (built.status !== 0) throw new Error(`${built.stdout}${built.stderr}`);
}
