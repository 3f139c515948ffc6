/** Compiles the pure C++ (rings, hash) with its tests under the address and undefined-behaviour sanitizers, and runs them. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

// xxHash's sources, which that package carries.
const xxHash = join(createRequire(import.meta.url).resolve("xxhash-addon/package.json"), "..", "xxHash");
const root = join(import.meta.dirname, "..", "..");
const hasCompiler = spawnSync("g++", ["--version"]).status === 0;
const programs = [
  { test: "ring_test.cc", sources: ["native/ring/ring.cc"], tests: 14 },
  { test: "process_rows_test.cc", sources: ["native/ring/process_rows.cc"], tests: 5 },
  { test: "perf_ring_test.cc", sources: ["native/perf/perf_ring.cc"], tests: 13 },
  {
    test: "sock_diag_test.cc",
    sources: ["connections.cc", "listeners.cc", "sock_diag.cc"].map((name) => `native/net/${name}`),
    tests: 5,
  },
  { test: "crc32c_test.cc", sources: ["native/hash/crc32c.cc"], tests: 3 },
  {
    test: "hash_test.cc",
    sources: ["crc32c.cc", "hash.cc", "siphash.cc", "upstream_dispatch.c", "upstream_xxhash.c"].map(
      (name) => `native/hash/${name}`,
    ),
    tests: 5,
  },
];

describe.skipIf(!hasCompiler)(
  `native code under sanitizers${hasCompiler ? "" : " (skipped: no g++)"}`,
  () => {
    let folder = "";
    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), "weir-native-"));
    });
    afterAll(() => rmSync(folder, { recursive: true }));

    for (const program of programs) {
      test(`${program.test} passes`, () => {
        const binary = join(folder, program.test.replace(".cc", ""));
        const sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
        // GCC's own AVX-512 headers trip over that warning under the sanitizers.
        const quiet = "-Wno-maybe-uninitialized";
        const flags = [
          "-std=c++20",
          "-O1",
          "-g",
          "-Wall",
          "-Wextra",
          "-Werror",
          quiet,
          ...sanitizers,
          `-I${xxHash}`,
        ];
        const sources = [join("test/native", program.test), ...program.sources];
        const compiled = spawnSync("g++", [...flags, ...sources, "-o", binary], {
          cwd: root,
          encoding: "utf8",
        });
        expect(compiled.stderr).toBe("");
        const ran = spawnSync(binary, { encoding: "utf8" });
        expect(ran.stderr).toBe("");
        expect(ran.status).toBe(0);
        expect(ran.stdout.trim().split("\n").length).toBe(program.tests);
      });
    }
  },
);
