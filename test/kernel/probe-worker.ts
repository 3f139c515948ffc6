/** A worker thread with probes of its own: opens those that it is told of, says so, and ends when told, closing them or leaving that to Node. */
import { parentPort, workerData } from "node:worker_threads";
import { openProbe, type ProbeName } from "../../src/addon/index.ts";

const names: readonly ProbeName[] = workerData;
const opened = names.map((name) => openProbe(name, 4096));
parentPort?.postMessage(opened.map((result) => (result.on ? "on" : result.reason)));
parentPort?.once("message", (how: unknown) => {
  if (how === "close") for (const result of opened) if (result.on) result.probe.close();
  process.exit();
});
