/**
 * Each wall around a component alone: none around its process stands, every other limit is as wide as it can be written, and the wall
 * still stops its attack. Those around the process are in test/native/jail-layers.test.ts.
 */
import { rmSync } from "node:fs";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { jailLayers } from "../../src/plugins/jail.ts";
import { fixture, frameOf, hostile, Lane, openFolder, rowsOf, type Subject } from "../helpers/lane.ts";

const WIDE = {
  memoryMiB: 512,
  timeMs: 60_000,
  outputRows: 65_536,
  outputBytes: 4_194_304,
  stateBytes: 16_777_216,
  logPerMin: 6_000,
  effectsPerBatch: 10_000,
};

interface Wall {
  readonly wall: string;
  readonly component: string;
  /** what is as tight as can be */
  readonly limits?: Partial<typeof WIDE>;
  readonly grant?: readonly string[];
  /** what is said of the call, or of the plugin */
  readonly stopped: RegExp;
}

const WALLS: readonly Wall[] = [
  { wall: "safe names", component: hostile("name-injection-export"), stopped: /could pass for code/ },
  { wall: "imports", component: hostile("forbidden-sockets"), stopped: /which no plugin gets/ },
  { wall: "WASI is stubs", component: hostile("reads-env"), stopped: /a=0 b=0/ },
  { wall: "memory", component: hostile("grow"), limits: { memoryMiB: 8 }, stopped: /unreachable/ },
  { wall: "deadline", component: hostile("spin"), limits: { timeMs: 300 }, stopped: /longer than 300 ms/ },
  {
    wall: "rows",
    component: fixture("passthrough"),
    limits: { outputRows: 1 },
    stopped: /2 rows, its limit/,
  },
  {
    wall: "bytes",
    component: fixture("passthrough"),
    limits: { outputBytes: 72 },
    stopped: /bytes, its limit/,
  },
  { wall: "meter", component: hostile("alias-texts"), stopped: /more than its limits/ },
  { wall: "state", component: hostile("state-flood"), limits: { stateBytes: 0 }, stopped: /0 kept/ },
  { wall: "log lines", component: hostile("log-flood"), limits: { logPerMin: 10 }, stopped: /asked over/ },
  {
    wall: "effects",
    component: hostile("effect-flood"),
    limits: { effectsPerBatch: 10 },
    grant: ["#"],
    stopped: /asked over/,
  },
  { wall: "grants", component: fixture("publisher"), stopped: /0 effects/ },
  { wall: "frame checked again", component: hostile("bad-index"), stopped: /index|dictionary/ },
  { wall: "devices checked again", component: hostile("foreign-device"), stopped: /2 of others/ },
];

test("each wall around a component stops its attack alone, as is printed", async () => {
  const folder = openFolder("weir-walls-");
  const subjects = WALLS.map(({ component, limits, grant }, at): [string, Subject] => [
    `wall-${at}`,
    {
      component,
      manifest: { needs: { state: true, alarm: true }, limits: { ...WIDE, ...limits } },
      options: { bind: { devices: [`wall-${at}`] }, grant: { publish: grant ?? [] } },
    },
  ]);
  const lane = await Lane.start(Object.fromEntries(subjects), join(folder, "cache"), { without: jailLayers });
  /** What comes of a plugin's attack, on one line. */
  async function outcomeOf(name: string): Promise<string> {
    const { state, reason } = lane.info(name) ?? {};
    if (state === "refused") return `refused: ${reason}`;
    const result = await lane.send(frameOf([name, "a", 1], [name, "b", 2]));
    if (!result.ok) {
      await lane.manager.chain.restart();
      return result.failures[0].reason;
    }
    const { frame, state: kept, effects, counts } = lane.commit(result);
    const values = rowsOf(frame).map(([, metric, value]) => `${metric}=${value}`);
    const others = counts.reduce((sum, { refused }) => sum + refused, 0);
    return `${values.join(" ")}, ${kept.length} kept, ${effects.length} effects, ${others} of others`;
  }
  const lines: string[] = [];
  try {
    for (const [at, { wall, component, stopped }] of WALLS.entries()) {
      const outcome = await outcomeOf(`wall-${at}`);
      lines.push(`${wall.padEnd(24)}${basename(component, ".wasm").padEnd(24)}${outcome}`);
      expect(outcome, wall).toMatch(stopped);
    }
    console.log(`${"wall, alone".padEnd(24)}${"attack".padEnd(24)}what comes of it\n${lines.join("\n")}`);
  } finally {
    await lane.stop();
    rmSync(folder, { recursive: true, force: true });
  }
});
