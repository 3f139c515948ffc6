/** Node-RED without its editor, where it is installed: on the PATH, at `NODE_RED`, or in build/tools, where .ci/run puts it. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { until } from "./until.ts";

const onPath = spawnSync("sh", ["-c", "command -v node-red"], { encoding: "utf8" }).stdout.trim();

/** Its command; undefined where it is not installed. */
export const nodeRed: string | undefined = [
  process.env["NODE_RED"] ?? "",
  onPath,
  resolve("build/tools/node_modules/.bin/node-red"),
].find((path) => path !== "" && existsSync(path));

/** Nobody can change its flows, and it asks nothing of the network but what they say. */
const SETTINGS = `module.exports = {
  httpAdminRoot: false, httpNodeRoot: false, uiHost: "127.0.0.1", uiPort: 0, credentialSecret: false,
  telemetry: { enabled: false }, logging: { console: { level: "info" } },
};`;

/** A running Node-RED. */
export interface RunningNodeRed {
  readonly child: ChildProcess;
  stop(): Promise<void>;
}

/** Runs a flow; resolves once it has started. */
export async function startNodeRed(flow: readonly object[]): Promise<RunningNodeRed> {
  const dir = mkdtempSync(join(tmpdir(), "weir-node-red-"));
  writeFileSync(join(dir, "settings.js"), SETTINGS);
  writeFileSync(join(dir, "flow.json"), JSON.stringify(flow));
  const args = ["--userDir", dir, "--settings", join(dir, "settings.js"), join(dir, "flow.json")];
  const child = spawn(nodeRed ?? "node-red", args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  const exited = new Promise<void>((done) => child.once("exit", () => done()));
  const stop = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    await until("Node-RED to start its flows", () => output.includes("Started flows"), 60_000);
  } catch (thrown) {
    await stop();
    throw new Error(`${String(thrown)}\n${output}`);
  }
  return { child, stop };
}
