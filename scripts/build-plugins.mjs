/**
 * Builds plugins' components: those of the samples, `plugins/<name>/<name>.wasm`, from their sources.
 *
 *   node scripts/build-plugins.mjs [--check] [--out <folder>] [name…]
 *   node scripts/build-plugins.mjs <file.c|file.js> [--world <world>]
 *
 * The second form builds any other plugin: the component goes beside its source, for a world of wit/weir.wit (transform-plugin).
 * `--check` writes nothing and fails when a committed component is not what its source makes: C byte for byte (the same
 * compiler gives the same bytes); JavaScript by the digest of its inputs, which every build records in the component,
 * because a snapshot of the QuickJS engine contains random hash seeds. `--out` writes `<folder>/<name>.wasm` instead.
 *
 * Needs clang-16 and wasm-ld-16 for C, the development dependencies for all. Exit codes: 0 good, 1 failed or different,
 * 2 wrong usage, 3 a tool is missing (named).
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const wit = join(root, "wit", "weir.wit");

const plugins = [
  { name: "deadband", source: "deadband.c", world: "transform-plugin" },
  { name: "scale", source: "scale.js", world: "transform-plugin" },
];

/** The name of a tool or package that a build needs and this machine lacks. */
export class MissingTool extends Error {
  constructor(tool, cause) {
    super(`missing: ${tool}`, { cause });
  }
}

function run(tool, args) {
  try {
    execFileSync(tool, args, { stdio: ["ignore", "inherit", "inherit"] });
  } catch (error) {
    throw error.code === "ENOENT" ? new MissingTool(tool, error) : error;
  }
}

/** Imports a package that only builds need. */
export async function load(name) {
  try {
    return await import(name);
  } catch (error) {
    throw new MissingTool(`${name} (a development dependency)`, error);
  }
}

/**
 * Compiles freestanding C against wit/c/weir.h into a core module. Compiler and linker are called one by one: clang as a
 * linker driver would also run whatever `wasm-opt` it finds.
 */
export function compileC(source, flags = []) {
  const work = mkdtempSync(join(tmpdir(), "weir-build-"));
  try {
    const [object, linked] = [join(work, "guest.o"), join(work, "guest.wasm")];
    const compile = [
      "--target=wasm32",
      "-std=c17",
      "-O3",
      "-ffreestanding",
      "-mbulk-memory",
      "-Wall",
      "-Wextra",
      "-Werror",
    ];
    run("clang-16", [...compile, ...flags, "-I", join(root, "wit", "c"), "-c", "-o", object, source]);
    run("wasm-ld-16", [
      "--no-entry",
      "--strip-all",
      "--stack-first",
      "-z",
      "stack-size=65536",
      "-o",
      linked,
      object,
    ]);
    return readFileSync(linked);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Makes a component of a core module; `witSource` defaults to the contract's. */
export async function componentOf(core, world, witSource = readFileSync(wit, "utf8"), adapters = []) {
  const { componentEmbed, componentNew } = await load("@bytecodealliance/jco");
  return componentNew(await componentEmbed({ binary: core, witSource, world }), adapters);
}

/** Makes a component of a JavaScript module: QuickJS without async, WASI replaced by traps. */
export async function componentOfJs(source, world) {
  const { componentize } = await load("componentize-qjs");
  const jsSource = readFileSync(source, "utf8");
  const { component } = await componentize({
    witPath: wit,
    jsSource,
    jsPath: source,
    world,
    sync: true,
    stubWasi: true,
  });
  return Buffer.concat([component, customSection(DIGEST, digestOf(source))]);
}

const DIGEST = "weir.source-sha256";

function digestOf(source) {
  const { devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const hash = createHash("sha256").update(devDependencies["@bytecodealliance/jco"]);
  for (const file of [source, wit]) hash.update(createHash("sha256").update(readFileSync(file)).digest());
  return hash.digest();
}

/** A custom section of a wasm binary: id 0, size, name, content; each part under 128 bytes, so every length is one byte. */
function customSection(name, content) {
  const body = Buffer.concat([Buffer.of(name.length), Buffer.from(name), content]);
  return Buffer.concat([Buffer.of(0, body.length), body]);
}

/** Builds one sample plugin; returns the component's bytes. */
const build = ({ name, source, world }) => buildSource(join(root, "plugins", name, source), world);

async function buildSource(path, world) {
  return path.endsWith(".c") ? componentOf(compileC(path), world) : componentOfJs(path, world);
}

/** Builds somebody's own plugin, beside its source. */
async function buildOwn(source, world) {
  const target = source.replace(/\.(?:c|js)$/, ".wasm");
  try {
    const bytes = await buildSource(source, world);
    writeFileSync(target, bytes);
    console.log(`${target}: ${bytes.length} bytes`);
    return 0;
  } catch (error) {
    // What the compiler has against it stands above already.
    const missing = error instanceof MissingTool;
    console.error(
      missing ? `${source}: ${error.message}` : `${source}: not built: ${error.message ?? error}`,
    );
    return missing ? 3 : 1;
  }
}

/** Whether a committed component is what its source makes now. */
async function isCurrent(plugin) {
  const committed = readFileSync(join(root, "plugins", plugin.name, `${plugin.name}.wasm`));
  if (plugin.source.endsWith(".c")) return committed.equals(await build(plugin));
  const section = customSection(DIGEST, digestOf(join(root, "plugins", plugin.name, plugin.source)));
  return committed.subarray(-section.length).equals(section);
}

async function main(args) {
  const out = args.includes("--out") ? args.splice(args.indexOf("--out"), 2)[1] : undefined;
  const world = args.includes("--world") ? args.splice(args.indexOf("--world"), 2)[1] : "transform-plugin";
  const [own] = args;
  if (args.length === 1 && /\.(?:c|js)$/.test(own) && existsSync(own) && world !== undefined)
    return await buildOwn(own, world);
  const check = args.includes("--check");
  const names = args.filter((arg) => arg !== "--check");
  const unknown = names.find((name) => !plugins.some((plugin) => plugin.name === name));
  if (unknown !== undefined || (out === undefined && process.argv.includes("--out"))) {
    console.error(
      `usage: build-plugins.mjs [--check] [--out <folder>] [${plugins.map(({ name }) => name).join("|")}…]\n` +
        "       build-plugins.mjs <file.c|file.js> [--world <world of wit/weir.wit>]",
    );
    return 2;
  }
  let code = 0;
  for (const plugin of plugins.filter(({ name }) => names.length === 0 || names.includes(name))) {
    try {
      if (check) {
        const current = await isCurrent(plugin);
        console.log(`${plugin.name}: ${current ? "current" : "DIFFERS from its source: rebuild it"}`);
        if (!current) code = 1;
        continue;
      }
      const bytes = await build(plugin);
      const folder = out ?? join(root, "plugins", plugin.name);
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, `${plugin.name}.wasm`), bytes);
      console.log(`${plugin.name}: ${bytes.length} bytes`);
    } catch (error) {
      if (!(error instanceof MissingTool)) throw error;
      console.error(`${plugin.name}: ${error.message}`);
      code = 3;
    }
  }
  return code;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main(process.argv.slice(2));
