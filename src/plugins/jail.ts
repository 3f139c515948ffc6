import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { Duplex, type Readable } from "node:stream";
import { type JailOptions, jailCommand } from "./jail-launcher.ts";
import { followReport, type LayerReport } from "./jail-report.ts";

/**
 * The TypeScript face of `native/jail/` (the launcher `weir-jail`): starts a Node script behind every wall this machine
 * offers and says which of them stand. The launcher is the boundary; `--permission` and the V8 flags are hygiene on top.
 *
 * Anything a jailed process sends is untrusted, its report excepted: the launcher writes that before Node starts, on a
 * descriptor that Node never has.
 */

export type { JailOptions } from "./jail-launcher.ts";
export { type JailLayer, jailLayers, type LayerReport, type LayerState } from "./jail-report.ts";

/** A process behind the walls. */
export interface Jailed {
  readonly child: ChildProcess;
  /** `pipes[i]` is the child's descriptor `3 + i`; what comes out of it is untrusted. Listen for its errors. */
  readonly pipes: readonly Duplex[];
  /** Settles about when the script starts, or when it is clear that it won't (with the reason); never rejects. */
  readonly layers: Promise<LayerReport>;
  /** The last 8 KiB that the child printed: why it died, usually. */
  readonly output: () => string;
}

const outputKept = 8 * 1024;
const outputPerSecond = 16 * 1024;
const lineLimit = 1000;

/** Reads what the child prints at a bounded rate: past it the stream pauses, and the child's writes wait. */
function followOutput(streams: readonly Readable[], onLine: (line: string) => void): { kept: string } {
  const output = { kept: "" };
  for (const stream of streams) {
    let budget = outputPerSecond;
    let line = "";
    const tell = (text: string): void => onLine(text.slice(0, lineLimit).replace(/\p{Cc}/gu, "?"));
    stream.setEncoding("utf8");
    stream.on("error", () => {}); // the child's end is what its exit says
    stream.on("data", (part: string) => {
      output.kept = (output.kept + part).slice(-outputKept);
      const lines = (line + part).split("\n");
      line = (lines.pop() ?? "").slice(0, lineLimit);
      for (const complete of lines) tell(complete);
      budget -= part.length;
      if (budget > 0) return;
      stream.pause();
      setTimeout(() => {
        budget = outputPerSecond;
        stream.resume();
      }, 1000).unref();
    });
    stream.once("end", () => {
      if (line !== "") tell(line);
    });
  }
  return output;
}

/** Where no cgroup limits it: looks each half second at what the child holds, and kills it above the limit. */
function watchMemory(child: ChildProcess, memoryMiB: number, onExcess: (reason: string) => void): void {
  const timer = setInterval(() => {
    let residentMiB = 0;
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
      residentMiB = Number(/^VmRSS:\s*(\d+) kB$/m.exec(status)?.[1] ?? 0) / 1024;
    } catch {
      // Gone between its end and its "exit" event.
    }
    if (residentMiB <= memoryMiB) return;
    onExcess(`killed: it held ${Math.round(residentMiB)} MiB of the ${memoryMiB} MiB it may`);
    child.kill("SIGKILL");
  }, 500).unref();
  child.once("exit", () => clearInterval(timer));
}

/**
 * Starts `options.script` in the jail. Call it on the main thread: the kernel kills the child when the *thread* that started it
 * ends. The child is in a session of its own, so a Ctrl-C at the terminal reaches the agent alone, which then stops the child.
 *
 * A layer that this machine cannot give is reported, not an error. Failure to start is the child's `error` or `exit` event.
 * @throws WeirError `plugin.failed` without the launcher: then nothing is started
 */
export function spawnJailed(options: JailOptions): Jailed {
  const { command, arguments: list, environment, permission } = jailCommand(options);
  // And one for the launcher's report.
  const descriptors = 2 + options.pipes + 1;
  const child = spawn(command, list, {
    stdio: ["ignore", ...new Array<"pipe">(descriptors).fill("pipe")],
    cwd: "/",
    env: environment,
    detached: true,
  });
  const streams = child.stdio.slice(1).filter((stream) => stream instanceof Duplex);
  const report = streams[descriptors - 1];
  if (report === undefined) throw new Error("too few descriptors left to start a process");
  const onLine = options.onOutput ?? ((): void => {});
  const output = followOutput(streams.slice(0, 2), onLine);
  const layers = followReport(child, report, permission);
  void layers.then((states) => {
    // "off" was asked for, by a test of another layer.
    if (states["memory-cgroup"] === "on" || states["memory-cgroup"] === "off" || child.exitCode !== null)
      return;
    watchMemory(child, options.memoryMiB, (reason) => {
      output.kept += `${reason}\n`;
      onLine(reason);
    });
  });
  return {
    child,
    pipes: streams.slice(2, 2 + options.pipes),
    layers,
    output: () => output.kept,
  };
}
