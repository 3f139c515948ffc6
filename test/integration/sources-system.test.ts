import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { type Frame, validate } from "../../src/core/frame.ts";
import type { Intake } from "../../src/core/ports.ts";
import { SystemSource, type SystemSourceOptions } from "../../src/sources/system.ts";
import { eventually } from "../helpers/eventually.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function startSource(options: SystemSourceOptions) {
  const frames: Frame[] = [];
  const problems: string[] = [];
  const intake: Intake = {
    message: () => {},
    frame: (source, frame) => {
      expect(source).toBe("system");
      return frames.push(frame) > 0;
    },
  };
  const source = new SystemSource(options, (problem) => problems.push(problem));
  await source.start(intake, new AbortController().signal);
  cleanups.push(() => source.stop());
  const arrived = (least: number) => eventually(() => expect(frames.length).toBeGreaterThanOrEqual(least));
  return { source, frames, problems, arrived };
}

const valuesOf = (frame: Frame | undefined): Map<string, number> =>
  new Map(
    Array.from(frame?.value ?? [], (value, row) => [frame?.metrics[frame.metric[row] ?? -1] ?? "", value]),
  );

describe("source system on this machine", () => {
  it("sends a first frame after a second, whatever the interval, with what every Linux has", async () => {
    const { frames, arrived } = await startSource({ intervalMs: 3_600_000 });
    await arrived(1);
    const [frame] = frames;
    if (frame === undefined) throw new Error("no frame");
    validate(frame);
    expect(frame.devices).toEqual(["_gateway"]);
    const values = valuesOf(frame);
    const modes = [...values].filter(([name]) => name.startsWith("system.cpu.utilization;"));
    expect(modes.reduce((sum, [, part]) => sum + part, 0)).toBeCloseTo(1, 2);
    expect(values.get("system.uptime")).toBeGreaterThan(0);
    expect(values.get("system.memory.limit")).toBeGreaterThan(0);
    expect(values.get("system.memory.usage;system.memory.state=used")).toBeLessThan(
      values.get("system.memory.limit") ?? 0,
    );
    expect(
      [...values.keys()].some((name) =>
        /^system\.filesystem\.usage;system\.device=.*;system\.filesystem\.mountpoint=\/;system\.filesystem\.state=used$/.test(
          name,
        ),
      ),
    ).toBe(true);
  });

  it("goes on once an interval, and stops even from within a frame", async () => {
    const { source, frames, arrived } = await startSource({ intervalMs: 100 });
    await arrived(3);
    await source.stop();
    const count = frames.length;
    let inside = 0;
    const other = new SystemSource({ intervalMs: 100 }, () => {});
    const done = new Promise<void>((resolve) => {
      const intake: Intake = {
        message: () => {},
        frame: () => {
          inside += 1;
          void other.stop().then(resolve);
          return true;
        },
      };
      void other.start(intake, new AbortController().signal);
    });
    await done;
    const third = await startSource({ intervalMs: 100 });
    await third.arrived(3);
    expect(inside).toBe(1);
    expect(frames).toHaveLength(count);
  });

  it("says once of each file that it can't be read, and sends what the others hold", async () => {
    const root = mkdtempSync(join(tmpdir(), "weir-proc-"));
    cleanups.push(() => rmSync(root, { recursive: true }));
    const captured = new URL("../fixtures/payloads/proc", import.meta.url).pathname;
    for (const name of ["stat", "meminfo"]) cpSync(join(captured, name), join(root, name));
    const { frames, problems, arrived } = await startSource({
      intervalMs: 100,
      proc: root,
      sys: join(root, "none"),
    });
    await arrived(3);
    expect(valuesOf(frames[0]).get("system.memory.limit")).toBe(24683668 * 1024);
    expect(new Set(problems).size).toBe(problems.length);
    expect(problems.filter((problem) => problem.includes("loadavg"))).toHaveLength(1);
    expect(problems.join()).not.toContain("meminfo");
  });
});
