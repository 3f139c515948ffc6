/** The outbox's thread before it has anything to do: it takes a while to load its code, and can do so before there is a plan. */
import { Worker } from "node:worker_threads";

/**
 * Starts a module that calls `serveOutbox` with the first message that it gets, an OutboxPlan. Until it is ref'd it keeps no process
 * from ending.
 */
export function startOutboxThread(url: URL): Worker {
  const worker = new Worker(url, {
    name: "outbox",
    // What it makes is short-lived or outside the heap.
    resourceLimits: { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 128 },
  });
  worker.unref();
  // Whoever gives it a plan hears of it.
  worker.on("error", () => {});
  return worker;
}
