/** What people write into files is read in a thread of its own, and the agent itself loads nothing that only that needs. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WeirError } from "../../src/core/errors.ts";
import { pluginFiles } from "../../src/plugins/files.ts";
import { pluginsSchema } from "../../src/plugins/options.ts";
import { Reader } from "../../src/reader.ts";

let dir = "";
const file = (): string => join(dir, "weir.yaml");
const reader = new Reader();

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "weir-reader-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

test("a configuration comes as it is read here, with what it has of maps and sets", async () => {
  writeFileSync(
    file(),
    "broker: { port: 1884 }\nplugins: { scale: { order: 3 } }\nuplinks: { a: { url: 'mqtt://b:1', password: secret } }\n",
  );
  const { loaded, fallback } = await reader.chosen(file(), undefined);
  expect(fallback).toBeUndefined();
  expect(loaded.config.broker.port).toBe(1884);
  expect(loaded.config.plugins.plugins.get("scale")?.order).toBe(3);
  expect(loaded.secrets).toEqual(new Set(["secret"]));
});

const before = pluginsSchema.parse({ dir: "plugins" });

test("settings that a plugin's own schema refuses are an error of the configuration, unless they were in force before", async () => {
  const wrong = "plugins:\n  dir: plugins\n  deadband:\n    config: { band: wide }\n";
  writeFileSync(file(), wrong);
  await expect(reader.loaded(file(), before)).rejects.toMatchObject({
    code: "config.invalid",
    message: expect.stringMatching(`^${file()}:4: plugins.deadband: config: band: `),
  });
  const inForce = pluginsSchema.parse({ dir: "plugins", deadband: { config: { band: "wide" } } });
  await expect(reader.loaded(file(), inForce)).resolves.toMatchObject({ file: file() });
  writeFileSync(file(), wrong.replace("deadband", "not-here"));
  await expect(reader.loaded(file(), before)).resolves.toMatchObject({ file: file() });
  writeFileSync(file(), wrong.replace("wide }", "wide }\n    enabled: false"));
  await expect(reader.loaded(file(), before)).resolves.toMatchObject({ file: file() });
});

test("what is wrong with it comes with its code and every line", async () => {
  writeFileSync(file(), "broker: { port: no }\ncolour: red\n");
  const refused = await reader.loaded(file(), before).catch((thrown: unknown) => thrown);
  expect(refused).toBeInstanceOf(WeirError);
  expect(refused).toMatchObject({ code: "config.invalid" });
  expect(String(refused)).toContain(`${file()}:1`);
  expect(String(refused)).toContain(`${file()}:2`);
});

test("plugins are found as they are here, each time they are asked for", async () => {
  const here = await pluginFiles.discover("plugins");
  for (const there of [await reader.discover("plugins"), await reader.discover("plugins")])
    expect(there).toEqual(here);
  const [deadband] = here.candidates;
  if (deadband === undefined) throw new Error("no sample plugin");
  expect(await reader.config(deadband.manifest, {})).toBe(await pluginFiles.config(deadband.manifest, {}));
  await expect(reader.config(deadband.manifest, { band: {} })).rejects.toMatchObject({
    code: "plugin.refused",
  });
  await expect(reader.kept(join(dir, "none"))).rejects.toThrow("ENOENT");
});

test("a thread that was ended is followed by another one", async () => {
  await reader.wake().terminate();
  writeFileSync(file(), "# nothing\n");
  expect((await reader.loaded(file(), before)).file).toBe(file());
});

/** Files of ours and packages that a file imports when it is loaded. */
function importsOf(path: string, seen = new Set<string>()): Set<string> {
  seen.add(path);
  for (const [, clause = "", name = ""] of readFileSync(path, "utf8").matchAll(
    /^(?:import|export)\b([^;"]*?)(?:\bfrom )?"([^"]+)";$/gm,
  )) {
    if (clause.trimStart().startsWith("type ")) continue;
    const target = name.startsWith(".") ? resolve(dirname(path), name) : name;
    if (seen.has(target)) continue;
    if (name.startsWith(".")) importsOf(target, seen);
    else seen.add(target);
  }
  return seen;
}

test("an agent that runs has loaded no schema and no YAML", () => {
  const loaded = [
    ...["src/cli/main.ts", "src/cli/run.ts", "src/main.ts", "src/reload.ts"],
    ...["src/worker.ts", "src/uplink/mqtt.ts"],
  ].flatMap((path) => [...importsOf(resolve(path))]);
  expect(loaded).toContain(resolve("src/plugins/manager.ts"));
  expect(loaded).toContain("pino");
  expect(loaded.filter((name) => ["zod", "yaml"].includes(name))).toEqual([]);
});
