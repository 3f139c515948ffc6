/** The outbox's first thread: started before the configuration is known, so that its code is loaded by then. */
import { extname } from "node:path";
import type { Worker } from "node:worker_threads";
import { startOutboxThread } from "./outbox/outbox-thread.ts";

/** The module of the outbox's threads. */
export const OUTBOX_URL: URL = new URL(`./worker${extname(import.meta.filename)}`, import.meta.url);

/** The first of them. It waits for an OutboxPlan, and keeps no process from ending. */
export const startFirstOutboxThread = (): Worker => startOutboxThread(OUTBOX_URL);
