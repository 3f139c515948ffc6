/** The outbox's worker, which crashes when told to: by the plan's folder getting a file `crash`. */
import { existsSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import { crc32c } from "../../src/addon/index.ts";
import type { OutboxPlan } from "../../src/outbox/plan.ts";
import { serveOutbox } from "../../src/outbox/server.ts";
import { UplinkEncoder } from "../../src/uplink/encode.ts";

const plan: OutboxPlan = workerData;
if (parentPort === null) throw new Error("runs as a worker thread");
serveOutbox(parentPort, plan, {
  crc32c,
  encoder: (uplink, whole) => new UplinkEncoder(whole, uplink, crc32c),
  available: "available",
});
const order = join(dirname(plan.path), "crash");
setInterval(() => {
  if (!existsSync(order)) return;
  rmSync(order);
  throw new Error("crashes as told");
}, 5).unref();
