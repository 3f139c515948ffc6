/** Compiles the pure C++ (ring, hash) with its tests under the address and undefined-behaviour sanitizers, and runs them. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const root = join(import.meta.dirname, "..", "..");
const hasCompiler = spawnSync("g++", ["--version"]).status === 0;
const programs = [
  { test: "ring_test.cc", sources: ["native/ring/ring.cc"], tests: 13 },
  { test: "crc32c_test.cc", sources: ["native/hash/crc32c.cc"], tests: 3 },
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
        const flags = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", ...sanitizers];
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
