/** A whole agent that needs two capabilities to start, and gives them up. */
import { spawnSync } from "node:child_process";
import { chownSync, readdirSync, readFileSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { Agent, AgentFolder, weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";
import { missing } from "./helpers.ts";

const NOBODY = 65_534;
const CAPABILITIES = (1n << 38n) | (1n << 39n);
const lacking =
  missing !== ""
    ? missing
    : process.getuid?.() !== 0
      ? "not root"
      : spawnSync("setpriv", ["--version"]).status !== 0
        ? "no setpriv"
        : "";

/** The capabilities that any thread of a process holds. */
function heldBy(pid: number): bigint {
  let held = 0n;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8");
    for (const [, hex] of status.matchAll(/^Cap(?:Inh|Prm|Eff|Amb):\s*([0-9a-f]+)$/gm))
      held |= BigInt(`0x${hex}`);
  }
  return held;
}

describe.skipIf(lacking !== "")(`lock-down${lacking === "" ? "" : ` (skipped: ${lacking})`}`, () => {
  const cleanups: (() => unknown)[] = [];
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });

  async function asNobody(
    lockDown: boolean,
    capabilities = "-all,+bpf,+perfmon",
  ): Promise<{ agent: Agent; folder: AgentFolder }> {
    const folder = new AgentFolder({ sources: { kernel: { intervalMs: 200, lockDown } } });
    cleanups.push(() => folder.remove());
    chownSync(folder.dir, NOBODY, NOBODY);
    const agent = await Agent.start(folder, [
      "setpriv",
      `--reuid=${NOBODY}`,
      `--regid=${NOBODY}`,
      "--clear-groups",
      `--inh-caps=${capabilities}`,
      `--ambient-caps=${capabilities}`,
    ]);
    cleanups.push(() => agent.kill());
    return { agent, folder };
  }

  test("an agent of nobody with CAP_BPF and CAP_PERFMON runs probes, also on demand", async () => {
    const { agent, folder } = await asNobody(false);
    expect(heldBy(agent.child.pid ?? 0) & CAPABILITIES).toBe(CAPABILITIES);
    const on = (await folder.api.probes()).filter(({ state }) => state === "on").map(({ name }) => name);
    expect(on).toEqual(expect.arrayContaining(["sched", "tcp", "exec", "drops", "counters"]));
    const at = ["--config", folder.config];
    expect(weir("probe", "on", "signals", ...at)).toMatchObject({ status: 2 });
    expect(weir("probe", "on", "signals", "--for", "60s", ...at).stdout).toMatch(/^signals .* is on until /);
    expect(weir("probe", "ls", ...at).stdout).toMatch(/^signals +on, \d+ s left/m);
    expect(weir("probe", "off", "signals", ...at)).toMatchObject({ status: 0, stdout: "signals is off\n" });
    expect(weir("probe", "ls", ...at).stdout).toMatch(/^signals +on demand/m);
  });

  test("an agent of nobody without any says so, and sends what /proc tells", async () => {
    const { agent, folder } = await asNobody(false, "-all");
    const listing = weir("probe", "ls", "--config", folder.config).stdout;
    expect(listing).toMatch(/^softirq +unavailable +\/proc\/softirqs .*CAP_BPF and CAP_PERFMON missing$/m);
    expect(listing).toMatch(/^tcp +unavailable +sock_diag /m);
    expect(listing).toMatch(/^coldstart +unavailable {2}/m);
    const client = await agent.client();
    const host = new Promise<string>((resolve) => {
      client.on("message", (_, payload) => {
        if (payload.includes("system.softirq.count;vector=timer")) resolve(payload.toString());
      });
    });
    await client.subscribeAsync("weir/v1/+/host");
    expect(await host).toContain('"device":"_gateway"');
    await client.endAsync();
  });

  test("with lockDown no thread keeps them, what is attached goes on, and nothing can be added", async () => {
    const { agent, folder } = await asNobody(true);
    expect(heldBy(agent.child.pid ?? 0) & CAPABILITIES).toBe(0n);
    const counted = async (): Promise<number> => {
      const { lines } = await folder.api.ledger();
      return lines.find(({ stage, name }) => stage === "kernel" && name === "exec")?.out ?? 0;
    };
    const before = await counted();
    spawnSync("true");
    await until("more processes to be counted", async () => (await counted()) > before);
    expect((await folder.api.status()).parts.filter(({ name }) => name === "lockDown")).toEqual([]);
    const refused = weir("probe", "on", "signals", "--for", "60s", "--config", folder.config);
    expect(refused.status).not.toBe(0);
    expect(refused.stderr).toContain("sources.kernel.lockDown gave up CAP_BPF and CAP_PERFMON");
    // All but the table of connections, which sock_diag tells anybody.
    const at = ["--config", folder.config];
    expect(weir("probe", "on", "connections", "--for", "60s", ...at).stdout).toMatch(
      /^connections .* is on until .*\nread through sock_diag: CAP_BPF and CAP_PERFMON missing/,
    );
    expect(weir("probe", "ls", ...at).stdout).toMatch(/^connections +on, \d+ s left +sock_diag/m);
  });
});
