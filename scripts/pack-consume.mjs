// Makes the tarball of the consumer library, weir-consume-<version>.tgz, in the folder given (by default build/): `npm run
// pack:consume`. It is src/consume/ and what that imports of src/core/, as JavaScript with types; it depends on nothing.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

function run(command, args, cwd) {
  const done = spawnSync(command, args, { cwd, encoding: "utf8" });
  if (done.status !== 0)
    throw new Error(`${command} ${args.join(" ")}: ${done.error ?? done.stdout + done.stderr}`);
  return done.stdout;
}

const writeJson = (path, value) => writeFileSync(path, `${JSON.stringify(value, undefined, 2)}\n`);

/** Makes the tarball in a folder and says where it is. */
export function packConsume(into) {
  const { version, license } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  mkdirSync(join(root, "build"), { recursive: true });
  const folder = mkdtempSync(join(root, "build", "consume-"));
  try {
    writeJson(join(folder, "tsconfig.json"), {
      extends: join(root, "tsconfig.build.json"),
      compilerOptions: { declaration: true, rootDir: join(root, "src"), outDir: join(folder, "dist") },
      include: [],
      files: [join(root, "src", "consume", "index.ts")],
    });
    run(join(root, "node_modules", ".bin", "tsc"), ["-p", folder], root);
    rmSync(join(folder, "tsconfig.json"));
    cpSync(join(root, "docs", "weir-consume.md"), join(folder, "README.md"));
    cpSync(join(root, "LICENSE"), join(folder, "LICENSE"));
    writeJson(join(folder, "package.json"), {
      name: "weir-consume",
      version,
      description:
        "Reads what Weir publishes over MQTT: every encoding, each batch once, with what is missing",
      license,
      type: "module",
      engines: { node: ">=22.15" },
      exports: { ".": { types: "./dist/consume/index.d.ts", default: "./dist/consume/index.js" } },
      files: ["dist"],
    });
    mkdirSync(into, { recursive: true });
    const [packed] = JSON.parse(run("npm", ["pack", "--json", "--pack-destination", into], folder));
    return join(into, packed.filename);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const file = packConsume(resolve(process.argv[2] ?? join(root, "build")));
  process.stdout.write(`${relative(process.cwd(), file)}\n`);
}
