import type { ChildProcess } from "node:child_process";
import { rmdirSync } from "node:fs";
import type { Readable } from "node:stream";

/**
 * The report of `weir-jail` on the layers of one process (native/jail/report.c writes it), and what follows from it: the cgroups
 * that are removed when the process is gone.
 */

/** The walls; `permission` is Node's own, the others are the launcher's (must match `enum layer` in native/jail/jail.h). */
export const jailLayers = [
  "permission",
  "descriptors",
  "environment",
  "oom",
  "memory-cgroup",
  "pids-cgroup",
  "network",
  "rlimits",
  "capabilities",
  "uid",
  "no-new-privs",
  "parent",
  "landlock",
  "seccomp",
] as const;

/** One wall of the jail. */
export type JailLayer = (typeof jailLayers)[number];

/** `partial` stands but lacks what follows; `off` was asked for. Every reason is one line for a person to read. */
export type LayerState = "on" | "off" | `partial: ${string}` | `unavailable: ${string}`;

/** What became of each layer of one process. */
export type LayerReport = Readonly<Record<JailLayer, LayerState>>;

const reportLimit = 32 * 1024;

/** A report in which all of the launcher's layers have one state. */
function uniformReport(permission: LayerState, others: LayerState): LayerReport {
  return {
    permission,
    descriptors: others,
    environment: others,
    oom: others,
    "memory-cgroup": others,
    "pids-cgroup": others,
    network: others,
    rlimits: others,
    capabilities: others,
    uid: others,
    "no-new-privs": others,
    parent: others,
    landlock: others,
    seccomp: others,
  };
}

function isState(value: unknown): value is LayerState {
  return typeof value === "string" && /^(?:on$|off$|partial: |unavailable: )/.test(value);
}

/** A field of what might be an object. */
function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? new Map(Object.entries(value)).get(name) : undefined;
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** Reads the launcher's report: one JSON line (native/jail/report.c), then one with `error` if the execve failed. */
function parseReport(
  text: string,
  permission: LayerState,
): { layers: LayerReport; groups: readonly string[] } {
  const [report, failure] = text.split("\n").map(parseLine);
  const listed = field(report, "groups");
  const groups = Array.isArray(listed) ? listed.map(String) : [];
  const error = field(report, "error") ?? field(failure, "error");
  if (error !== undefined) return { layers: uniformReport(permission, `unavailable: ${error}`), groups };
  const layers: Record<JailLayer, LayerState> = {
    ...uniformReport(permission, "unavailable: the launcher said nothing"),
  };
  for (const layer of jailLayers) {
    const state = field(field(report, "layers"), layer);
    if (isState(state)) layers[layer] = state;
  }
  return { layers, groups };
}

/** Collects the report, and removes the process's cgroups when it is gone. */
export function followReport(
  child: ChildProcess,
  stream: Readable,
  permission: LayerState,
): Promise<LayerReport> {
  return new Promise((resolve) => {
    let text = "";
    let gone = false;
    let groups: readonly string[] = [];
    const settle = (): void => {
      const report = parseReport(text, permission);
      groups = report.groups;
      if (gone) removeGroups(groups);
      resolve(report.layers);
    };
    stream.setEncoding("utf8");
    stream.on("data", (part: string) => {
      if (text.length < reportLimit) text += part;
    });
    stream.on("error", () => {}); // "close" follows
    stream.once("close", settle);
    child.once("exit", () => {
      gone = true;
      removeGroups(groups);
    });
  });
}

/** Best effort: the launcher removes at its next start what is left over. */
function removeGroups(groups: readonly string[]): void {
  for (const group of groups) {
    try {
      rmdirSync(group);
    } catch {
      // Already swept by a launcher beside us, or not quite empty yet.
    }
  }
}
