/**
 * Every component of test/fixtures/hostile in one host, each bound to devices of its own, beside two plugins that behave.
 * Whatever one does, the others' rows still go through, in the same process. What that means in a whole agent is in
 * hostile-in-agent.test.ts.
 */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { fixture, frameOf, hostile, Lane, openFolder, rowsOf, type Subject } from "../helpers/lane.ts";

const casesSchema = z.array(z.object({ file: z.string(), does: z.string(), verdict: z.string() }));
const cases = casesSchema.parse(JSON.parse(readFileSync("test/fixtures/hostile/cases.json", "utf8")));
const withVerdict = (...verdicts: string[]) => cases.filter(({ verdict }) => verdicts.includes(verdict));

/** Its deadline, and how much later its end may be seen on a busy machine. */
const TIME_MS = 1_500;
const START_MS = 6_000;

const witness: Subject = { component: fixture("passthrough"), options: { bind: { devices: ["good-*"] } } };
const counter: Subject = {
  component: fixture("counter"),
  manifest: { needs: { state: true } },
  options: { bind: { devices: ["counted-*"] } },
};

function subjectOf(file: string): Subject {
  return {
    component: hostile(file),
    manifest: {
      needs: { state: true, alarm: true, publish: ["#"] },
      limits: { timeMs: TIME_MS, memoryMiB: 32, logPerMin: 10, effectsPerBatch: 20, stateBytes: 65_536 },
    },
    options: { bind: { devices: [`${file}:*`] }, grant: { publish: ["#"] } },
  };
}

let cacheDir: string;
let lane: Lane;
/** input of one hostile plugin and both others */
const inputFor = (file: string) =>
  frameOf([`${file}:1`, "a", 1], ["good-1", "a", 2], [`${file}:1`, "b", 3], ["counted-1", "a", 4]);
beforeAll(async () => {
  cacheDir = openFolder("weir-hostile-");
  const subjects = Object.fromEntries(cases.map(({ file }) => [file, subjectOf(file)]));
  lane = await Lane.start({ witness, counter, ...subjects }, join(cacheDir, "cache"), {
    startMs: START_MS,
    slots: 200,
  });
});

afterAll(async () => {
  await lane.stop();
  rmSync(cacheDir, { recursive: true, force: true });
});

/** The others go on: their rows come through, from the process that ran them before. */
async function expectOthersUnharmed(pids: readonly number[]): Promise<void> {
  const output = await lane.pass(frameOf(["good-1", "a", 7], ["counted-1", "a", 8]));
  const rows = rowsOf(output.frame);
  expect(rows).toContainEqual(["good-1", "a", 7]);
  expect(rows).toContainEqual(["counted-1", "a", 8]);
  expect(lane.manager.pids).toEqual(pids);
}

describe("vetting", () => {
  test.each(withVerdict("vet"))("refuses $file ($does) with the reason", ({ file }) => {
    const { state, reason } = lane.info(file);
    expect(state).toBe("refused");
    expect(reason).toMatch(/\w/);
    expect(Reflect.get(globalThis, "__weir_pwned")).toBeUndefined();
  });
});

describe("start", () => {
  test.each(withVerdict("start"))("$file ($does) never goes live, and its rows pass by", async ({ file }) => {
    const { pids } = lane.manager;
    const { state, reason } = lane.info(file);
    expect(state).toBe("failed");
    expect(reason).toMatch(/\w/);
    const output = await lane.pass(inputFor(file));
    expect(rowsOf(output.frame)).toContainEqual([`${file}:1`, "a", 1]);
    await expectOthersUnharmed(pids);
  });
});

describe("running", () => {
  test.each(
    withVerdict("deadline", "trap", "invalid", "err").filter(
      ({ file }) => !["late", "foreign-device", "spin-post-return"].includes(file),
    ),
  )("$file ($does) fails alone: $verdict", async ({ file, verdict }) => {
    const { pids } = lane.manager;
    const before = performance.now();
    const result = await lane.send(inputFor(file));
    const tookMs = performance.now() - before;
    expect(result).toMatchObject({
      ok: false,
      failures: [{ plugin: file, disposition: verdict === "err" ? "reject" : "retry" }],
    });
    if (verdict === "deadline") expect(tookMs).toBeGreaterThanOrEqual(TIME_MS - 1);
    await lane.manager.chain.restart();
    expect(lane.info(file)).toMatchObject({ state: "on", failures: 1 });
    // The second try is without it: its rows are set aside, the others' come through.
    const output = await lane.pass(inputFor(file), { without: [file] });
    expect(rowsOf(output.frame).some(([device]) => device.startsWith(`${file}:`))).toBe(false);
    expect(output.counts).toContainEqual(
      expect.objectContaining({ plugin: file, in: 2, out: 0, rejected: 2 }),
    );
    await expectOthersUnharmed(pids);
  });

  test("spin-post-return is cut off after its result, when the next call waits for it", async () => {
    const { pids } = lane.manager;
    const first = await lane.send(inputFor("spin-post-return"));
    const second = first.ok ? await lane.send(inputFor("spin-post-return")) : first;
    expect(second).toMatchObject({
      ok: false,
      failures: [{ plugin: "spin-post-return", disposition: "retry" }],
    });
    await lane.manager.chain.restart();
    await expectOthersUnharmed(pids);
  });

  test("late fails at its thousandth call, which is retried on a fresh instance", async () => {
    const { pids } = lane.manager;
    const frame = inputFor("late");
    let calls = 0;
    while (calls < 2_000 && (await lane.send(frame)).ok) calls += 1;
    expect(calls).toBe(999);
    await lane.manager.chain.restart();
    expect((await lane.send(frame)).ok).toBe(true);
    await expectOthersUnharmed(pids);
  });

  test("foreign-device gets its row of somebody else's device refused", async () => {
    const output = await lane.pass(inputFor("foreign-device"));
    expect(output.counts).toContainEqual(
      expect.objectContaining({ plugin: "foreign-device", in: 2, out: 2, emitted: 2, refused: 2 }),
    );
    expect(output.frame.devices).not.toContain("somebody-else");
  });

  test.each(withVerdict("exhausts"))("$file ($does) is cut off, and the others go on", async ({ file }) => {
    const failure = await lane.fail(inputFor(file));
    expect(failure.plugin).toBe(file);
    await expectOthersUnharmed(lane.manager.pids);
  });

  test.each(withVerdict("contained"))("$file ($does) ends well within its limits", async ({ file }) => {
    const { pids } = lane.manager;
    const output = await lane.pass(inputFor(file));
    expect(output.effects.length).toBeLessThanOrEqual(20);
    expect(output.state.reduce((sum, { value }) => sum + (value?.byteLength ?? 0), 0)).toBeLessThanOrEqual(
      65_536,
    );
    // So many a minute, and the next minute may have begun.
    expect(lane.logs.filter(({ plugin }) => plugin === file).length).toBeLessThanOrEqual(2 * 12);
    if (file === "reads-env") expect(rowsOf(output.frame)).toContainEqual(["reads-env:1", "a", 0]);
    await expectOthersUnharmed(pids);
  });
});
