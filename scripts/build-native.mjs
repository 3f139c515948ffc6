// Builds the addon (build/Release/weir.node), the jail launcher (build/Release/weir-jail) and what that preloads; npm's `install` runs it.
//
// Quiet unless something fails. Weir also runs without either, with less, so a failed build says what is missing, how to get it
// and what won't work, and the installation goes on. With --strict a failure is exit code 1 (tests, packaging).
// Nothing is downloaded: the headers are those of the Node in node_modules, else of the one that is running.
// Plain JavaScript that Node 20 reads: npm may run it with the system's Node.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const strict = process.argv.includes("--strict");
const bundled = join(root, "node_modules", `node-linux-${process.arch}`);
const packages = { python3: "python3", make: "make", "g++": "g++" };
const targets = [
  {
    name: "weir",
    file: "weir.node",
    without: "kernel probes stay off and checksums are computed in JavaScript",
  },
  { name: "weir-jail", file: "weir-jail", without: "plugins stay off: they only run inside the jail" },
  {
    name: "weir-trim",
    file: "weir-trim.node",
    without: "the plugin host keeps memory that only its start needs",
  },
];

/** Says what went wrong and ends the process; with --strict as a failure. */
function giveUp(reason, remedy, missing) {
  console.error(`\nweir: the native parts were not built: ${reason}`);
  console.error(`weir: ${remedy}; then run: npm run install`);
  for (const target of missing) console.error(`weir: without ${target.file}, ${target.without}.`);
  process.exit(strict ? 1 : 0);
}

/** Folder with include/node/node_api.h, for node-gyp's --nodedir. */
function headers() {
  const folders = [bundled, dirname(dirname(process.execPath))];
  return folders.find((folder) => existsSync(join(folder, "include", "node", "node_api.h")));
}

function nodeGyp() {
  try {
    return createRequire(import.meta.url).resolve("node-gyp/bin/node-gyp.js");
  } catch {
    return undefined;
  }
}

function main() {
  if (process.platform !== "linux") giveUp(`this is ${process.platform}`, "use Linux", targets);
  const tools = Object.keys(packages).filter((tool) => spawnSync(tool, ["--version"]).status !== 0);
  if (tools.length > 0) {
    const names = tools.map((tool) => packages[tool]).join(" ");
    giveUp(
      `${tools.join(", ")} not found`,
      `install it (Debian, Ubuntu: apt-get install ${names}; Alpine: apk add ${names} linux-headers)`,
      targets,
    );
  }
  const nodedir = headers();
  if (nodedir === undefined) {
    giveUp(
      "no Node headers found",
      "run npm install without --omit=optional, or install your Node's headers",
      targets,
    );
  }
  const gyp = nodeGyp();
  if (gyp === undefined) giveUp("node-gyp is missing", "run npm install", targets);

  // node-gyp wants a newer Node than npm may be running on.
  const node = existsSync(join(bundled, "bin", "node")) ? join(bundled, "bin", "node") : process.execPath;
  const env = { ...process.env, PATH: `${dirname(node)}:${process.env.PATH}` };
  const run = (args) =>
    spawnSync(node, [gyp, ...args, `--nodedir=${nodedir}`, "--loglevel=error"], {
      cwd: root,
      env,
      encoding: "utf8",
    });

  const configured = run(["configure"]);
  if (configured.status !== 0) {
    console.error(configured.stdout + configured.stderr);
    giveUp("node-gyp could not configure the build", "see above", targets);
  }
  // One at a time: either is useful alone.
  const failed = targets.filter((target) => {
    const built = run(["build", target.name]);
    if (built.status !== 0) console.error(built.stdout + built.stderr);
    return built.status !== 0;
  });
  if (failed.length > 0) giveUp("the compiler failed", "see above", failed);
}

main();
