// Fuzzes everything in C++ that parses bytes, with libFuzzer under the address and undefined-behaviour sanitizers:
// `npm run fuzz -- [--seconds 60] [name…]`. Needs clang-16 and libclang-rt-16-dev. Starts from the seeds in test/fuzz/corpus; what it finds
// beyond them stays in build/fuzz/corpus for the next time, and an input that fails in build/fuzz.
// Exit code 1 when something fails, 2 when the tools are missing.
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parseArgs } from "node:util";

const xxHash = join(createRequire(import.meta.url).resolve("xxhash-addon/package.json"), "..", "xxHash");
const HASH = ["crc32c.cc", "hash.cc", "siphash.cc", "upstream_dispatch.c", "upstream_xxhash.c"];
const TARGETS = {
  ring: ["native/ring/ring.cc"],
  process: ["native/ring/process_rows.cc"],
  perf: ["native/perf/perf_ring.cc"],
  sockdiag: ["connections.cc", "listeners.cc", "sock_diag.cc"].map((name) => `native/net/${name}`),
  hash: HASH.map((name) => `native/hash/${name}`),
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: "string", default: "60" } },
});
const names = positionals.length > 0 ? positionals : Object.keys(TARGETS);
const unknown = names.filter((name) => !(name in TARGETS));
if (unknown.length > 0)
  throw new Error(`no such fuzzer: ${unknown.join(", ")}; there are ${Object.keys(TARGETS)}`);

const folder = join("build", "fuzz");
mkdirSync(folder, { recursive: true });
const clang = ["clang++-16", "clang++"].find((name) => spawnSync(name, ["--version"]).status === 0);
const sanitizers = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"];
if (clang === undefined || !canLink()) {
  console.log("fuzz: clang-16 or libclang-rt-16-dev is not installed, nothing fuzzed");
  process.exit(2);
}

/** Whether the fuzzer's own library is there. */
function canLink() {
  const source = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }';
  const args = [...sanitizers, "-x", "c++", "-", "-o", join(folder, "probe")];
  return spawnSync(clang, args, { input: source }).status === 0;
}

/** Builds and runs one fuzzer; resolves to whether it found nothing. */
async function fuzz(name) {
  const binary = join(folder, name);
  const flags = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated", `-I${xxHash}`];
  const sources = [`test/fuzz/${name}_fuzz.cc`, ...TARGETS[name]];
  const built = spawnSync(clang, [...flags, ...sanitizers, ...sources, "-o", binary], { encoding: "utf8" });
  if (built.status !== 0) {
    console.log(`fuzz ${name}: does not build\n${built.stderr}`);
    return false;
  }
  const corpus = join(folder, "corpus", name);
  mkdirSync(corpus, { recursive: true });
  const options = [
    `-max_total_time=${values.seconds}`,
    "-max_len=4096",
    `-artifact_prefix=${folder}/${name}-`,
  ];
  const child = spawn(binary, [...options, corpus, `test/fuzz/corpus/${name}`], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      output = (output + text).slice(-20_000);
    });
  }
  const code = await new Promise((resolve) => child.once("exit", resolve));
  const runs = /Done (\d+) runs/.exec(output)?.[1];
  if (code === 0 && runs !== undefined) {
    console.log(`fuzz ${name}: ${runs} runs in ${values.seconds} s, nothing found`);
    return true;
  }
  console.log(`fuzz ${name}: failed\n${output}`);
  return false;
}

let good = true;
for (const name of names) good = (await fuzz(name)) && good;
process.exitCode = good ? 0 : 1;
