/** Runs the whole agent as people do, in a folder of its own. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import mqtt, { type MqttClient } from "mqtt";
import { stringify } from "yaml";
import { ApiClient } from "../../src/api/client.ts";
import { batchIn } from "../../src/batch-tools.ts";
import type { SampleObject } from "../../src/consume/batch.ts";
import { until } from "./until.ts";

const WEIR = resolve("bin/weir");

/** A folder for one agent, removed with {@link AgentFolder.remove}. */
export class AgentFolder {
  // Under /tmp whatever TMPDIR says: the jail's user must be able to reach it.
  readonly dir: string = mkdtempSync(join(tmpdir(), "weir-agent-"));
  readonly config: string = join(this.dir, "weir.yaml");
  readonly api: ApiClient = new ApiClient(join(this.dir, "data", "weir.sock"));

  /** Writes the configuration over sensible values for a test: gateway `gw`, any free port, no plugins. */
  constructor(config: Readonly<Record<string, unknown>> = {}) {
    spawnSync("chmod", ["755", this.dir]);
    // As in a clone: above the data folder, and not the jail's to read.
    writeFileSync(join(this.dir, "package.json"), "{}");
    const base = {
      gateway: { name: "gw" },
      data: { dir: join(this.dir, "data") },
      broker: { port: 0 },
      http: { port: 0 },
      plugins: { dir: join(this.dir, "plugins") },
    };
    writeFileSync(this.config, stringify({ ...base, ...config }));
  }

  remove(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** A running agent. */
export class Agent {
  readonly child: ChildProcess;
  readonly folder: AgentFolder;
  /** everything it printed */
  output = "";
  readonly exited: Promise<number | null>;

  private constructor(folder: AgentFolder, command: readonly string[], environment: NodeJS.ProcessEnv) {
    this.folder = folder;
    const [program = WEIR, ...args] = command;
    this.child = spawn(program, args, {
      cwd: folder.dir,
      env: environment,
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.output += text;
      });
    }
    this.exited = new Promise((done) => this.child.once("exit", (code) => done(code)));
  }

  /** Starts an agent and waits until it is ready. `wrap` is put before the command; `installed` is another than this tree's. */
  static async start(
    folder: AgentFolder,
    wrap: readonly string[] = [],
    installed: { readonly weir: string; readonly environment: NodeJS.ProcessEnv } = {
      weir: WEIR,
      environment: process.env,
    },
  ): Promise<Agent> {
    const command = [...wrap, installed.weir, "run", "--config", folder.config];
    const agent = new Agent(folder, command, installed.environment);
    const ended = agent.exited.then((code) => {
      throw new Error(`the agent ended with ${code} before it was ready:\n${agent.output}`);
    });
    const ready = until("the agent to be ready", () => agent.output.includes("weir is ready"));
    ended.catch(() => {});
    await Promise.race([ready, ended]).catch((thrown: unknown) => {
      throw new Error(`${String(thrown)}\n${agent.output}`);
    });
    return agent;
  }

  /** Host and port of its broker. */
  async broker(): Promise<string> {
    const { broker } = await this.folder.api.status();
    if (broker === undefined) throw new Error(`no embedded broker:\n${this.output}`);
    return broker;
  }

  /** A client of its broker, connected. */
  async client(): Promise<MqttClient> {
    return await mqtt.connectAsync(`mqtt://${await this.broker()}`, { reconnectPeriod: 0 });
  }

  /** Samples of stream `data` as a local subscriber gets them from now on: the list grows. */
  async samples(): Promise<readonly SampleObject[]> {
    const client = await this.client();
    const samples: SampleObject[] = [];
    client.on("message", (_topic, payload) => samples.push(...(batchIn(payload)?.samples ?? [])));
    await client.subscribeAsync("weir/v1/gw/data", { qos: 1 });
    return samples;
  }

  /** Ends it as a service manager does; resolves to the exit code. */
  async stop(): Promise<number | null> {
    this.child.kill("SIGTERM");
    return await this.exited;
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.exited;
  }
}

/** Runs one command of the command line to its end. */
export function weir(...args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(WEIR, args, { encoding: "utf8", timeout: 120_000 });
}

/** Whether a program is on the PATH. */
export const hasProgram = (name: string): boolean =>
  spawnSync("sh", ["-c", `command -v ${name}`]).status === 0;

/** How npm says that it reaches no registry. */
export const NPM_UNREACHABLE = /ENOTFOUND|EAI_AGAIN|EAI_FAIL|ECONNREFUSED|ETIMEDOUT|ENETUNREACH|ENOTCACHED/;
