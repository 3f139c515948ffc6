/** What the kernel tests share. */
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import { expect } from "vitest";
import {
  addonState,
  kernelSupport,
  openProbe,
  PROBES,
  type Probe,
  type ProbeName,
  RECORD_BYTES,
} from "../../src/addon/index.ts";
import { loadNative, type Native } from "../../src/addon/native.ts";
import { type Frame, Kind } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import type { SlotRows } from "../../src/sources/kernel-slots.ts";

/** Why probes can't be tested here, or "". */
export const missing: string = (() => {
  const addon = addonState();
  if (!addon.ok) return addon.reason;
  const support = kernelSupport();
  if (!support.recentEnough) return "kernel older than 5.17";
  if (!support.btf) return "kernel without BTF";
  if (!support.capBpf || !support.capPerfmon) return "no CAP_BPF and CAP_PERFMON";
  return "";
})();

/** The probes that this machine has: virtual ones often hide the processor's counters. */
export const PRESENT: readonly ProbeName[] = PROBES.filter((name) => {
  if (name !== "hardware" || missing !== "") return true;
  const result = openProbe(name);
  if (result.on) result.probe.close();
  return result.on || !result.reason.startsWith("this machine shows no such counters");
});

/** A port below those that the kernel gives out: two runs of a test on one machine have different ones. */
export const ownPort = (place: number): number => 20_000 + ((process.pid * 4 + place) % 10_000);

/** Opens a probe or fails the test with the reason. */
export function open(name: ProbeName, ringBytes?: number): Probe {
  const result = openProbe(name, ringBytes);
  if (!result.on) expect.fail(`${name}: ${result.reason}`);
  return result.probe;
}

/** The addon with a name in its programs changed, as a file of `folder`: the kernel refuses it as it refuses one that it really lacks. */
export function changedAddon(folder: string, name: string, by: string): Native {
  const addon = addonState();
  if (!addon.ok) return expect.fail(addon.reason);
  const bytes = readFileSync(addon.path);
  for (let at = bytes.indexOf(name); at >= 0; at = bytes.indexOf(name, at + 1)) bytes.write(by, at);
  const path = join(folder, `${by}.node`);
  writeFileSync(path, bytes);
  const loaded = loadNative(path);
  return loaded.ok ? loaded.native : expect.fail(loaded.reason);
}

/** The rows of what a probe of such an addon has counted by label so far. */
export function slotRows(native: Native, name: ProbeName, rows: SlotRows): Row[] {
  const words = new BigUint64Array(8 + 129 * 8);
  const slots = words.subarray(8, native.readCounters(name, words));
  const builder = new FrameBuilder();
  rows.add(builder, { produced: 0n, lost: 0n, sumNs: words, buckets: [], slots }, 1);
  return builder.rows > 0 ? rowsOf(builder.build()) : [];
}

/** A drained record, decoded. */
export interface ProcessEvent {
  readonly timeNs: bigint;
  readonly lifetimeNs: bigint;
  readonly kind: number;
  readonly pid: number;
  readonly ppid: number;
  readonly status: number;
  readonly comm: string;
}

/** Everything that is in the ring now. */
export function drainAll(probe: Probe): ProcessEvent[] {
  const into = new Uint8Array(1024 * RECORD_BYTES);
  const view = new DataView(into.buffer);
  const events: ProcessEvent[] = [];
  for (let count = probe.drain(into); count > 0; count = probe.drain(into)) {
    for (let at = 8; at < count * RECORD_BYTES; at += RECORD_BYTES) {
      const comm = Buffer.from(into.buffer, at + 40, 16).toString();
      events.push({
        timeNs: view.getBigUint64(at, true),
        lifetimeNs: view.getBigUint64(at + 8, true),
        kind: view.getUint32(at + 16, true),
        pid: view.getUint32(at + 20, true),
        ppid: view.getUint32(at + 24, true),
        status: view.getUint32(at + 28, true),
        comm: comm.slice(0, comm.indexOf("\0")),
      });
    }
  }
  return events;
}

/** Sum of a histogram. */
export function total(buckets: BigUint64Array | undefined): bigint {
  let sum = 0n;
  for (const count of buckets ?? []) sum += count;
  return sum;
}

/** Connects over loopback and sends `exchanges` bytes there and back, one at a time. Gives the port. */
export async function exchangeOverTcp(exchanges: number, wanted = 0): Promise<number> {
  const server = createServer((socket) => socket.pipe(socket));
  await new Promise<void>((resolve) => server.listen(wanted, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const client = connect(port, "127.0.0.1");
  let left = exchanges;
  await new Promise<void>((resolve, reject) => {
    client.on("error", reject);
    client.on("connect", () => client.write("x"));
    client.on("data", () => {
      left -= 1;
      if (left === 0) resolve();
      else client.write("x");
    });
  });
  client.destroy();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** What this process holds of BPF and perf events: descriptors with the kernel's ids of what they name, and mappings. */
export function bpfHoldings(): {
  readonly programs: string[];
  readonly maps: string[];
  readonly descriptors: number;
  readonly mappings: number;
} {
  const programs: string[] = [];
  const maps: string[] = [];
  let descriptors = 0;
  for (const fd of readdirSync("/proc/self/fd")) {
    try {
      if (!/bpf|perf_event/.test(readlinkSync(`/proc/self/fd/${fd}`))) continue;
      const info = readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
      descriptors += 1;
      programs.push(...(/^prog_id:\t(\d+)$/m.exec(info)?.slice(1) ?? []));
      maps.push(...(/^map_id:\t(\d+)$/m.exec(info)?.slice(1) ?? []));
    } catch {
      // closed meanwhile: the descriptor of the listing itself
    }
  }
  const mappings = readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => /bpf-map|perf_event/.test(line)).length;
  return { programs, maps, descriptors, mappings };
}

/** A frame's row with its dictionary entries looked up. */
export interface Row {
  readonly device: string;
  readonly metric: string;
  readonly unit: string;
  readonly timeUs: number;
  readonly kind: number;
  readonly value: number | string;
}

/** Every row of a frame of numbers and texts. */
export const rowsOf = (frame: Frame): Row[] =>
  Array.from({ length: frame.rows }, (_, row) => {
    const metric = frame.metric[row] ?? -1;
    const kind = frame.kind[row] ?? -1;
    const value = frame.value[row] ?? Number.NaN;
    return {
      device: frame.devices[frame.device[row] ?? -1] ?? "",
      metric: frame.metrics[metric] ?? "",
      unit: frame.units[metric] ?? "",
      timeUs: frame.time[row] ?? Number.NaN,
      kind,
      value: kind === Kind.text ? (frame.texts[value] ?? "") : value,
    };
  });
