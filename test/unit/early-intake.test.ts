import { expect, test } from "vitest";
import { Frame } from "../../src/core/frame.ts";
import { Ledger } from "../../src/core/ledger.ts";
import { EarlyIntake } from "../../src/pipeline/early-intake.ts";
import { frameOf } from "../helpers/outbox.ts";

test("frames that come before the loop runs go on in order once it does; those beyond are dropped and counted", () => {
  const ledger = new Ledger();
  const early = new EarlyIntake(ledger);
  const frames = Array.from({ length: 40 }, (_, i) => frameOf([i]));
  const taken = frames.filter((frame) => early.frame("kernel", frame));
  expect(taken).toHaveLength(32);
  expect(ledger.stage("source", "kernel", "samples")).toMatchObject({ in: 8, dropped: 8 });

  const got: Frame[] = [];
  const loop = { message: () => {}, frame: (_: string, frame: Frame) => got.push(frame) > 0 };
  early.handOver(loop);
  const late = Frame.empty();
  early.frame("kernel", late);
  expect(got).toEqual([...taken, late]);
});
