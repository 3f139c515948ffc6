// Makes the npm tarball, weir-<version>.tgz, in the folder given (by default build/): `npm run pack`.
//
// It installs without a compiler and without scripts: src/ and its dependencies bundled (bundle.mjs), the addon and the launcher prebuilt for x64 and
// arm64, and of the transpiler the two wasm tools that vetting uses, without what they don't need (binaryen alone is 93 MB).
// --only=x64 leaves the other architecture out; for tests.
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { bundle, NOT_BUNDLED } from "./bundle.mjs";
import { ARCHITECTURES, prebuild } from "./prebuild.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const require = createRequire(import.meta.url);
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

/** Taken along as they are. */
const COPIED = ["bin", "deploy", "docs", "plugins", "wit", "CHANGELOG.md", "LICENSE", "README.md"];
const TRANSPILER = "@bytecodealliance/jco-transpile";
const TRANSPILER_FILES = [
  "LICENSE",
  "README.md",
  "dist/wasm-tools.js",
  "vendor/js-component-bindgen-component.core.wasm",
  "vendor/js-component-bindgen-component.core2.wasm",
  "vendor/js-component-bindgen-component.js",
  "vendor/wasm-tools.core.wasm",
  "vendor/wasm-tools.core2.wasm",
  "vendor/wasm-tools.js",
];

function run(command, args, cwd) {
  const done = spawnSync(command, args, { cwd, encoding: "utf8" });
  if (done.status !== 0)
    throw new Error(`${command} ${args.join(" ")}: ${done.error ?? done.stdout + done.stderr}`);
  return done.stdout;
}

const writeJson = (path, value) => writeFileSync(path, `${JSON.stringify(value, undefined, 2)}\n`);

/** Lays the package out in an empty folder. What is bundled, or only builds, is no dependency of it. */
async function layOut(folder, architectures, version) {
  await bundle(join(folder, "dist"));
  for (const name of COPIED) cpSync(join(root, name), join(folder, name), { recursive: true });
  for (const arch of architectures) prebuild(arch, join(folder, "prebuilds"));
  chmodSync(join(folder, "bin", "weir"), 0o755);
  const xxhash = join(dirname(require.resolve("xxhash-addon/package.json")), "LICENSE");
  cpSync(xxhash, join(folder, "prebuilds", "LICENSE-xxHash"));

  const dependencies = NOT_BUNDLED.map((name) => [name, manifest.dependencies[name]]);
  const { scripts: _scripts, devDependencies: _dev, ...rest } = manifest;
  writeJson(join(folder, "package.json"), {
    ...rest,
    version,
    cpu: ARCHITECTURES,
    dependencies: Object.fromEntries(dependencies),
    bundleDependencies: [TRANSPILER],
  });
  bundleTranspiler(join(folder, "node_modules", TRANSPILER));
}

/** The transpiler, its tools alone; its package.json says which files those are. */
function bundleTranspiler(folder) {
  const from = dirname(dirname(fileURLToPath(import.meta.resolve(`${TRANSPILER}/component`))));
  for (const name of TRANSPILER_FILES) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    cpSync(join(from, name), join(folder, name));
  }
  const { name, version, license, repository, exports } = JSON.parse(
    readFileSync(join(from, "package.json"), "utf8"),
  );
  const kept = Object.entries(exports)
    .filter(([path]) => ["./component", "./wasm-tools"].includes(path))
    .map(([path, { default: file }]) => [path, file]);
  const description =
    "The component and wasm-tools parts of jco-transpile, as published; the rest is left out.";
  writeJson(join(folder, "package.json"), {
    name,
    version,
    description,
    license,
    repository,
    type: "module",
    exports: Object.fromEntries(kept),
  });
}

/**
 * Makes the tarball in a folder and says where it is.
 * @param version other than package.json's: for tests of upgrades
 */
export async function pack(into, { architectures = ARCHITECTURES, version = manifest.version } = {}) {
  mkdirSync(join(root, "build"), { recursive: true });
  const folder = mkdtempSync(join(root, "build", "package-"));
  try {
    await layOut(folder, architectures, version);
    mkdirSync(into, { recursive: true });
    const [packed] = JSON.parse(run("npm", ["pack", "--json", "--pack-destination", into], folder));
    return join(into, packed.filename);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { only: { type: "string" } },
  });
  const architectures = values.only === undefined ? ARCHITECTURES : [values.only];
  const file = await pack(resolve(positionals[0] ?? join(root, "build")), { architectures });
  process.stdout.write(
    `${relative(process.cwd(), file)}: ${(statSync(file).size / 2 ** 20).toFixed(1)} MiB\n`,
  );
}
