/** The addon in several threads of one process, at its end, and with few privileges. */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { describe, expect, test } from "vitest";
import { ON_DEMAND_PROBES } from "../../src/addon/index.ts";
import { bpfHoldings, drainAll, missing, open, PRESENT } from "./helpers.ts";

const root = join(import.meta.dirname, "..", "..");
const index = join(root, "src/addon/index.ts");

async function startWorker(): Promise<Worker> {
  const worker = new Worker(new URL("./probe-worker.ts", import.meta.url), {
    execArgv: [],
    workerData: [...PRESENT, ...ON_DEMAND_PROBES],
  });
  const [states] = await once(worker, "message");
  expect(new Set(states)).toEqual(new Set(["on"]));
  return worker;
}

/** Runs a script as `nobody` with just these capabilities, and gives back what it printed. */
function asNobody(
  capabilities: string,
  script: string,
): { readonly stdout: string; readonly stderr: string } {
  const drop = [
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    `--inh-caps=${capabilities}`,
    `--ambient-caps=${capabilities}`,
  ];
  return spawnSync("setpriv", [...drop, process.execPath, "--input-type=module", "-e", script], {
    encoding: "utf8",
    cwd: "/",
  });
}

const hasSetpriv = spawnSync("setpriv", ["--version"]).status === 0;

describe.skipIf(missing !== "")(`addon environments${missing === "" ? "" : ` (skipped: ${missing})`}`, () => {
  for (const [first, second] of [
    ["close", "close"],
    ["leave", "close"],
    ["close", "leave"],
    ["leave", "leave"],
  ]) {
    test(`two worker threads have probes of their own and end in any order (${first}, then ${second})`, async () => {
      const before = bpfHoldings();
      const [a, b] = await Promise.all([startWorker(), startWorker()]);
      const mine = open("exec");
      for (const [worker, how] of [
        [b, first],
        [a, second],
      ] as const) {
        const exit = once(worker, "exit");
        worker.postMessage(how);
        await exit;
        const { pid } = spawnSync("/bin/true");
        expect(drainAll(mine).filter((event) => event.pid === pid).length).toBe(2);
      }
      mine.close();
      expect(bpfHoldings()).toEqual(before);
    });
  }

  test("a worker that is terminated leaves nothing behind", async () => {
    const before = bpfHoldings();
    const worker = await startWorker();
    expect(bpfHoldings().descriptors).toBeGreaterThan(before.descriptors);
    await worker.terminate();
    expect(bpfHoldings()).toEqual(before);
  });

  test("a process ends by itself and well with its probes open", () => {
    const script = `import { openProbe } from ${JSON.stringify(index)};
      console.log(openProbe("sched").on, openProbe("exec").on, openProbe("tcp").on); process.exitCode = 3;`;
    // A probe that held the loop up would hold it for ever.
    const ran = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
      encoding: "utf8",
      timeout: 60_000,
    });
    expect(ran.stdout).toBe("true true true\n");
    expect(ran.status).toBe(3);
  });

  test.skipIf(!hasSetpriv)(
    "two capabilities are enough, and without them each probe names what is missing",
    () => {
      const script = `import { openProbe } from ${JSON.stringify(index)};
      for (const name of ${JSON.stringify([...PRESENT, ...ON_DEMAND_PROBES])}) { const result = openProbe(name, 4096); console.log(result.on || result.reason); }`;
      expect(asNobody("-all,+bpf,+perfmon", script)).toMatchObject({
        stdout: "true\n".repeat(PRESENT.length + ON_DEMAND_PROBES.length),
        stderr: "",
      });
      for (const [held, lacking] of [
        ["+bpf", "CAP_PERFMON"],
        ["+perfmon", "CAP_BPF"],
      ])
        expect(asNobody(`-all,${held}`, script).stdout.split("\n")[PRESENT.indexOf("sched")]).toBe(
          `${lacking} missing`,
        );
      const { stdout, stderr } = asNobody("-all", script);
      expect(stderr).toBe("");
      // Whether anybody may count is kernel.perf_event_paranoid's to say.
      for (const [i, said] of stdout.trimEnd().split("\n").entries())
        expect(said).toMatch(
          PRESENT[i] === "counters"
            ? /CAP_PERFMON missing|true/
            : /^CAP_BPF and CAP_PERFMON missing$|no such counters/,
        );
    },
  );
});
