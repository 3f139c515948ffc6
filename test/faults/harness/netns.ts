/** A network namespace behind a virtual cable, where a broker lives and packets can be lost or slowed down. */
import { spawnSync } from "node:child_process";
import { expect } from "vitest";

const run = (command: string): boolean => spawnSync("sh", ["-c", command], { stdio: "ignore" }).status === 0;

/** A far end of this process's own. */
export class FarNetwork {
  readonly #name = `weir-${process.pid}`;
  readonly #net = `10.213.${process.pid % 250}`;
  readonly near = `w${process.pid}a`;
  readonly far = `w${process.pid}b`;
  /** address of the far end */
  readonly host = `${this.#net}.2`;
  /** put before a command that is to run there */
  readonly wrap: readonly string[] = ["ip", "netns", "exec", this.#name];

  /** Makes it, and gives what this kernel lacks for it, or undefined. */
  make(): string | undefined {
    const { near, far } = this;
    const name = this.#name;
    const steps: readonly (readonly [string, string])[] = [
      ["ip", "command -v ip"],
      ["network namespaces", `ip netns add ${name}`],
      ["veth", `ip link add ${near} type veth peer name ${far} netns ${name}`],
      ["addresses", `ip addr add ${this.#net}.1/24 dev ${near} && ip link set ${near} up`],
      [
        "addresses",
        `ip netns exec ${name} sh -c 'ip addr add ${this.host}/24 dev ${far} && ip link set ${far} up && ip link set lo up'`,
      ],
    ];
    for (const [what, command] of steps) {
      if (run(command)) continue;
      this.remove();
      return what;
    }
    return undefined;
  }

  /** Runs a command at the far end; fails the test when it does. */
  exec(command: string): void {
    expect(run(`ip netns exec ${this.#name} ${command}`), command).toBe(true);
  }

  /** Whether a command works at the far end. */
  can(command: string): boolean {
    return run(`ip netns exec ${this.#name} ${command}`);
  }

  remove(): void {
    run(`ip link del ${this.near}`);
    run(`ip netns del ${this.#name}`);
  }
}
