/** The worker thread: the outbox over its database, with the uplinks' encoders. `workerData` is an OutboxPlan. */
import { parentPort, workerData } from "node:worker_threads";
import { crc32c } from "./addon/index.ts";
import { MemoryTrim } from "./addon/memory-trim.ts";
import type { OutboxPlan } from "./outbox/plan.ts";
import { serveOutbox } from "./outbox/server.ts";
import { AVAILABLE } from "./sources/availability.ts";
import { UplinkEncoder } from "./uplink/encode.ts";

const plan: OutboxPlan = workerData;
if (parentPort === null) throw new Error("src/worker.ts runs as a worker thread");
serveOutbox(parentPort, plan, {
  crc32c,
  encoder: (uplink, whole) => new UplinkEncoder(whole, uplink, crc32c),
  available: AVAILABLE,
});
new MemoryTrim().start();
