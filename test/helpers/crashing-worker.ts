/**
 * The outbox's worker, which crashes when told to: by the plan's folder getting a file `crash` at once, or a file `mute` after its
 * next commit of a chunk, before it can answer.
 */
import { existsSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { parentPort, type Transferable } from "node:worker_threads";
import { crc32c } from "../../src/addon/index.ts";
import type { OutboxPlan } from "../../src/outbox/plan.ts";
import type { Notice } from "../../src/outbox/protocol.ts";
import { serveOutbox } from "../../src/outbox/server.ts";
import { UplinkEncoder } from "../../src/uplink/encode.ts";

if (parentPort === null) throw new Error("runs as a worker thread");
const port = parentPort;
const post = port.postMessage.bind(port);
port.once("message", (plan: OutboxPlan) => {
  const mute = join(dirname(plan.path), "mute");
  Object.assign(port, {
    postMessage(notice: Notice, transfer: Transferable[] = []): void {
      const commits = notice.type === "replies" && notice.replies.some(({ op, ok }) => op === "append" && ok);
      if (commits && existsSync(mute)) {
        rmSync(mute);
        throw new Error("has no time to answer");
      }
      post(notice, transfer);
    },
  });
  serveOutbox(port, plan, {
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
});
