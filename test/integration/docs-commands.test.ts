/**
 * Commands in the documents run as they stand, beside an agent with the default ports, in a network of its own. Blocks that say `sh runnable` run as a
 * whole; those that say `sh live` line by line, side by side: what never ends has to print something.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { appendFileSync, cpSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

/** Blocks that are run elsewhere, by their first words. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  "npm ci --omit=dev && npm start": "a fresh clone's first step",
  "npm cit": "this run",
  "apt install ./weir_": "deb.test.ts, systemd.test.ts",
  "npm install --global ./weir-": "packed.test.ts",
  "apk add ": "nowhere, which the page says",
  "useradd --system": "deploy/debian/postinst does the same, and is run by deb.test.ts",
  "mosquitto_sub -h 127.0.0.1 -t 'weir/v1/+/data'": "recipes.test.ts",
  "sqlite3 -readonly": "recipes.test.ts",
  "node scripts/build-plugins.mjs tenth.c": "plugins-rebuild.test.ts",
};

const pages = [
  "README.md",
  ...readdirSync("docs", { recursive: true, encoding: "utf8" }).map((name) => `docs/${name}`),
].filter((page) => page.endsWith(".md"));
const blocks = pages.flatMap((page) =>
  [...readFileSync(page, "utf8").matchAll(/^```sh ?(\w*)\n(.*?)^```$/gms)].map(
    ([, kind = "", commands = ""], i) => ({ name: `${page}, block ${i + 1}`, kind, commands }),
  ),
);
const ofKind = (wanted: string) => blocks.filter(({ kind }) => kind === wanted);

test("every block of commands is run, here or elsewhere", () => {
  const untested = ofKind("").filter(
    ({ commands }) => !Object.keys(ELSEWHERE).some((start) => commands.startsWith(start)),
  );
  expect(untested.map(({ name }) => name)).toEqual([]);
  expect(ofKind("runnable").length).toBeGreaterThan(2);
});

const lacks =
  ["unshare", "nsenter", "ip", "mosquitto_pub", "curl", "jq"].find((program) => !hasProgram(program)) ??
  (process.getuid?.() === 0 ? undefined : "root");

describe.skipIf(lacks !== undefined)(
  `commands in the documents${lacks === undefined ? "" : ` (skipped: no ${lacks})`}`,
  () => {
    const folder = new AgentFolder({
      broker: { port: 1883 },
      http: { port: 7780 },
      sources: { kernel: { enabled: false }, system: { intervalMs: 300 } },
    });
    const plugin = join(folder.dir, "plugins", "deadband");
    let agent: Agent;
    let pid = 0;
    /** In the agent's network, with `weir` on the path, beside its weir.yaml. */
    const shell = (commands: string): readonly [string, readonly string[], object] => [
      "nsenter",
      ["--target", String(pid), "--net", "sh", "-e", "-c", commands],
      {
        cwd: folder.dir,
        env: { ...process.env, PATH: `${resolve("bin")}:${process.env["PATH"]}` },
        encoding: "utf8",
        timeout: 60_000,
        // A group of its own: a pipe of programs ends as one.
        detached: true,
      },
    ];

    beforeAll(async () => {
      cpSync("plugins/deadband", plugin, { recursive: true });
      cpSync(join(plugin, "deadband.wasm"), join(folder.dir, "new.wasm"));
      agent = await Agent.start(folder, [
        "unshare",
        "-n",
        "sh",
        "-c",
        'ip link set lo up && exec "$@"',
        "sh",
      ]);
      ({ pid } = await folder.api.status());
      // A second version, so that there is one to go back to: the same with a custom section more.
      const before = (await folder.api.plugins())[0]?.hash;
      appendFileSync(join(plugin, "deadband.wasm"), Buffer.from([0, 5, 4, ...Buffer.from("test")]));
      await until("the second version", async () => {
        const [now] = await folder.api.plugins();
        return now?.state === "on" && now.hash !== before;
      });
    });
    afterAll(async () => {
      await agent.kill();
      folder.remove();
    });

    test.each(ofKind("live"))("$name, line by line", async ({ commands }) => {
      const running: { line: string; child: ChildProcess; output: string; status?: number | null }[] = [];
      const lines = commands
        .split("\n")
        .filter((line) => line.trim() !== "")
        .map((line) => line.replace(/\s{2,}#.*$/, "").replace("npx weir", "weir"));
      try {
        for (const line of lines) {
          const child = spawn(...shell(line));
          const one = { line, child, output: "" };
          running.push(one);
          for (const stream of [child.stdout, child.stderr])
            stream?.setEncoding("utf8").on("data", (text: string) => {
              one.output += text;
            });
          child.once("close", (code) => Object.assign(one, { status: code }));
        }
        const done = ({ output, status }: (typeof running)[number]) =>
          status === 0 || (status === undefined && output.trim() !== "");
        await until("each to have ended well, or to have printed something", () => {
          for (const one of running) {
            // `weir check` finds things to mend on most machines, and `weir top` wants to be seen twice.
            const { line, output, status } = one;
            if (status !== undefined && status !== 0 && !/^weir check/.test(line))
              throw new Error(`${line}: ${status}\n${output}`);
          }
          return running.every((one) => done(one) || (/^weir check/.test(one.line) && one.output !== ""));
        });
      } finally {
        for (const { child, status } of running)
          if (status === undefined && child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      }
    });

    test.each(ofKind("runnable"))("$name", ({ commands }) => {
      const { status, stdout, stderr } = spawnSync(...shell(commands));
      expect(status, `${stdout}\n${stderr}`).toBe(0);
    });
  },
);
