/**
 * One fault in its world: devices, a whole agent, a link that can break, mosquitto behind it, and the judge subscribed there.
 * A fault says what goes wrong; what must hold afterwards is here, the same for all of them.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { imbalance, type LedgerLine } from "../../../src/core/ledger.ts";
import { Agent, AgentFolder, hasProgram } from "../../helpers/agent.ts";
import { until } from "../../helpers/until.ts";
import { Judge, type Verdict } from "./judge.ts";
import { Link } from "./link.ts";
import { Load, type LoadOptions } from "./load.ts";
import { Mosquitto, type MosquittoOptions } from "./mosquitto.ts";
import { record } from "./table.ts";

/** Whether the long form is wanted: `npm run test:faults`. */
export const LONG: boolean = process.env["WEIR_LONG"] === "1";

/** One of two, by the form of this run. */
export const long = <T>(inLong: T, inShort: T): T => (LONG ? inLong : inShort);

/** Time in which a message published after the fault's end must have arrived; other work on a shared machine makes it late. */
export const FRESH_S: number = long(30, 120);
/** A slow machine may take this long to bring everything else. */
const SETTLE_MS = 120_000;

/** What a fault needs and how its world looks. */
export interface FaultOptions {
  /** over the test's configuration */
  readonly config?: Readonly<Record<string, unknown>>;
  /** over the options of uplink `cloud` */
  readonly uplink?: Readonly<Record<string, unknown>>;
  /** uplinks beside `cloud`, which the judge doesn't see */
  readonly more?: Readonly<Record<string, unknown>>;
  readonly load?: Partial<LoadOptions>;
  /** how the broker is started */
  readonly broker?: Partial<MosquittoOptions>;
  /** where Weir connects to, when not through a link */
  readonly direct?: string;
  /** put before the judge's command */
  readonly judgeWrap?: readonly string[];
  /** where the judge connects to, when not the broker's loopback */
  readonly judgeUrl?: string;
  /**
   * devices publish to a mosquitto of their own, which Weir reads: what was not acknowledged to it comes again, so a message
   * that was committed just before a kill may be there twice
   */
  readonly devicesAtMosquitto?: boolean;
  /** a policy may drop: what is missing must have been announced, to the sample */
  readonly mayDrop?: boolean;
  /** what was stored may be gone: what is missing must be counted as lost */
  readonly mayLose?: boolean;
  /** put before the agent's command at its first start */
  readonly agentWrap?: readonly string[];
  /** makes the data folder, before the first start; gives what undoes it */
  readonly prepare?: (dir: string) => () => void;
  /** only in the long form */
  readonly longOnly?: boolean;
  /** programs; one that is missing skips the fault with its name */
  readonly needs?: readonly string[];
  /** undefined, or what this kernel lacks */
  readonly lacks?: string | undefined;
  readonly timeoutMs?: number;
}

/** What a fault works with. */
export class World {
  readonly folder: AgentFolder;
  readonly broker: Mosquitto;
  readonly link: Link;
  readonly judge: Judge;
  readonly load: Load;
  agent: Agent;

  /** where devices publish, when not to the agent */
  readonly devices: Mosquitto | undefined;

  constructor(
    parts: Pick<World, "folder" | "broker" | "link" | "judge" | "agent" | "devices">,
    load: Partial<LoadOptions>,
  ) {
    this.folder = parts.folder;
    this.broker = parts.broker;
    this.link = parts.link;
    this.judge = parts.judge;
    this.agent = parts.agent;
    this.devices = parts.devices;
    const { devices } = parts;
    const address = async (): Promise<string> =>
      devices === undefined ? await this.agent.broker() : `127.0.0.1:${devices.port}`;
    this.load = new Load(address, load);
  }

  /** Waits until that many more messages were acknowledged. */
  async acknowledged(more: number, timeoutMs = 120_000): Promise<void> {
    const before = this.load.acknowledged;
    await until(`${more} acknowledgements`, () => this.load.acknowledged >= before + more, timeoutMs);
  }

  /** Starts the agent (again). */
  async restart(wrap: readonly string[] = []): Promise<void> {
    this.agent = await Agent.start(this.folder, wrap);
  }

  /** Resident memory of the agent's main process, in MiB. */
  rssMiB(): number {
    const status = readFileSync(`/proc/${this.agent.child.pid}/status`, "utf8");
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) / 1024;
  }

  /** The ledger's line of what the uplink `cloud` gets of stream `data`. */
  async data(): Promise<LedgerLine> {
    const { lines } = await this.folder.api.ledger();
    const line = lines.find(({ stage, name }) => stage === "outbox" && name === "cloud/data");
    if (line === undefined) throw new Error("the ledger has no line cloud/data");
    return line;
  }
}

/**
 * A test of one fault. `body` starts with everything running under load, makes the fault, ends it, and leaves an agent running;
 * what it returns stands in the table. Then: a fresh message passes, everything acknowledged arrives, once, unchanged, in
 * order, nothing else does, and the ledger adds up.
 */
export function fault(
  name: string,
  options: FaultOptions,
  body: (world: World) => Promise<string | undefined>,
): void {
  const missing = ["mosquitto", ...(options.needs ?? [])].find((program) => !hasProgram(program));
  const why = missing === undefined ? options.lacks : `${missing} is not installed`;
  const skip = why !== undefined || (options.longOnly === true && !LONG);
  const title = why === undefined ? name : `${name} (skipped: ${why})`;
  test.skipIf(skip)(title, { timeout: options.timeoutMs ?? 600_000 }, async () => {
    const undo: (() => unknown)[] = [];
    try {
      const world = await build(options, undo);
      world.load.start();
      await world.acknowledged(100);
      const note = await body(world);
      await judged(name, world, options, note ?? "");
    } finally {
      for (const step of undo.toReversed()) await step();
    }
  });
}

async function build(options: FaultOptions, undo: (() => unknown)[]): Promise<World> {
  const broker = await Mosquitto.start(options.broker);
  undo.push(() => broker.remove());
  const link = new Link(broker.port);
  await link.start();
  undo.push(() => link.cut());
  const judge = await Judge.start(options.judgeUrl ?? `mqtt://127.0.0.1:${broker.port}`, options.judgeWrap);
  undo.push(() => judge.stop());
  const devices = options.devicesAtMosquitto === true ? await Mosquitto.start() : undefined;
  undo.push(() => devices?.remove());
  const plant = {
    url: `mqtt://127.0.0.1:${devices?.port}`,
    rules: [{ topic: "devices/{device}/{channel}" }],
  };
  const url = options.direct ?? `mqtt://127.0.0.1:${link.port}`;
  const folder = new AgentFolder({
    sources: {
      kernel: { enabled: false },
      system: { enabled: false },
      ...(devices === undefined ? {} : { mqtt: { plant } }),
    },
    ...options.config,
    uplinks: {
      cloud: { url, streams: ["alarm", "data"], batch: { ageMs: 50 }, ...options.uplink },
      ...options.more,
    },
  });
  undo.push(() => folder.remove());
  if (options.prepare !== undefined) undo.push(options.prepare(join(folder.dir, "data")));
  const agent = await Agent.start(folder, options.agentWrap);
  const world = new World({ folder, broker, link, judge, agent, devices }, options.load ?? {});
  undo.push(() => world.agent.kill());
  undo.push(() => world.load.stop());
  // Before it has subscribed, mosquitto keeps nothing for it.
  if (devices !== undefined) {
    const reads = async (): Promise<boolean> =>
      (await folder.api.status()).parts.some(
        ({ name, state }) => name === "source mqtt/plant" && state === "on",
      );
    await until("the subscription at the devices' broker", reads);
  }
  return world;
}

async function judged(name: string, world: World, options: FaultOptions, note: string): Promise<void> {
  const { load, judge } = world;
  const freshS = await freshAfter(load, judge);
  await load.stop();
  const verdict = await settled(world, options);
  const unbalanced = await imbalances(world.folder);
  const notes = [
    note,
    verdict.gapSamples > 0 ? `${verdict.gapSamples} samples announced in gaps` : "",
    verdict.historical > 0 ? `${verdict.historical} came as backlog` : "",
    verdict.copies > 0 ? `${verdict.copies} copies` : "",
  ];
  record(name, { ...verdict, freshS, unbalanced }, notes.filter((part) => part !== "").join("; "));
  expect(freshS, "seconds until a message published after the fault arrived").toBeLessThanOrEqual(FRESH_S);
  expect(verdict).toMatchObject({ invented: 0, altered: 0, changed: 0, disorder: 0 });
  if (options.devicesAtMosquitto !== true) expect(verdict.doubled).toBe(0);
  if (options.mayDrop === true) await announced(world, verdict);
  else if (options.mayLose === true)
    expect(verdict.missing * 2, "samples that are missing").toBeLessThanOrEqual(await lost(world));
  else {
    const which = verdict.missing === 0 ? "" : `${verdict.examples.join(", ")}; ${await leftBehind(world)}`;
    expect(verdict.missing, `not arrived, such as ${which}`).toBe(0);
  }
  expect(unbalanced).toBe("");
}

/** Samples that the agent had committed, and found gone. */
async function lost({ folder }: World): Promise<number> {
  const { lines } = await folder.api.ledger();
  const counts = ({ stage, name }: LedgerLine): boolean => stage === "commit" || name === "cloud/data";
  return lines.reduce((sum, line) => sum + (counts(line) ? line.lost : 0), 0);
}

/** What the agent says about a loss. */
async function leftBehind({ folder, agent }: World): Promise<string> {
  const { lines } = await folder.api.ledger();
  const stages = lines.map(({ also: _, ...line }) => JSON.stringify(line)).join("\n");
  return `the ledger and the log:\n${stages}\n${agent.output.slice(-4_000)}`;
}

/** The verdict once nothing is missing; where a policy may drop, once the agent holds nothing and has announced it all. */
async function settled(world: World, { mayDrop, mayLose }: FaultOptions): Promise<Verdict> {
  const ask = (): Promise<Verdict> => world.judge.verdict(world.load.ranges, world.load.next);
  const atRest = async (): Promise<boolean> => {
    const { missing, gapSamples } = await ask();
    if (mayLose === true && missing * 2 <= (await lost(world))) return (await world.data()).held === 0;
    if (mayDrop !== true) return missing === 0;
    const { held, dropped, rejected } = await world.data();
    return held === 0 && gapSamples >= dropped + rejected;
  };
  // What is still missing then is in the verdict.
  await until("everything to arrive", atRest, SETTLE_MS).catch(() => {});
  return await ask();
}

/** Nothing is missing that no gap has told of, and gaps tell of exactly what the ledger says was dropped or set aside. */
async function announced(world: World, verdict: Verdict): Promise<void> {
  const { dropped, rejected } = await world.data();
  const gone = dropped + rejected;
  expect(verdict.gapSamples, "samples that gaps announced, beside those that the ledger has as gone").toBe(
    gone,
  );
  expect(verdict.missing * 2, "samples that are missing").toBeLessThanOrEqual(gone);
}

/** Seconds until a message published from now on has arrived; infinite when none did in time. */
export async function freshAfter(load: Load, judge: Judge): Promise<number> {
  const ended = performance.now();
  const begin = Object.entries(load.next);
  const arrived = async (): Promise<boolean> => {
    for (const [device, first] of begin)
      for (let n = first; n < (load.next[device] ?? 0); n++) if (await judge.has(device, n)) return true;
    return false;
  };
  try {
    await until("a message published after the fault", arrived, FRESH_S * 1000);
    return (performance.now() - ended) / 1000;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

/** The stages whose account doesn't add up when the agent has come to rest. */
export async function imbalances({ api }: AgentFolder): Promise<string> {
  let wrong = "";
  await until("the ledger to add up", async () => {
    const { lines } = await api.ledger();
    wrong = lines
      .filter((line) => imbalance(line) !== 0)
      .map((line) => `${line.stage} ${line.name}: ${imbalance(line)}`)
      .join(", ");
    return wrong === "";
  }).catch(() => {});
  return wrong;
}
