/** mosquitto, Debian's, as the broker that Weir sends to: it keeps what it acknowledged for a judge that is away. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt from "mqtt";
import { freePort } from "../../helpers/free-port.ts";
import { until } from "../../helpers/until.ts";

/** How a broker is started. */
export interface MosquittoOptions {
  /** where it listens */
  readonly host: string;
  readonly port: number;
  /** more lines of its configuration */
  readonly more: readonly string[];
  /** put before the command */
  readonly wrap: readonly string[];
}

/** A running mosquitto. */
export class Mosquitto {
  readonly dir: string = mkdtempSync(join(tmpdir(), "weir-mosquitto-"));
  readonly #options: MosquittoOptions;
  #child: ChildProcess | undefined;

  private constructor(options: MosquittoOptions) {
    this.#options = options;
    const { host, port, more } = options;
    chmodSync(this.dir, 0o755);
    const lines = [
      `listener ${port} ${host}`,
      "allow_anonymous true",
      "user root",
      "max_queued_messages 0",
      "persistence true",
      `persistence_location ${this.dir}/`,
      ...more,
    ];
    writeFileSync(join(this.dir, "mosquitto.conf"), `${lines.join("\n")}\n`);
  }

  /** Starts one on a free port and waits until it answers. */
  static async start(options: Partial<MosquittoOptions> = {}): Promise<Mosquitto> {
    const port = options.port ?? (await freePort());
    const broker = new Mosquitto({ host: "127.0.0.1", more: [], wrap: [], ...options, port });
    await broker.run();
    return broker;
  }

  get port(): number {
    return this.#options.port;
  }

  /** Starts it (again), with what it had saved. */
  async run(): Promise<void> {
    const { wrap, host, port, more } = this.#options;
    const [program = "mosquitto", ...rest] = [...wrap, "mosquitto", "-c", join(this.dir, "mosquitto.conf")];
    this.#child = spawn(program, rest, { stdio: "ignore" });
    // With TLS or a network of its own, whoever connects finds out.
    if (more.length > 0 || wrap.length > 0) return;
    await until("mosquitto", async () => {
      const client = await mqtt
        .connectAsync(`mqtt://${host}:${port}`, { reconnectPeriod: 0, connectTimeout: 2_000 })
        .catch(() => undefined);
      await client?.endAsync(true);
      return client !== undefined;
    });
  }

  /** Ends it in order: it saves its queues. */
  async halt(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGTERM");
    await ended;
  }

  async remove(): Promise<void> {
    await this.halt();
    rmSync(this.dir, { recursive: true, force: true });
  }
}
