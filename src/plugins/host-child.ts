/**
 * `weir plugin host`: main thread of the jailed process that runs the plugins. It starts and ends a worker for each
 * instance on command and knows nothing else. Descriptor 3, lines of JSON:
 *
 *     in   {"start": slot, "data": {@link WorkerData} without fd, "heapMiB": n} | {"stop": slot}
 *     out  {"exited": slot, "reason": text}
 *
 * Slot `n` is descriptor `3 + n`.
 */
import { closeSync } from "node:fs";
import { Socket } from "node:net";
import { extname } from "node:path";
import { createInterface } from "node:readline";
import { Worker } from "node:worker_threads";
import type { WorkerData } from "./host-worker.ts";

/** What the agent commands. */
export type HostCommand =
  | { readonly start: number; readonly data: Omit<WorkerData, "fd">; readonly heapMiB: number }
  | { readonly stop: number };

const CONTROL = 3;
/** After its start, in milliseconds. */
const COLLECT_MS = 5_000;
const script = new URL(`./host-worker${extname(import.meta.filename)}`, import.meta.url);
const control = new Socket({ fd: CONTROL });
const workers = new Map<number, Worker>();

function start(slot: number, data: Omit<WorkerData, "fd">, heapMiB: number): void {
  const fd = CONTROL + slot;
  const worker = new Worker(script, {
    workerData: { ...data, fd } satisfies WorkerData,
    env: {},
    stdin: false,
    resourceLimits: { maxOldGenerationSizeMb: heapMiB, maxYoungGenerationSizeMb: 8, stackSizeMb: 4 },
  });
  workers.set(slot, worker);
  let reason = "its thread ended";
  worker.once("error", (thrown: unknown) => {
    reason = thrown instanceof Error ? thrown.message : String(thrown);
  });
  worker.once("exit", () => {
    workers.delete(slot);
    closeSync(fd);
    control.write(`${JSON.stringify({ exited: slot, reason: reason.slice(0, 500) })}\n`);
  });
}

createInterface({ input: control }).on("line", (line) => {
  const command: HostCommand = JSON.parse(line);
  if ("start" in command) start(command.start, command.data, command.heapMiB);
  else void workers.get(command.stop)?.terminate();
});
// The same for what starting workers took: nothing waits for this thread.
setTimeout(() => globalThis.gc?.(), COLLECT_MS);
control.once("close", () => process.exit(0));
control.on("error", () => process.exit(0));
