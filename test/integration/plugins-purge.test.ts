/** `weir plugin purge`, with an agent and without one: what a plugin keeps outlasts its files until somebody says so. */
import { copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { afterAll, beforeAll, expect, test } from "vitest";
import { stringify } from "yaml";
import { Agent, AgentFolder, weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const folder = new AgentFolder({
  sources: { kernel: { enabled: false }, system: { enabled: false } },
});
const plugins = join(folder.dir, "plugins");
mkdirSync(plugins);
const dir = join(plugins, "counting");
let agent: Agent;

/** What the database has of the plugin: entries of its state, and whether anything is decided. */
function rows(): readonly unknown[] {
  const db = new Database(join(folder.dir, "data", "weir.db"), { readonly: true });
  try {
    const count = (sql: string): unknown => db.prepare(sql).pluck().get();
    return [
      count("SELECT count(*) FROM state WHERE plugin = 'counting'"),
      count("SELECT count(*) FROM setting WHERE key = 'plugin/counting'"),
    ];
  } finally {
    db.close();
  }
}
const versions = (): number => readdirSync(join(folder.dir, "data", "store")).length;
const plugin = (...args: readonly string[]): ReturnType<typeof weir> =>
  weir("plugin", ...args, "--config", folder.config);
const state = async (): Promise<string | undefined> =>
  (await folder.api.plugins()).find(({ name }) => name === "counting")?.state;

/** Puts the plugin there, and has it keep something. */
async function install(): Promise<void> {
  mkdirSync(dir, { recursive: true });
  copyFileSync("test/fixtures/plugins/counter.wasm", join(dir, "it.wasm"));
  const manifest = { name: "counting", version: "1.0.0", component: "it.wasm", needs: { state: true } };
  writeFileSync(join(dir, "plugin.yaml"), stringify({ ...manifest, limits: { timeMs: 10_000 } }));
  await until("the plugin", async () => (await state()) === "on");
  const device = await agent.client();
  await device.publishAsync("devices/d/t", '{"n":1}', { qos: 1 });
  await device.endAsync();
  await until("its state and version", () => rows().every((count) => count === 1) && versions() === 1);
}

beforeAll(async () => {
  agent = await Agent.start(folder);
});
afterAll(async () => {
  await agent.kill();
  folder.remove();
});

test("what is installed is not purged; what is removed is listed, and purged by the agent", async () => {
  await install();
  const { status, stderr } = plugin("purge", "counting");
  expect([status, stderr]).toEqual([1, expect.stringMatching(/is installed in .*plugin disable counting/)]);
  rmSync(dir, { recursive: true });
  await until("it to be gone", async () => (await state()) === undefined);
  expect(plugin("ls").stdout).toMatch(
    /counting is removed, and .* of state \(1 entry\) and 1 version .* kept/,
  );
  expect(JSON.parse(plugin("ls", "--json").stdout)).toMatchObject([
    {
      name: "counting",
      state: "removed",
      stateEntries: 1,
      versions: [expect.stringMatching(/^[0-9a-f]{64}$/)],
    },
  ]);
  expect(plugin("purge", "counting").stdout).toMatch(/^counting: .* 1 version .* removed\n$/);
  expect([...rows(), versions()]).toEqual([0, 0, 0]);
  expect(JSON.parse(plugin("ls", "--json").stdout)).toEqual([]);
  expect(plugin("purge", "counting").stderr).toContain("nothing is kept");
});

test("what is disabled is purged and stays disabled", async () => {
  await install();
  expect(plugin("disable", "counting").status).toBe(0);
  expect(plugin("purge", "counting").status).toBe(0);
  expect([...rows(), versions()]).toEqual([0, 1, 0]);
  expect(await state()).toBe("disabled");
  expect(plugin("enable", "counting").stdout).toContain("counting: on");
});

test("without an agent it is done in the data folder, by the same rules", async () => {
  await install();
  await agent.kill();
  expect(plugin("purge", "counting").stderr).toContain("is installed in");
  rmSync(dir, { recursive: true });
  expect(plugin("purge", "counting").status).toBe(0);
  expect([...rows(), versions()]).toEqual([0, 0, 0]);
  expect(plugin("purge", "counting").stderr).toContain("nothing is kept");
  agent = await Agent.start(folder);
  expect((await folder.api.readiness()).notes).toEqual([]);
});
