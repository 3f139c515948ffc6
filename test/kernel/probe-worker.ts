/** A worker thread with probes of its own: opens the three, says so, and ends when told, closing them or leaving that to Node. */
import { parentPort } from "node:worker_threads";
import { openProbe, PROBES } from "../../src/addon/index.ts";

const opened = PROBES.map((name) => openProbe(name, 4096));
parentPort?.postMessage(opened.map((result) => (result.on ? "on" : result.reason)));
parentPort?.once("message", (how: unknown) => {
  if (how === "close") for (const result of opened) if (result.on) result.probe.close();
  process.exit();
});
