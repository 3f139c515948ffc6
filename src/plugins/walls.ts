/** The walls around a component itself, in the words of `weir check` and `weir plugin inspect`; those around its process are in jail-report.ts. */
import type { PluginLimits } from "./limits.ts";

/**
 * Every wall and how it stands. These need nothing of the machine, so none is ever off or unavailable: what can't be
 * enforced (a component whose memories can't be limited, as one) is refused by vetting.
 */
export function componentWalls(limits: PluginLimits): Readonly<Record<string, string>> {
  const { memoryMiB, timeMs, outputRows, outputBytes, stateBytes, logPerMin, effectsPerBatch } = limits;
  return {
    vetting: "on: contract, imports, safe names of every core module, in a jailed process with a time limit",
    "generated-code": "on: evaluated in the plugin host alone, never in the agent",
    wasi: "on: deny-all stubs",
    memory: `on: ${memoryMiB} MiB written into each wasm memory, and a limit of the process`,
    deadline: `on: ${timeMs} ms a call`,
    result: `on: ${outputRows} rows, ${outputBytes} bytes; what a result lifts is metered`,
    state: `on: ${stateBytes} bytes`,
    "log-and-effects": `on: ${logPerMin} lines a minute, ${effectsPerBatch} effects a call`,
    grants: "on: only what weir.yaml allows",
    "checked-again": "on: frames, devices, state and effects, in the agent",
    "worker-rights": "on: threads, files, processes and network given up before the component runs",
  };
}
