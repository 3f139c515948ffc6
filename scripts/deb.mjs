// Makes weir_<version>_<arch>.deb in the folder given (by default build/): `npm run deb -- [--arch arm64] [folder]`. Needs dpkg-deb.
//
// It is the npm tarball (scripts/pack.mjs) installed by npm, without scripts, into /usr/lib/weir, with the Node that came along cut
// down to its binary; deploy/debian has the maintainer scripts and the configuration, deploy/systemd the unit.
// --version is for tests of upgrades.
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { pack } from "./pack.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const DEBIAN = { x64: "amd64", arm64: "arm64" };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    arch: { type: "string", default: process.arch },
    version: { type: "string", default: manifest.version },
  },
});
const { arch, version } = values;
if (!(arch in DEBIAN)) throw new Error(`--arch is one of ${Object.keys(DEBIAN).join(", ")}`);
const into = resolve(positionals[0] ?? join(root, "build"));

function run(command, args) {
  const done = spawnSync(command, args, { encoding: "utf8" });
  if (done.status !== 0)
    throw new Error(`${command} ${args.join(" ")}: ${done.error ?? done.stdout + done.stderr}`);
}

/** Bytes of all files below. */
function sizeOf(path) {
  const stat = lstatSync(path);
  if (!stat.isDirectory()) return stat.size;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 4096);
}

/** The tree of the package, without its control files. */
async function fill(tree, work) {
  const tarball = await pack(work, { architectures: [arch], version });
  const options = ["--ignore-scripts", "--prefer-offline", "--os=linux", `--cpu=${arch}`];
  run("npm", ["install", "--global", "--prefix", join(work, "prefix"), ...options, tarball]);
  const weir = join(tree, "usr/lib/weir");
  mkdirSync(join(tree, "usr/lib"), { recursive: true });
  renameSync(join(work, "prefix/lib/node_modules/weir"), weir);

  // Headers, manuals, the sources of SQLite, and the builds for other systems.
  const node = join(weir, "node_modules", `node-linux-${arch}`);
  for (const name of ["include", "share"]) rmSync(join(node, name), { recursive: true, force: true });
  const sqlite = join(weir, "node_modules/better-sqlite3");
  for (const name of ["deps", "src"]) rmSync(join(sqlite, name), { recursive: true, force: true });
  for (const name of readdirSync(join(sqlite, "prebuilds"))) {
    if (name !== `linux-${arch}.node`) rmSync(join(sqlite, "prebuilds", name));
  }

  const copy = (from, to, mode) => {
    mkdirSync(join(tree, to, ".."), { recursive: true });
    cpSync(join(root, from), join(tree, to));
    chmodSync(join(tree, to), mode);
  };
  copy("deploy/systemd/weir.service", "usr/lib/systemd/system/weir.service", 0o644);
  copy("deploy/debian/weir.yaml", "etc/weir/weir.yaml", 0o640);
  copy("LICENSE", "usr/share/doc/weir/copyright", 0o644);
  mkdirSync(join(tree, "etc/weir/plugins"));
  mkdirSync(join(tree, "usr/bin"));
  symlinkSync("../lib/weir/bin/weir", join(tree, "usr/bin/weir"));
  run("chmod", ["-R", "u=rwX,go=rX", join(tree, "usr")]);
}

/** Control file, conffiles, maintainer scripts. */
function control(tree) {
  const kib = Math.ceil(sizeOf(tree) / 1024);
  const folder = join(tree, "DEBIAN");
  mkdirSync(folder);
  const fields = {
    Package: "weir",
    Version: version,
    Architecture: DEBIAN[arch],
    Maintainer: "Weir <weir@localhost>",
    "Installed-Size": kib,
    // What the Node inside needs; useradd.
    Depends: "libc6 (>= 2.28), libstdc++6, libgcc-s1, libatomic1, passwd",
    Section: "net",
    Priority: "optional",
    Description: `telemetry agent for edge gateways\n ${manifest.description}.\n It brings its own Node and leaves the system's alone.`,
  };
  const text = Object.entries(fields).map(([name, value]) => `${name}: ${value}\n`);
  writeFileSync(join(folder, "control"), text.join(""));
  writeFileSync(join(folder, "conffiles"), "/etc/weir/weir.yaml\n");
  for (const name of ["postinst", "prerm", "postrm"]) {
    cpSync(join(root, "deploy/debian", name), join(folder, name));
    chmodSync(join(folder, name), 0o755);
  }
}

const work = mkdtempSync(join(tmpdir(), "weir-deb-"));
try {
  const tree = join(work, "tree");
  mkdirSync(tree, { mode: 0o755 });
  await fill(tree, work);
  control(tree);
  mkdirSync(into, { recursive: true });
  const file = join(into, `weir_${version}_${DEBIAN[arch]}.deb`);
  // Most of it is Node's binary; at xz's best it would take a minute and be a tenth smaller.
  run("dpkg-deb", ["--root-owner-group", "-Zxz", "-z2", "--build", tree, file]);
  process.stdout.write(
    `${relative(process.cwd(), file)}: ${(statSync(file).size / 2 ** 20).toFixed(1)} MiB\n`,
  );
} finally {
  rmSync(work, { recursive: true, force: true });
}
