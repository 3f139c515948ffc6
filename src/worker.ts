/** The worker thread: the outbox over its database, with the uplinks' encoders. The first message is an OutboxPlan. */
import { parentPort } from "node:worker_threads";
import { crc32c } from "./addon/index.ts";
import { MemoryTrim } from "./addon/memory-trim.ts";
import type { OutboxPlan } from "./outbox/plan.ts";
import { serveOutbox } from "./outbox/server.ts";
import { AVAILABLE } from "./sources/availability.ts";
import { UplinkEncoder } from "./uplink/encode.ts";

if (parentPort === null) throw new Error("src/worker.ts runs as a worker thread");
const port = parentPort;
port.once("message", (plan: OutboxPlan) =>
  serveOutbox(port, plan, {
    crc32c,
    encoder: (uplink, whole) => new UplinkEncoder(whole, uplink, crc32c),
    available: AVAILABLE,
  }),
);
new MemoryTrim().start();
