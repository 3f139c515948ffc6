/** The probes that run when asked for: what they see, and when they end. */
import { spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { afterEach, describe, expect, test } from "vitest";
import { ON_DEMAND_PROBES } from "../../src/addon/index.ts";
import type { Frame } from "../../src/core/frame.ts";
import { imbalance, Ledger } from "../../src/core/ledger.ts";
import { KernelSource } from "../../src/sources/kernel.ts";
import { eventually } from "../helpers/eventually.ts";
import { bpfHoldings, exchangeOverTcp, missing, type Row, rowsOf } from "./helpers.ts";

describe.skipIf(missing !== "")(`probes on demand${missing === "" ? "" : ` (skipped: ${missing})`}`, () => {
  let source: KernelSource | undefined;
  afterEach(() => source?.stop());

  async function started(): Promise<{ kernel: KernelSource; rows: Row[]; ledger: Ledger }> {
    const rows: Row[] = [];
    const ledger = new Ledger();
    const kernel = new KernelSource({ intervalMs: 100, ledger, eventBudget: 100_000 });
    source = kernel;
    const frame = (_: string, one: Frame): boolean => rows.push(...rowsOf(one)) > 0;
    const intake = { frame, message: () => expect.fail("no messages") };
    await kernel.start(intake, new AbortController().signal);
    return { kernel, rows, ledger };
  }

  const stateOf = (kernel: KernelSource, name: string): string | undefined =>
    kernel.probes().find((probe) => probe.name === name)?.state;
  const sum = (rows: readonly Row[], pattern: RegExp): number =>
    rows.reduce((total, { metric, value }) => total + (pattern.test(metric) ? Number(value) : 0), 0);

  test("none runs before it is asked for, and a time and a name are demanded", async () => {
    const { kernel } = await started();
    for (const name of ON_DEMAND_PROBES) expect(stateOf(kernel, name)).toBe("stopped");
    expect(() => kernel.turnOn("sockcalls", Number.NaN)).toThrow(/--for/);
    expect(() => kernel.turnOn("sockcalls", 3_600_001)).toThrow(/--for/);
    expect(() => kernel.turnOn("sched", 1000)).toThrow(/there are sockcalls, opens, signals, dns/);
    expect(() => kernel.turnOff("nothing")).toThrow(/no probe to turn on/);
  });

  test("one ends by itself when its time is over, and leaves nothing behind", async () => {
    const { kernel, rows } = await started();
    const before = bpfHoldings();
    kernel.turnOn("signals", 1000);
    expect(stateOf(kernel, "signals")).toBe("on");
    spawnSync("sh", ["-c", "kill -USR1 $$"]);
    await eventually(() => expect(stateOf(kernel, "signals")).toBe("stopped"));
    // While the kernel counts what it costs, that is a descriptor, too.
    await eventually(() => expect(bpfHoldings()).toEqual(before));
    expect(sum(rows, /^process\.signals;.*executable\.name=sh;signal=SIGUSR1/)).toBeGreaterThanOrEqual(1);
  });

  test("opens gives each file with its path and why it was refused, and loses none unsaid", async () => {
    const { kernel, rows, ledger } = await started();
    kernel.turnOn("opens", 60_000);
    const path = `/nonexistent/${"a".repeat(30)}/weir`;
    await eventually(() => {
      // Among all that this machine opens, one may be lost.
      spawnSync("cat", [path]);
      const at = rows.findIndex(({ metric, value }) => metric === "file.path" && value === path);
      expect(at).toBeGreaterThan(0);
      expect(
        rows.slice(at - 3, at + 2).map(({ metric, value }) => (metric === "process.pid" ? metric : value)),
      ).toEqual(["file.open", "process.pid", "cat", path, "ENOENT"]);
      expect(
        sum(rows, /^process\.file\.opens;outcome=not_found;process\.executable\.name=cat/),
      ).toBeGreaterThan(0);
    });
    kernel.turnOff("opens");
    expect(stateOf(kernel, "opens")).toBe("stopped");
    const line = ledger.lines().find(({ name }) => name === "opens");
    expect(line?.in).toBeGreaterThan(0);
    // Turned on again, its account goes on where it was.
    kernel.turnOn("opens", 60_000);
    spawnSync("cat", [path]);
    await eventually(() => {
      const now = ledger.lines().find(({ name }) => name === "opens");
      expect(now?.in).toBeGreaterThan(line?.in ?? 0);
      expect(now === undefined ? 1 : imbalance(now)).toBe(0);
    });
  });

  test("one that is turned on again while it runs first sends what it has", async () => {
    const { kernel, rows, ledger } = await started();
    kernel.turnOn("opens", 60_000);
    spawnSync("cat", ["/nonexistent/twice"]);
    kernel.turnOn("opens", 60_000);
    expect(
      rows.filter(({ metric, value }) => metric === "file.path" && value === "/nonexistent/twice"),
    ).toHaveLength(1);
    expect(ledger.lines().filter((line) => imbalance(line) !== 0)).toEqual([]);
  });

  test.skipIf(process.getuid?.() !== 0)("what one costs is known while it runs, and only then", async () => {
    const { kernel } = await started();
    const cost = (): unknown => kernel.probes().find(({ name }) => name === "sockcalls")?.cost;
    kernel.turnOn("sockcalls", 60_000);
    await eventually(() => expect(cost()).toMatchObject({ nsPerRun: expect.any(Number) }));
    kernel.turnOff("sockcalls");
    expect(cost()).toBeUndefined();
  });

  test("sockcalls times calls on sockets by process", async () => {
    const { kernel, rows } = await started();
    kernel.turnOn("sockcalls", 60_000);
    await exchangeOverTcp(5);
    spawnSync("bash", ["-c", "echo > /dev/tcp/127.0.0.1/1"]);
    await eventually(() => {
      expect(
        sum(rows, /^process\.socket\.call\.count;call=connect;process\.executable\.name=bash/),
      ).toBeGreaterThanOrEqual(1);
      expect(
        sum(rows, /^process\.socket\.call\.errors;call=connect;process\.executable\.name=bash/),
      ).toBeGreaterThanOrEqual(1);
      expect(sum(rows, /^socket\.call\.duration\.count;call=connect$/)).toBeGreaterThanOrEqual(2);
      expect(sum(rows, /^socket\.call\.duration;call=accept;le=/)).toBeGreaterThanOrEqual(1);
    });
  });

  test("dns times answers by name server, and tells unknown names from errors", async () => {
    const server = createSocket("udp4");
    const bound = await new Promise<boolean>((done) => {
      server.once("error", () => done(false));
      server.bind(53, "127.0.0.53", () => done(true));
    });
    if (!bound) return; // this machine has a name server of its own there
    server.on("message", (question, { port, address }) => {
      const answer = Buffer.from(question);
      answer.writeUInt16BE(0x8180 | (question.readUInt16BE(0) % 2 === 0 ? 3 : 0), 2);
      server.send(answer, port, address);
    });
    const client = createSocket("udp4");
    try {
      const { kernel, rows } = await started();
      kernel.turnOn("dns", 60_000);
      for (const number of [1, 2, 3]) {
        const question = Buffer.alloc(17);
        question.writeUInt16BE(number, 0);
        const answered = once(client, "message");
        client.send(question, 53, "127.0.0.53");
        await answered;
      }
      await eventually(() => {
        // Others may ask other servers meanwhile.
        expect(sum(rows, /^dns\.lookup\.duration\.count$/)).toBeGreaterThanOrEqual(3);
        expect(sum(rows, /^dns\.server\.answers;server\.address=127\.0\.0\.53/)).toBe(3);
        expect(sum(rows, /^dns\.server\.unknown_names;server\.address=127\.0\.0\.53/)).toBe(1);
        expect(sum(rows, /^dns\.server\.errors;server\.address=127\.0\.0\.53/)).toBe(0);
      });
    } finally {
      client.close();
      server.close();
    }
  });
});
