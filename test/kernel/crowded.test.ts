/** More labels than a table has places: counts stay true, and what is new gets a name in time. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { SLOT_WORDS } from "../../src/addon/index.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { Ledger } from "../../src/core/ledger.ts";
import { KernelSource } from "../../src/sources/kernel.ts";
import { SlotRows } from "../../src/sources/kernel-slots.ts";
import { eventually } from "../helpers/eventually.ts";
import { missing, open, type Row, rowsOf } from "./helpers.ts";

const lacking =
  missing !== ""
    ? missing
    : spawnSync("taskset", ["-c", "0,1", "true"]).status !== 0
      ? "taskset, 2 CPUs"
      : "";

describe.skipIf(lacking !== "" || availableParallelism() < 2)(
  `crowded tables of labels${lacking === "" ? "" : ` (skipped: ${lacking})`}`,
  () => {
    let folder = "";
    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), "weir-crowd-"));
    });
    afterEach(() => rmSync(folder, { recursive: true }));

    /** Runs so many programs on one CPU, each of a name of its own. */
    function crowd(cpu: number, name: string, count: number): void {
      const names = Array.from({ length: count }, (_, i) => join(folder, `${name}${i}`));
      for (const path of names) symlinkSync("/bin/true", path);
      const ran = spawnSync("taskset", ["-c", String(cpu), "sh", "-ec", names.join("\n")]);
      expect(ran.status).toBe(0);
      for (const path of names) rmSync(path);
    }

    test("names that begin alike do not get into each other's way", () => {
      const probe = open("exec");
      try {
        crowd(0, "first", 60);
        const { slots } = probe.read();
        const held = Array.from({ length: slots.length / SLOT_WORDS - 1 }, (_, at) => slots[at * SLOT_WORDS]);
        expect(held.filter((id) => id !== 0n).length).toBeGreaterThan(50);
      } finally {
        probe.close();
      }
    });

    test("labels of all CPUs together may be more than there are places: nothing is counted twice", () => {
      const probe = open("exec");
      const rows = new SlotRows("exec");
      let counted = 0;
      let produced = 0;
      const read = (): void => {
        const counters = probe.read();
        produced = Number(counters.produced);
        // The largest come first, the others with the next rows.
        for (let more = 1; more > 0; ) {
          const builder = new FrameBuilder();
          rows.add(builder, counters, 1);
          more = builder.rows;
          for (const { value } of more > 0 ? rowsOf(builder.build()) : []) counted += Number(value);
        }
      };
      try {
        crowd(0, "first", 90);
        crowd(1, "second", 90);
        read();
        crowd(0, "third", 60);
        read();
        expect(produced).toBeGreaterThanOrEqual(2 * 240);
        // Other programs start meanwhile, and one may be counted here and not yet there.
        expect(Math.abs(counted - produced)).toBeLessThan(20);
      } finally {
        probe.close();
      }
    });

    test("when half of those with a place are gone, the table is made anew, and new ones have names", async () => {
      const rows: Row[] = [];
      const source = new KernelSource({ intervalMs: 100, ledger: new Ledger(), eventBudget: 0, labelsMs: 0 });
      const intake = {
        frame: (_: string, frame: Parameters<typeof rowsOf>[0]) => rows.push(...rowsOf(frame)) > 0,
        message: () => expect.fail("no messages"),
      };
      await source.start(intake, new AbortController().signal);
      try {
        const seen = (name: string): boolean =>
          rows.some(({ metric }) => metric === `process.starts;process.executable.name=${name}`);
        crowd(0, "old", 300);
        await eventually(() => expect(seen("_other")).toBe(true));
        await eventually(() => {
          crowd(0, "new", 10);
          for (let i = 0; i < 10; i++) expect(seen(`new${i}`)).toBe(true);
        });
      } finally {
        await source.stop();
      }
    });
  },
);
