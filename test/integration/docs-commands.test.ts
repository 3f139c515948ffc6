import { spawnSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Agent, AgentFolder } from "../helpers/agent.ts";

/** Blocks that say `sh runnable` run as they stand, beside an agent whose weir.yaml lies in the working folder. */
const pages = [
  "README.md",
  ...readdirSync("docs", { recursive: true, encoding: "utf8" }).map((name) => `docs/${name}`),
];
const blocks = pages
  .filter((page) => page.endsWith(".md"))
  .flatMap((page) =>
    [...readFileSync(page, "utf8").matchAll(/^```sh runnable\n(.*?)^```$/gms)].map(
      ([, commands = ""], i) => [`${page}, block ${i + 1}`, commands] as const,
    ),
  );

describe("commands in the documents", () => {
  const folder = new AgentFolder({ sources: { kernel: { enabled: false }, system: { intervalMs: 300 } } });
  let agent: Agent;
  let http = "";
  beforeAll(async () => {
    cpSync("plugins/deadband", join(folder.dir, "plugins", "deadband"), { recursive: true });
    agent = await Agent.start(folder);
    http = (await folder.api.status()).http ?? "";
  });
  afterAll(async () => {
    await agent.kill();
    folder.remove();
  });

  test("are there", () => expect(blocks.length).toBeGreaterThan(2));

  test.each(blocks)("%s", (_name, commands) => {
    const { status, stdout, stderr } = spawnSync(
      "sh",
      ["-e", "-c", commands.replaceAll("127.0.0.1:7780", http)],
      {
        cwd: folder.dir,
        env: { ...process.env, PATH: `${resolve("bin")}:${process.env["PATH"]}` },
        encoding: "utf8",
        timeout: 60_000,
      },
    );
    expect(status, `${stdout}\n${stderr}`).toBe(0);
  });
});
