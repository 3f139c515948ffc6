/** Frames and plans for tests of the outbox. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Frame } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import type { LeasedBatch } from "../../src/core/ports.ts";
import type { OutboxPlan, UplinkPlan } from "../../src/outbox/plan.ts";

/** The worker's module. */
export const workerUrl: URL = new URL("../../src/worker.ts", import.meta.url);

let folder: string | undefined;
let databases = 0;

/** A path for a database that is not there yet. */
export function newPath(): string {
  folder ??= mkdtempSync(join(tmpdir(), "weir-outbox-"));
  databases += 1;
  return join(folder, `${databases}.db`);
}

/** Removes every database that {@link newPath} was asked for: the last thing a test file does. */
export function removeDatabases(): void {
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  folder = undefined;
}

/** An uplink that takes everything and seals at once; `changes` replace parts of it. */
export const uplink = (name: string, changes: Partial<UplinkPlan> = {}): UplinkPlan => ({
  name,
  streams: ["alarm", "data", "host"],
  batch: { samples: 1000, bytes: 1_000_000, ageMs: 0 },
  topics: { batch: "w/{gateway}/{stream}", last: undefined, meta: undefined, alarm: undefined },
  format: { encoding: "json", compression: "none" },
  filter: { devices: ["*"], metrics: ["*"] },
  qos: 1,
  traceparent: false,
  ...changes,
});

/** A plan with one such uplink, `up`. */
export const planFor = (path: string, changes: Partial<OutboxPlan> = {}): OutboxPlan => ({
  path,
  gateway: "gw",
  sync: "normal",
  maxBytes: 64 * 2 ** 20,
  machine: "this one",
  uplinks: [uplink("up")],
  ...changes,
});

/** One row of metric `n` for each number. */
export function frameOf(values: readonly number[], device = "pump-1"): Frame {
  const builder = new FrameBuilder(Math.max(1, values.length));
  for (const value of values)
    builder.add(builder.device(device), builder.metric("n"), 1_763_640_000_000_000, 0, 0, value);
  return builder.build();
}

/** The numbers `from` to `to` (exclusive). */
export const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from }, (_, i) => from + i);

interface Batch {
  readonly id: string;
  readonly samples: readonly { readonly values: Readonly<Record<string, unknown>> }[];
}

/** The JSON of a message. */
export const parse = (message: { readonly payload: Uint8Array } | undefined): Batch =>
  JSON.parse(Buffer.from(message?.payload ?? []).toString());

/** Every `n` of a leased batch, in order. */
export const numbers = (batch: LeasedBatch | undefined): unknown[] =>
  parse(batch?.messages[0]).samples.map(({ values }) => values["n"]);
