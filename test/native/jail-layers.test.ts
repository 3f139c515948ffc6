// Each wall alone: all others are off, and the attack that succeeds without any wall is stopped. Needs root, because a wall
// that is tried alone must be the only thing in the way.

import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { JailLayer } from "../../src/plugins/jail.ts";
import { type Attempt, attempt } from "./jail-helpers.ts";

const root = process.getuid?.() === 0;
const folder = mkdtempSync(join(tmpdir(), "weir-jail-"));
const server = createServer();
const abstract = createServer();
let port = 0;

beforeAll(async () => {
  writeFileSync(join(folder, "private"), "p", { mode: 0o600 });
  server.listen(0, "127.0.0.1");
  abstract.listen(`\0weir-layers-${process.pid}`);
  await Promise.all([once(server, "listening"), once(abstract, "listening")]);
  const address = server.address();
  port = typeof address === "object" && address !== null ? address.port : 0;
});

afterAll(() => {
  server.close();
  abstract.close();
  rmSync(folder, { recursive: true });
});

/** Attacks that succeed for root outside the jail. */
const attacks: Readonly<Record<string, () => Attempt>> = {
  "read a private file": () => ["read", join(folder, "private")],
  "read a public file": () => ["read", "/etc/passwd"],
  "read the parent's environment": () => ["read", `/proc/${process.pid}/environ`],
  "write a file": () => ["write", join(folder, "new")],
  "signal the parent": () => ["kill", process.pid, 0],
  "connect over TCP": () => ["tcp", port],
  "connect to an abstract socket": () => ["unix", `@weir-layers-${process.pid}`],
  "send over UDP": () => ["udp", port],
  "start a program": () => ["spawn", "/bin/true"],
  "enter a new namespace": () => ["call", "unshare", 0x04000000],
  "read the parent's memory": () => ["read", `/proc/${process.pid}/auxv`],
  "take 1.5 GB": () => ["memory", 1500],
  "start 40 threads": () => ["threads", 40],
};

/** What each wall stops, and with which answer. */
const walls: readonly { layer: JailLayer; stops: Record<string, RegExp> }[] = [
  {
    layer: "permission",
    stops: { "read a public file": /ERR_ACCESS_DENIED/, "start a program": /ERR_ACCESS_DENIED/ },
  },
  {
    layer: "uid",
    stops: {
      "read a private file": /EACCES/,
      "read the parent's environment": /EACCES/,
      "signal the parent": /EPERM/,
      "enter a new namespace": /EPERM/,
    },
  },
  { layer: "capabilities", stops: { "enter a new namespace": /EPERM/ } },
  {
    layer: "landlock",
    stops: {
      "read a public file": /EACCES/,
      "read the parent's environment": /EACCES/,
      "write a file": /EACCES/,
      "signal the parent": /EPERM/,
      "connect over TCP": /EACCES/,
      "connect to an abstract socket": /EPERM/,
      "start a program": /EACCES/,
    },
  },
  {
    layer: "seccomp",
    stops: {
      "write a file": /EPERM/,
      "signal the parent": /EPERM/,
      "connect over TCP": /EPERM/,
      "connect to an abstract socket": /EPERM/,
      "send over UDP": /EPERM/,
      "start a program": /EPERM/,
      "enter a new namespace": /EPERM/,
    },
  },
  {
    layer: "network",
    stops: {
      "connect over TCP": /ENETUNREACH/,
      "send over UDP": /ENETUNREACH/,
      "connect to an abstract socket": /ECONNREFUSED/,
    },
  },
  { layer: "rlimits", stops: { "write a file": /SIGXFSZ|EFBIG/, "take 1.5 GB": /ended|allocation failed/ } },
  { layer: "memory-cgroup", stops: { "take 1.5 GB": /SIGKILL/ } },
  { layer: "pids-cgroup", stops: { "start 40 threads": /ERR_WORKER_INIT_FAILED|ended/ } },
];

/** After these, or while they go on, a process may be in no state to try another. */
const LAST: ReadonlySet<string> = new Set(["take 1.5 GB", "start 40 threads"]);

const OPTIONS = { memoryMiB: 256, threads: 30 };

/** What comes of each attack with these walls alone, and how the wall stands. */
async function outcomesOf(layer?: JailLayer): Promise<{ outcomes: Map<string, string>; state: string }> {
  const only = layer === undefined ? [] : [layer];
  const outcomes = new Map<string, string>();
  let state = "";
  const run = async (names: readonly string[]): Promise<void> => {
    const list = names.map((name): Attempt => attacks[name]?.() ?? [name]);
    const { outcomes: said, layers } = await attempt(list, { only, ...OPTIONS });
    if (layer !== undefined) state = layers[layer];
    // One of them has ended the process: which one, each by itself tells.
    if (typeof said === "string" && names.length > 1) for (const name of names) await run([name]);
    else
      for (const [at, name] of names.entries())
        outcomes.set(name, typeof said === "string" ? said : (said[at] ?? ""));
  };
  const names = Object.keys(attacks);
  await run(names.filter((name) => !LAST.has(name)));
  for (const name of LAST) await run([name]);
  return { outcomes, state };
}

describe.runIf(root)("walls, each alone (needs root)", () => {
  /** a column for each wall that stands here */
  const matrix = new Map<string, ReadonlyMap<string, string>>();
  afterAll(() => {
    const widthOf = (layer: string): number => Math.max("stops".length, layer.length) + 2;
    const cell = (layer: string, name: string): string =>
      (matrix.get(layer)?.get(name)?.startsWith("ok") ? "-" : "stops").padEnd(widthOf(layer));
    const lines = Object.keys(attacks).map(
      (name) => `${name.padEnd(32)}${[...matrix.keys()].map((layer) => cell(layer, name)).join("")}`,
    );
    const head = [...matrix.keys()].map((layer) => layer.padEnd(widthOf(layer))).join("");
    console.log(`${"attack".padEnd(32)}${head}\n${lines.join("\n")}`);
  });

  test("without any, every attack succeeds", async () => {
    const { outcomes } = await outcomesOf();
    matrix.set("none", outcomes);
    for (const [name, outcome] of outcomes) expect(outcome, name).toMatch(/^ok/);
  });

  test.for(walls)("$layer stops what it is there for", async ({ layer, stops }, { skip }) => {
    const { outcomes, state } = await outcomesOf(layer);
    skip(/^(unavailable|partial: files)/.test(state), `${layer} is ${state}`);
    matrix.set(layer, outcomes);
    for (const [name, answer] of Object.entries(stops)) expect(outcomes.get(name), name).toMatch(answer);
  });
});
