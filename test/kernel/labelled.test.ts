/** What the probes count by label, provoked on the real kernel and read as the rows that leave the source. */
import { spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { closeSync, fsyncSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Probe } from "../../src/addon/index.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { BlockRows, SoftirqRows } from "../../src/sources/kernel-shapes.ts";
import { SlotRows } from "../../src/sources/kernel-slots.ts";
import { eventually } from "../helpers/eventually.ts";
import { exchangeOverTcp, missing, open, ownPort, rowsOf } from "./helpers.ts";

type Adder = Pick<SlotRows, "add">;

/** Sums of the rows so far whose metric matches. */
function reader(probe: Probe, rows: Adder): (pattern: RegExp) => number {
  const sums = new Map<string, number>();
  return (pattern) => {
    const counters = probe.read();
    // The largest come first, the others with the next rows.
    for (let more = 1; more > 0; ) {
      const builder = new FrameBuilder();
      rows.add(builder, counters, 1);
      more = builder.rows;
      for (const { metric, value } of more > 0 ? rowsOf(builder.build()) : [])
        sums.set(metric, (sums.get(metric) ?? 0) + Number(value));
    }
    let sum = 0;
    for (const [metric, value] of sums) if (pattern.test(metric)) sum += value;
    return sum;
  };
}

const refused = (): number | null =>
  spawnSync("bash", ["-c", "for i in $(seq 5); do echo > /dev/tcp/127.0.0.1/1; done"]).status;

describe.skipIf(missing !== "")(`labelled probes${missing === "" ? "" : ` (skipped: ${missing})`}`, () => {
  test("sched tells a process asleep from one that computes", async () => {
    const probe = open("sched");
    const sum = reader(probe, new SlotRows("sched"));
    spawnSync("sleep", ["0.1"]);
    expect(sum(/executable\.name=sleep;state=sleeping/)).toBeGreaterThan(0.09);
    expect(sum(/executable\.name=sleep;state=cpu/)).toBeLessThan(0.09);
    probe.close();
  });

  test("softirq gives time by vector", async () => {
    const probe = open("softirq");
    const sum = reader(probe, new SoftirqRows());
    await eventually(() => expect(sum(/softirq\.time;vector=/)).toBeGreaterThan(0));
    probe.close();
  });

  const disks = readFileSync("/proc/diskstats", "utf8");
  test.skipIf(!/ (vd|sd|nvme|mmcblk|xvd)\S+ /.test(disks))(
    "block sees a file synced to its disk",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "weir-block-"));
      const probe = open("block");
      const sum = reader(probe, new BlockRows());
      const file = openSync(join(folder, "f"), "w");
      writeSync(file, Buffer.alloc(1 << 20, 1));
      fsyncSync(file);
      closeSync(file);
      rmSync(folder, { recursive: true });
      await eventually(() => {
        expect(sum(/^system\.disk\.request\.duration\.count;system\.device=/)).toBeGreaterThan(0);
        expect(sum(/^system\.disk\.request\.size\.sum;system\.device=/)).toBeGreaterThanOrEqual(1 << 20);
      });
      probe.close();
    },
  );

  test("tcp gives connect time and round trips by peer and by the port that was served", async () => {
    const probe = open("tcp");
    const sum = reader(probe, new SlotRows("tcp"));
    // The second from among those that the kernel gives to clients.
    for (const wanted of [ownPort(1), 0]) {
      const port = await exchangeOverTcp(20, wanted);
      const served = new RegExp(
        `^tcp\\.peer\\.rtt\\.count;network\\.local\\.port=${port};.*address=127\\.0\\.0\\.1$`,
      );
      const asked = new RegExp(
        `^tcp\\.peer\\.connect\\.count;.*address=127\\.0\\.0\\.1;network\\.peer\\.port=${port}$`,
      );
      expect(sum(served)).toBeGreaterThanOrEqual(5);
      expect(sum(asked)).toBe(1);
    }
    expect(sum(/^tcp\.peer\.rtt\.sum;/)).toBeGreaterThan(0);
    probe.close();
  });

  test("tcploss counts resets of a refused connection at both ends, by the peer and the port", () => {
    const probe = open("tcploss");
    const sum = reader(probe, new SlotRows("tcploss"));
    expect(refused()).not.toBe(0);
    expect(
      sum(/^tcp\.resets;network\.io\.direction=receive.*peer\.address=127\.0\.0\.1/),
    ).toBeGreaterThanOrEqual(5);
    // No socket takes part in sending these.
    expect(
      sum(/direction=transmit;network\.local\.port=1;network\.peer\.address=127\.0\.0\.1$/),
    ).toBeGreaterThanOrEqual(5);
    probe.close();
  });

  test("drops counts datagrams to a port that nobody reads, by reason and interface", async () => {
    const probe = open("drops");
    const sum = reader(probe, new SlotRows("drops"));
    const socket = createSocket("udp4");
    socket.on("error", () => {});
    for (let i = 0; i < 10; i++) await new Promise((done) => socket.send("x", 9, "127.0.0.1", done));
    socket.close();
    await eventually(() =>
      expect(
        sum(/^system\.linux\.packet\.dropped;network\.interface\.name=lo;reason=no_socket$/),
      ).toBeGreaterThanOrEqual(10),
    );
    probe.close();
  });

  test("coldstart times a program from exec to listening and to its first connection", () => {
    const probe = open("coldstart");
    const sum = reader(probe, new SlotRows("coldstart"));
    // A port of port 0 is known only after listening began; a fixed one is as a service has it.
    const port = ownPort(2);
    const code = `const n = require("node:net");
      const s = n.createServer(() => process.exit()).listen(${port}, "127.0.0.1", () => n.connect(${port}, "127.0.0.1"));`;
    spawnSync(process.execPath, ["-e", code]);
    const of = (what: string, phase: string): RegExp =>
      new RegExp(`startup\\.${what};network\\.local\\.port=${port};phase=${phase};`);
    expect(sum(of("count", "listen"))).toBe(1);
    expect(sum(of("count", "connection"))).toBe(1);
    expect(sum(of("duration", "connection"))).toBeGreaterThan(sum(of("duration", "listen")));
    probe.close();
  });

  for (const name of ["oom", "fserror", "writeerror", "thermal"] as const) {
    test(`${name} attaches and says nothing while nothing happens`, () => {
      const probe = open(name);
      expect(reader(probe, new SlotRows(name))(/./)).toBe(0);
      probe.close();
    });
  }
});
