/**
 * Some components of test/fixtures/hostile in a whole agent: what becomes of the rows given to them, of acknowledgements, of the
 * ledger and of memory. Every one of them, and how each ends, is in hostile-in-host.test.ts.
 */
import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { family, memoryMiB } from "../../bench/tools/processes.ts";
import type { SampleObject } from "../../src/consume/batch.ts";
import { imbalance } from "../../src/core/ledger.ts";
import { Agent, AgentFolder } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

/** Components that start, and then misbehave on data; what must come of the rows given to each. */
const CASES = [
  { name: "spin", rows: "rejected" },
  { name: "trap", rows: "rejected" },
  { name: "recursion", rows: "rejected" },
  { name: "grow", rows: "rejected" },
  { name: "alias-blobs", rows: "rejected" },
  { name: "giant-list", rows: "rejected" },
  { name: "exit", rows: "rejected" },
  { name: "err", rows: "rejected" },
  { name: "nan", rows: "rejected" },
  { name: "unequal", rows: "rejected" },
  { name: "huge-output", rows: "rejected" },
  { name: "reads-env", rows: "pass" },
] as const;

describe("hostile plugins in a whole agent", () => {
  const folder = new AgentFolder({
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    uplinks: { local: { url: "embedded", batch: { ageMs: 50 } } },
    plugins: {
      dir: "plugins",
      // But for the one that is to miss it, a deadline that none misses because the machine is slow.
      good: { bind: { devices: ["good-*"] }, limits: { timeMs: 10_000 } },
      ...Object.fromEntries(
        CASES.map(({ name }) => [
          name,
          { bind: { devices: [`${name}-*`] }, limits: name === "spin" ? {} : { timeMs: 10_000 } },
        ]),
      ),
    },
  });
  let samples: readonly SampleObject[];
  let agent: Agent;
  let pid = 0;
  /** memory of all its processes before anything misbehaved */
  let restMiB = 0;

  beforeAll(async () => {
    const plugins = join(folder.dir, "plugins");
    mkdirSync(plugins);
    copyFileSync("test/fixtures/plugins/passthrough.wasm", join(plugins, "good.wasm"));
    for (const { name } of CASES)
      copyFileSync(`test/fixtures/hostile/${name}.wasm`, join(plugins, `${name}.wasm`));
    agent = await Agent.start(folder);
    pid = (await folder.api.status()).pid;
    samples = await agent.samples();
    restMiB = memoryMiB(family(pid), "Rss");
  });
  afterAll(async () => {
    await agent.kill();
    folder.remove();
  });

  test.each(CASES)(
    "$name: its rows are $rows, the good plugin's come through before and after, and the ledger adds up",
    async ({ name, rows }) => {
      const device = await agent.client();
      const publish = (id: string, n: number) =>
        device.publishAsync(`devices/${id}/t`, `{"n":${n}}`, { qos: 1 });
      // Each is acknowledged only when its chunk is committed, so an acknowledgement means that the agent got past it.
      await Promise.all([publish(`good-${name}`, 1), publish(`${name}-1`, 2), publish(`good-${name}`, 3)]);
      await publish(`good-${name}`, 4);
      await device.endAsync();
      await until(
        "the good rows",
        () => samples.filter((sample) => sample.device === `good-${name}`).length === 3,
      );
      expect(
        samples.filter((sample) => sample.device === `good-${name}`).map(({ values }) => values["n"]),
      ).toEqual([1, 3, 4]);

      const { lines } = await folder.api.ledger();
      const line = lines.find((one) => one.stage === "plugin" && one.name === name);
      if (rows === "rejected") {
        expect(line).toMatchObject({ in: 1, out: 0, rejected: 1 });
        expect(samples.some((sample) => sample.device === `${name}-1`)).toBe(false);
      } else {
        expect(line).toMatchObject({ in: 1, out: 1, rejected: 0 });
        // It reports how many environment variables it saw.
        const seen = await until("its row", () => samples.find((sample) => sample.device === `${name}-1`));
        expect(Object.values(seen.values)).toEqual([0]);
      }
      for (const one of lines) expect(imbalance(one), `${one.stage} ${one.name}`).toBe(0);
      expect((await folder.api.status()).pid).toBe(pid);
      await until("its memory to be given back", () => memoryMiB(family(pid), "Rss") < restMiB + 64);
    },
  );

  test("the good plugin was never restarted for what the others did on its own account", async () => {
    const good = (await folder.api.plugins()).find((plugin) => plugin.name === "good");
    expect(good).toMatchObject({ state: "on", failures: 0 });
  });
});
