/** The npm tarball, installed as people do it on a gateway: no compiler, no make, no python, no scripts of packages. */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Agent, AgentFolder, hasProgram, NPM_UNREACHABLE } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const lacks = ["npm", "gcc", "g++"].find((program) => !hasProgram(program));
/** What `bin/weir` calls, and what npm may. Anything else is not there. */
const TOOLS = ["sh", "env", "uname", "readlink", "dirname"];

describe.skipIf(lacks !== undefined)(
  `the packed tarball${lacks === undefined ? "" : ` (skipped: no ${lacks})`}`,
  () => {
    // Under /tmp whatever TMPDIR says, and open: the jail's user must be able to reach it.
    const dir = mkdtempSync(join(tmpdir(), "weir-packed-"));
    const prefix = join(dir, "prefix");
    const bin = join(dir, "bin");
    const installed = { weir: join(prefix, "bin", "weir"), environment: { PATH: bin, HOME: dir } };
    let offline: string | undefined;

    beforeAll(() => {
      spawnSync("chmod", ["755", dir]);
      const packed = spawnSync("node", ["scripts/pack.mjs", `--only=${process.arch}`, dir], {
        encoding: "utf8",
      });
      if (packed.status !== 0) throw new Error(packed.stderr);
      mkdirSync(bin);
      for (const tool of TOOLS) {
        const found = spawnSync("sh", ["-c", `command -v ${tool}`], { encoding: "utf8" }).stdout.trim();
        symlinkSync(found, join(bin, tool));
      }
      const npm = realpathSync(spawnSync("sh", ["-c", "command -v npm"], { encoding: "utf8" }).stdout.trim());
      const tarball = readdirSync(dir).find((name) => name.endsWith(".tgz")) ?? "";
      expect(statSync(join(dir, tarball)).size).toBeLessThan(25 * 2 ** 20);
      const args = ["install", "--global", "--prefix", prefix, "--ignore-scripts", "--prefer-offline"];
      // npm's cache and registry are the machine's own.
      const environment = { ...process.env, PATH: bin };
      const done = spawnSync(process.execPath, [npm, ...args, join(dir, tarball)], {
        env: environment,
        encoding: "utf8",
      });
      if (done.status !== 0 && NPM_UNREACHABLE.test(done.stderr)) offline = "npm can't reach a registry";
      else if (done.status !== 0) throw new Error(done.stderr);
    }, 600_000);
    afterAll(() => rmSync(dir, { recursive: true, force: true }));

    test("finds its addon and launcher, and its own Node, without a compiler on the PATH", (context) => {
      if (offline !== undefined) context.skip(offline);
      const check = spawnSync(installed.weir, ["check", "--json"], {
        cwd: dir,
        env: installed.environment,
        encoding: "utf8",
      });
      const findings: { subject: string; state: string; what: string }[] = JSON.parse(check.stdout);
      const state = (subject: string) => findings.find((finding) => finding.subject === subject)?.state;
      expect(findings.find(({ subject }) => subject === "node")?.what).toMatch(/^v26\./);
      expect(state("addon")).toBe("good");
      expect(state("jail: seccomp")).toBe("good");
    });

    test("runs jailed plugins: a device's message comes out changed", async (context) => {
      if (offline !== undefined) context.skip(offline);
      const folder = new AgentFolder();
      cpSync(join(prefix, "lib/node_modules/weir/plugins"), join(folder.dir, "plugins"), { recursive: true });
      const agent = await Agent.start(folder, [], installed);
      try {
        const samples = await agent.samples();
        const client = await agent.client();
        await client.publishAsync("devices/demo-1/telemetry", '{"temp_c":100}', { qos: 1 });
        const sample = await until("a sample", () => samples[0]);
        expect(sample).toMatchObject({ device: "demo-1", values: { temp_f: 212 } });
        await client.endAsync();
      } finally {
        expect(await agent.stop()).toBe(0);
        folder.remove();
      }
    });

    test("carries nothing that has to be compiled, and no binaryen", (context) => {
      if (offline !== undefined) context.skip(offline);
      const own = join(prefix, "lib/node_modules/weir");
      expect(readdirSync(own)).not.toContain("binding.gyp");
      expect(readdirSync(join(own, "node_modules"))).not.toContain("binaryen");
      expect(readdirSync(join(own, "node_modules"))).not.toContain("node-gyp");
    });
  },
);
