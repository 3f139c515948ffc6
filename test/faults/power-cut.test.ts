/** The power goes under load, again and again: with `sync: full` everything acknowledged is there; without fsync it isn't. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { messageOf } from "../../src/core/errors.ts";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { freePort } from "../helpers/free-port.ts";
import { until } from "../helpers/until.ts";
import { ForgetfulDisk, lacksForDisk } from "./harness/forgetful-disk.ts";
import { Judge } from "./harness/judge.ts";
import { Load } from "./harness/load.ts";
import { Mosquitto } from "./harness/mosquitto.ts";
import { type Outcome, record } from "./harness/table.ts";
import { FRESH_S, freshAfter, imbalances, LONG, long } from "./harness/world.ts";

const lacks = hasProgram("mosquitto") ? await lacksForDisk() : "mosquitto is not installed";
const noEatmydata = lacks ?? (hasProgram("eatmydata") ? undefined : "eatmydata is not installed");
const named = (name: string, reason: string | undefined): string =>
  reason === undefined ? name : `${name} (skipped: ${reason})`;

/** Of an {@link Outcome} in which nothing was lost, made up or mixed up. */
const ALL_THERE = { missing: 0, doubled: 0, invented: 0, altered: 0, disorder: 0, unbalanced: "" };

interface Cuts {
  readonly cuts: number;
  /** put before the agent's command */
  readonly wrap?: readonly string[];
  /** before each cut, writes fail for a while */
  readonly failing?: boolean;
  /** time for what is missing to come */
  readonly settleMs?: number;
}

/** Cuts the power while no broker takes anything; then one does, and the judge says what came. */
async function cutUnderLoad({
  cuts,
  wrap = [],
  failing = false,
  settleMs = 120_000,
}: Cuts): Promise<Outcome> {
  const disk = new ForgetfulDisk({ journal: !failing });
  const port = await freePort();
  const folder = new AgentFolder({
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    outbox: { sync: "full" },
    uplinks: { cloud: { url: `mqtt://127.0.0.1:${port}`, streams: ["data"], batch: { ageMs: 50 } } },
  });
  const data = join(folder.dir, "data");
  let agent: Agent | undefined;
  const load = new Load(() => agent?.broker() ?? Promise.reject(new Error("off")), { perSecond: 0 });
  let broker: Mosquitto | undefined;
  let judge: Judge | undefined;
  try {
    for (let cut = 0; cut < cuts; cut++) {
      await disk.mount(data);
      agent = await Agent.start(folder, wrap);
      load.start();
      const before = load.acknowledged;
      await until("acknowledgements", () => load.acknowledged > before + 1_000);
      if (failing) {
        disk.sync();
        disk.fail(true);
        const { api } = folder;
        await until("the database to be opened anew", async () => {
          const answer = await api.outbox().catch(messageOf);
          return typeof answer === "string" && answer.includes("no database for now");
        });
        disk.fail(false);
        const then = load.acknowledged;
        await until("acknowledgements", () => load.acknowledged > then + 200);
        disk.sync();
      }
      // With it: what it would go on to acknowledge on a disk that is gone is not the question.
      agent.child.kill("SIGKILL");
      await disk.cut();
      await agent.exited;
      await load.stop();
    }
    await disk.mount(data);
    broker = await Mosquitto.start({ port });
    judge = await Judge.start(`mqtt://127.0.0.1:${port}`);
    agent = await Agent.start(folder);
    load.start();
    const freshS = await freshAfter(load, judge);
    await load.stop();
    const { api } = folder;
    await until("everything held to be sent", async () =>
      (await api.outbox()).counts.every(({ uplink, held }) => uplink !== "cloud" || held === 0),
    );
    const unbalanced = await imbalances(folder);
    const at = judge;
    // What is missing after that does not come any more.
    await until(
      "everything to arrive",
      async () => {
        const { missing } = await at.verdict(load.ranges, load.next);
        return missing === 0;
      },
      settleMs,
    ).catch(() => {});
    const verdict = await judge.verdict(load.ranges, load.next);
    return { ...verdict, freshS, unbalanced };
  } finally {
    await agent?.kill();
    judge?.stop();
    await broker?.remove();
    await disk.remove();
    rmSync(data, { recursive: true, force: true });
    folder.remove();
  }
}

test.skipIf(lacks !== undefined)(
  named("power cut under load with sync: full: everything acknowledged is there", lacks),
  { timeout: 600_000 },
  async () => {
    const verdict = await cutUnderLoad({ cuts: long(5, 1) });
    record(`power cut x ${long(5, 1)}, sync: full`, verdict, "");
    expect(verdict).toMatchObject(ALL_THERE);
    expect(verdict.freshS).toBeLessThanOrEqual(FRESH_S);
  },
);

test.skipIf(noEatmydata !== undefined)(
  named("the same without fsync loses what was acknowledged: the disk does forget", noEatmydata),
  { timeout: 600_000 },
  async () => {
    const verdict = await cutUnderLoad({ cuts: 1, wrap: ["eatmydata"], settleMs: 10_000 });
    record("power cut x 1, without fsync: to be lost", verdict, "the disk does forget");
    expect(verdict.missing).toBeGreaterThan(0);
  },
);

// Without a journal (which would give up), names made while writes fail may be gone as well: not for a machine that is busy with other tests.
test.skipIf(lacks !== undefined || !LONG)(
  named("power cut after a disk that gave errors for a while: what was acknowledged since is there", lacks),
  { timeout: 300_000 },
  async () => {
    const verdict = await cutUnderLoad({ cuts: 1, failing: true });
    record(
      "power cut after errors of the disk, sync: full",
      verdict,
      "what an fsync has failed for is not built upon",
    );
    expect(verdict).toMatchObject(ALL_THERE);
  },
);
