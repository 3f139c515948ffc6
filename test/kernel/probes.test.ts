/** Three of the probes on the real kernel. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import { bootTimeOffsetUs, ON_DEMAND_PROBES, openProbe, RECORD_BYTES } from "../../src/addon/index.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { SlotRows } from "../../src/sources/kernel-slots.ts";
import { eventually } from "../helpers/eventually.ts";
import {
  bpfHoldings,
  drainAll,
  exchangeOverTcp,
  missing,
  open,
  ownPort,
  PRESENT,
  type ProcessEvent,
  rowsOf,
  total,
} from "./helpers.ts";

describe.skipIf(missing !== "")(`kernel probes${missing === "" ? "" : ` (skipped: ${missing})`}`, () => {
  test("sched counts each wait for a CPU once, in a bucket or as lost", async () => {
    const probe = open("sched");
    try {
      const before = total(probe.read().buckets[0]);
      spawnSync("/bin/true");
      await eventually(() => expect(total(probe.read().buckets[0])).toBeGreaterThan(before));
      // Counting goes on while the CPUs are read one after the other, so the parts agree up to what ran meanwhile.
      await eventually(() => {
        const { produced, lost, sumNs, buckets } = probe.read();
        const counted = total(buckets[0]) + lost;
        expect(Number(produced - counted)).toBeLessThan(100);
        expect(sumNs[0]).toBeGreaterThan(0n);
        let [least, most] = [0n, 0n];
        for (const [bucket, count] of (buckets[0] ?? []).entries()) {
          most += count << BigInt(bucket);
          if (bucket > 0) least += count << BigInt(bucket - 1);
        }
        expect(sumNs[0]).toBeLessThanOrEqual(most + 10_000_000n);
        expect(sumNs[0]).toBeGreaterThanOrEqual(least - 10_000_000n);
      });
    } finally {
      probe.close();
    }
  });

  test("tcp counts a connection's latency once and its round trips", async () => {
    const probe = open("tcp");
    try {
      const before = probe.read().buckets.map(total);
      await exchangeOverTcp(50);
      const { buckets, sumNs, lost } = probe.read();
      const [connects = 0n, trips = 0n] = buckets.map((counts, k) => total(counts) - (before[k] ?? 0n));
      expect(connects).toBeGreaterThanOrEqual(1n);
      expect(trips).toBeGreaterThanOrEqual(10n); // the first segments of both ends, at least
      expect(sumNs[0]).toBeGreaterThan(0n);
      expect(sumNs[1]).toBeGreaterThan(0n);
      expect(lost).toBe(0n);
    } finally {
      probe.close();
    }
  });

  test("a refused connection has no latency", async () => {
    const probe = open("tcp");
    try {
      const refused = spawnSync("bash", ["-c", "for i in $(seq 50); do echo > /dev/tcp/127.0.0.1/1; done"]);
      expect(refused.status).not.toBe(0);
      const port = await exchangeOverTcp(1, ownPort(3));
      // By the peer's port: other programs of this machine may connect meanwhile, too.
      const builder = new FrameBuilder();
      new SlotRows("tcp").add(builder, probe.read(), 1);
      const connects = rowsOf(builder.build()).filter(({ metric }) =>
        metric.startsWith("tcp.peer.connect.count;"),
      );
      const to = (peer: number) =>
        connects.filter(({ metric }) => metric.endsWith(`network.peer.port=${peer}`));
      expect(to(port)).toHaveLength(1);
      expect(to(1)).toEqual([]);
    } finally {
      probe.close();
    }
  });

  test("exec sees a process start and end, with its parent, exit code, time and lifetime", () => {
    const probe = open("exec");
    try {
      const child = spawnSync("sh", ["-c", "exec sleep 0.02; "]);
      const failed = spawnSync("sh", ["-c", "exit 7"]);
      const events = drainAll(probe);
      const started = events.filter((event) => event.pid === child.pid && event.kind === 1);
      expect(started.map((event) => event.comm)).toEqual(["sh", "sleep"]);
      expect(started.map((event) => event.ppid)).toEqual([process.pid, process.pid]);
      const [ended] = events.filter((event) => event.pid === child.pid && event.kind === 2);
      expect(ended).toMatchObject({ comm: "sleep", status: 0, ppid: process.pid });
      expect(Number(ended?.lifetimeNs)).toBeGreaterThan(20e6);
      expect(Math.abs(Number(ended?.timeNs) / 1000 + bootTimeOffsetUs() - Date.now() * 1000)).toBeLessThan(
        60e6,
      );
      const [exited] = events.filter((event) => event.pid === failed.pid && event.kind === 2);
      expect(exited?.status).toBe(7 << 8);
    } finally {
      probe.close();
    }
  });

  test("exec reports one exit for a process of many threads, by the process's name, and the signal that ended it", async () => {
    const probe = open("exec");
    try {
      const code =
        "for (let i = 0; i < 4; i++) new (require('worker_threads').Worker)('setInterval(() => {}, 1e6)', { eval: true });";
      const child = spawn(process.execPath, ["-e", `${code} console.log('up'); setInterval(() => {}, 1e6)`]);
      await once(child.stdout, "data");
      const name = readFileSync(`/proc/${child.pid}/comm`, "utf8").trimEnd();
      child.kill("SIGKILL");
      await once(child, "exit");
      const exits = drainAll(probe).filter((event) => event.kind === 2 && event.pid === child.pid);
      expect(exits.map((event) => event.status & 0x7f)).toEqual([constants.signals.SIGKILL]);
      expect(exits.map(({ comm }) => comm)).toEqual([name]);
    } finally {
      probe.close();
    }
  });

  test("a flooded ring accounts for every event: produced = drained + lost", async () => {
    const probe = open("exec", 1);
    try {
      const flood = spawnSync("sh", ["-c", "i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done"]);
      expect(flood.status).toBe(0);
      const full = probe.read();
      expect(full.produced).toBeGreaterThanOrEqual(2000n);
      expect(full.lost).toBeGreaterThanOrEqual(full.produced - 4096n / 64n);
      let drained = 0n;
      // Other processes of this machine come and go: the identity is reached as soon as nothing is being written.
      await eventually(() => {
        drained += BigInt(drainAll(probe).length);
        const { produced, lost } = probe.read();
        expect(drained + lost).toBe(produced);
      }, 5);
      // A ring of 64 places holds 63 records.
      expect(drained).toBeGreaterThanOrEqual(63n);
    } finally {
      probe.close();
    }
  });

  test("a drained ring loses nothing and keeps the order of each process", async () => {
    const probe = open("exec", 1 << 20);
    try {
      const flood = spawn("sh", ["-c", "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done"]);
      const events: ProcessEvent[] = [];
      const ended = once(flood, "exit");
      const timer = setInterval(() => events.push(...drainAll(probe)), 5);
      await ended;
      clearInterval(timer);
      events.push(...drainAll(probe));
      expect(probe.read().lost).toBe(0n);
      const ours = events.filter((event) => event.ppid === flood.pid);
      expect(ours.length).toBe(1000);
      const kinds = Map.groupBy(ours, (event) => event.pid);
      expect([...kinds.values()].every(([first, second]) => first?.kind === 1 && second?.kind === 2)).toBe(
        true,
      );
    } finally {
      probe.close();
    }
  });

  test("a hundred loads leave no program, map, descriptor or mapping behind", async () => {
    const before = bpfHoldings();
    const ids = { prog: new Set<string>(), map: new Set<string>() };
    for (let round = 0; round < 100; round++) {
      const probes = [...PRESENT, ...ON_DEMAND_PROBES].map((name) => open(name, 4096));
      const { programs, maps } = bpfHoldings();
      for (const id of programs) ids.prog.add(id);
      for (const id of maps) ids.map.add(id);
      for (const probe of probes) probe.close();
    }
    expect(bpfHoldings()).toEqual(before);
    expect(ids.prog.size).toBeGreaterThanOrEqual(700);

    // Where bpftool is at hand the kernel itself is asked; it frees what nobody holds after a grace period.
    const env = { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin` };
    const alive = (what: "prog" | "map"): string[] => {
      const { stdout } = spawnSync("bpftool", [what, "list"], { encoding: "utf8", env });
      return [...(stdout ?? "").matchAll(/^(\d+):/gm)]
        .map(([, id]) => id ?? "")
        .filter((id) => ids[what].has(id));
    };
    await eventually(() => expect([...alive("prog"), ...alive("map")]).toEqual([]), 100);
  });

  test("a closed probe says so, and its name can be opened again", () => {
    const first = open("exec");
    expect(() => openProbe("exec")).toThrow(/already loaded/);
    expect(() => first.drain(new Uint8Array(RECORD_BYTES - 1))).toThrow(/room/);
    first.close();
    first.close();
    expect(() => first.read()).toThrow(/closed/);
    const second = open("exec");
    expect(() => first.drain(new Uint8Array(RECORD_BYTES))).toThrow(/closed/);
    second.close();
  });
});
