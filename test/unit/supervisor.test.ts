import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type PartSpec, Supervisor } from "../../src/supervisor.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** A part that fails so many times before it starts; `starts` has the time of each try. */
function part(name: string, fails: number): { spec: PartSpec; starts: number[]; running: () => number } {
  const starts: number[] = [];
  let running = 0;
  const make = () => ({
    start: async () => {
      starts.push(Date.now());
      if (starts.length <= fails) throw new Error(`try ${starts.length}`);
      running += 1;
    },
    stop: async () => {
      running -= 1;
    },
  });
  return { spec: { name, key: "", make }, starts, running: () => running };
}

test("a part that can't start is tried again with a back-off that doubles up to a limit, and holds no other up", async () => {
  const logs: string[] = [];
  const supervisor = new Supervisor((_level, text) => logs.push(text));
  const [bad, good] = [part("bad", 9), part("good", 0)];
  await supervisor.apply([bad.spec, good.spec]);
  expect(good.running()).toBe(1);
  expect(supervisor.missing()).toMatchObject([{ name: "bad", state: "failed", reason: "try 1" }]);
  await vi.advanceTimersByTimeAsync(120_000);
  expect(bad.running()).toBe(1);
  expect(supervisor.missing()).toEqual([]);
  // The first two are one: what starts has those tried again that may have waited for it.
  const waits = bad.starts.slice(2).map((at, i) => at - (bad.starts[i + 1] ?? 0));
  for (const [i, wait] of waits.entries()) {
    expect(wait).toBeLessThanOrEqual(Math.min(10_000, 1_000 * 2 ** i));
    expect(wait).toBeGreaterThanOrEqual(0.75 * Math.min(10_000, 1_000 * 2 ** i) - 1);
  }
  expect(logs.at(-1)).toBe("bad: runs now, after 9 tries that failed");
});

test("a part runs once, though it is tried by a reload while a retry is due", async () => {
  const supervisor = new Supervisor(() => {});
  const one = part("one", 1);
  await supervisor.apply([one.spec]);
  await Promise.all([supervisor.apply([one.spec]), vi.advanceTimersByTimeAsync(60_000)]);
  await vi.advanceTimersByTimeAsync(60_000);
  expect([one.starts.length, one.running()]).toEqual([2, 1]);
  await supervisor.stop();
  await vi.advanceTimersByTimeAsync(60_000);
  expect([one.starts.length, one.running()]).toEqual([2, 0]);
});

test("a part that can't go on is made anew; where that fails, it is tried again", async () => {
  const supervisor = new Supervisor(() => {});
  const one = part("one", 0);
  await supervisor.apply([one.spec]);
  await supervisor.renew("one");
  expect([one.starts.length, one.running()]).toEqual([2, 1]);
  await supervisor.stop();
  await supervisor.renew("one");
  expect([one.starts.length, one.running()]).toEqual([2, 0]);
});
