import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, expect, it } from "vitest";
import { messageOf } from "../../src/core/errors.ts";
import { WorkerOutbox } from "../../src/outbox/outbox.ts";
import type { Trouble } from "../../src/outbox/plan.ts";
import { hasProgram } from "../helpers/agent.ts";
import { frameOf, planFor, workerUrl } from "../helpers/outbox.ts";
import { until } from "../helpers/until.ts";

const folder = mkdtempSync(join(tmpdir(), "weir-wal-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let reader: ChildProcess | undefined;
afterEach(() => reader?.kill("SIGKILL"));

it.skipIf(!hasProgram("sqlite3"))(
  "a reader that keeps a transaction open: the WAL is told of, and bounded, and all is well once it is gone (needs: sqlite3)",
  { timeout: 300_000 },
  async () => {
    const path = join(folder, "weir.db");
    let held: string | undefined;
    let trouble: Trouble | undefined;
    const outbox = new WorkerOutbox(workerUrl, planFor(path, { maxBytes: 4 * 2 ** 20 }), {
      onWalHeld: (why) => {
        held = why;
      },
      onTrouble: (now) => {
        trouble = now;
      },
    });
    await outbox.start();
    const values = Array.from({ length: 2048 }, Math.random);
    // Many at a time, or most of the time goes by between two looks.
    const append = async (): Promise<string | undefined> => {
      const stored = Array.from({ length: 50 }, () =>
        outbox.append({ stream: "data", frame: frameOf(values), state: [], effects: [] }),
      );
      const failed = (await Promise.allSettled(stored)).find(({ status }) => status === "rejected");
      return failed?.status === "rejected" ? messageOf(failed.reason) : undefined;
    };
    expect(await append()).toBeUndefined();
    reader = spawn("sqlite3", [path], { stdio: ["pipe", "pipe", "inherit"] });
    reader.stdin?.write("BEGIN; SELECT count(*) FROM meta;\n");
    if (reader.stdout !== null) await once(reader.stdout, "data");

    const refused = new Set<string>();
    const more = async (): Promise<void> => {
      const why = await append();
      if (why !== undefined) refused.add(why);
    };
    await until("a warning", () => more().then(() => held), 120_000);
    expect(held).toContain("another program keeps a read of the database open");
    await until("a refusal", () => more().then(() => refused.size > 0), 120_000);
    expect([...refused].join()).toContain("the database's WAL can't be emptied");
    await until("the trouble to be said", () => trouble);
    await outbox.resume();
    const { walBytes } = await outbox.info();
    expect(walBytes).toBeGreaterThan(64 * 2 ** 20);
    expect(walBytes).toBeLessThan(128 * 2 ** 20);

    reader.kill("SIGKILL");
    await until("it to be emptied", () => held === undefined && trouble === undefined, 60_000);
    expect(await append()).toBeUndefined();
    await until("the file to be small again", async () => (await outbox.info()).walBytes < 20 * 2 ** 20);
    const alarms = await outbox.lease("up", 8, { stream: "alarm" });
    const told = alarms.flatMap(({ messages }) =>
      messages.map(({ payload }) => Buffer.from(payload).toString()),
    );
    for (const code of ["outbox-wal", "outbox-unwritable"])
      for (const active of [true, false])
        expect(told.join()).toContain(`"alarm.active;code=${code}":${active}`);
    await outbox.stop();
  },
);
