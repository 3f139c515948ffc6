/**
 * `weir plugin host`: main thread of the jailed process that runs the plugins. It starts and ends a worker for each
 * instance on command and knows nothing else. Descriptor 3, lines of JSON:
 *
 *     in   {"start": slot, "data": {@link WorkerData} without fd, "heapMiB": n} | {"stop": slot}
 *     out  {"exited": slot, "reason": text}
 *
 * Slot `n` is descriptor `3 + n`. Of Node as little as possible is loaded: sockets and streams would be a fifth of the start.
 */
import { closeSync, read, writeSync } from "node:fs";
import { extname } from "node:path";
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
const control = Buffer.alloc(64 * 1024);
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
    say(`${JSON.stringify({ exited: slot, reason: reason.slice(0, 500) })}\n`);
  });
}

function say(line: string): void {
  let left: Uint8Array = Buffer.from(line);
  while (left.byteLength > 0) left = left.subarray(writeSync(CONTROL, left));
}

/** Waits for commands, in a thread of the pool; `begun` is the part of a line that has come, a character for each byte. */
function listen(begun: string): void {
  read(CONTROL, control, (thrown, length) => {
    // The agent has ended.
    if (thrown !== null || length === 0) process.exit(0);
    const lines = (begun + control.toString("latin1", 0, length)).split("\n");
    const rest = lines.pop() ?? "";
    for (const line of lines) obey(JSON.parse(Buffer.from(line, "latin1").toString()));
    listen(rest);
  });
}

function obey(command: HostCommand): void {
  if ("start" in command) start(command.start, command.data, command.heapMiB);
  else void workers.get(command.stop)?.terminate();
}

listen("");
// The same for what starting workers took: nothing waits for this thread.
setTimeout(() => globalThis.gc?.(), COLLECT_MS);
