/** Trouble that has to be made before a probe can see it: no memory, a damaged file system, lost segments. */
import { spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Probe } from "../../src/addon/index.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { LARGEST_RING_BYTES } from "../../src/sources/kernel-events.ts";
import { openFallback } from "../../src/sources/kernel-fallbacks.ts";
import { SlotRows } from "../../src/sources/kernel-slots.ts";
import { eventually } from "../helpers/eventually.ts";
import { bpfHoldings, changedAddon, drainAll, missing, open, type Row, rowsOf, slotRows } from "./helpers.ts";

const lacking = missing !== "" ? missing : process.getuid?.() !== 0 ? "not root" : "";
const environment = { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` };
const run = (command: string, ...args: string[]): string => {
  const options = { encoding: "utf8", env: environment, maxBuffer: 2 ** 28 } as const;
  const ran = spawnSync("sh", ["-ec", command, "sh", ...args], options);
  if (ran.status !== 0) throw new Error(`${command}: ${ran.stderr}`);
  return ran.stdout;
};
const has = (program: string): boolean =>
  spawnSync("sh", ["-c", `command -v ${program}`], { env: environment }).status === 0;

/** A memory cgroup of 32 MiB, of version 1 or 2; undefined where none can be made. */
function smallCgroup(): { readonly dir: string; remove(): void } | undefined {
  for (const [parent, limit] of [
    ["/sys/fs/cgroup/memory", "memory.limit_in_bytes"],
    ["/sys/fs/cgroup", "memory.max"],
  ] as const) {
    const dir = join(parent, `weir-test-${process.pid}`);
    try {
      mkdirSync(dir);
    } catch {
      continue;
    }
    try {
      writeFileSync(join(dir, limit), String(32 * 2 ** 20));
      if (existsSync(join(dir, "memory.swap.max"))) writeFileSync(join(dir, "memory.swap.max"), "0");
      return { dir, remove: () => rmdirSync(dir) };
    } catch {
      rmdirSync(dir);
    }
  }
  return undefined;
}

function rowsNow(probe: Probe, rows: SlotRows): Row[] {
  const builder = new FrameBuilder();
  rows.add(builder, probe.read(), 1);
  return builder.rows > 0 ? rowsOf(builder.build()) : [];
}

describe.skipIf(lacking !== "")(`provoked trouble${lacking === "" ? "" : ` (skipped: ${lacking})`}`, () => {
  test("oom names the process that was killed for want of memory", async (context) => {
    const cgroup = smallCgroup();
    if (cgroup === undefined) return context.skip("no memory cgroup can be made here");
    const probe = open("oom");
    try {
      const program = join(tmpdir(), `glutton-${process.pid}`);
      // The name that the kernel knows a process by is its file's.
      run('ln -sf "$(command -v "$1")" "$2"', process.execPath, program);
      const eat = "const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1));";
      spawnSync("sh", ["-c", `echo $$ > ${cgroup.dir}/cgroup.procs; exec ${program} -e '${eat}'`]);
      rmSync(program);
      const rows = new SlotRows("oom");
      await eventually(() => {
        const [row] = rowsNow(probe, rows);
        expect(row?.metric).toMatch(/^process\.oom_kills;process\.executable\.name=/);
        expect(row?.value).toBeGreaterThanOrEqual(1);
      });
    } finally {
      probe.close();
      await eventually(() => cgroup.remove());
    }
  });

  test.skipIf(!has("mkfs.ext4") || !has("debugfs"))(
    "fserror counts errors of a damaged file system",
    async (context) => {
      const folder = mkdtempSync(join(tmpdir(), "weir-ext4-"));
      const [image, mount] = [join(folder, "image"), join(folder, "mount")];
      mkdirSync(mount);
      const probe = open("fserror");
      try {
        run('truncate -s 8M "$1" && mkfs.ext4 -q -F -b 1024 "$1"', image);
        try {
          run('mount -o loop "$1" "$2"', image, mount);
        } catch {
          return context.skip("no loop devices here");
        }
        run('mkdir "$1/d" && touch "$1/d/f" && umount "$1"', mount);
        const block = Number(run('debugfs -R "blocks /d" "$1" 2>/dev/null', image).trim());
        // Its checksum no longer fits.
        const file = openSync(image, "r+");
        writeSync(file, Buffer.alloc(8, 0xff), 0, 8, block * 1024 + 32);
        closeSync(file);
        const device = run(
          'mount -o loop "$1" "$2"; ls "$2/d" >/dev/null 2>&1 || true; findmnt -no SOURCE "$2"',
          image,
          mount,
        ).trim();
        const metric = `system.filesystem.errors;system.device=${device.replace("/dev/", "")}`;
        // Other tests may have damaged file systems of their own.
        const ours = (rows: readonly Row[]): Row[] => rows.filter((row) => row.metric === metric);
        const [row] = ours(rowsNow(probe, new SlotRows("fserror")));
        expect(row?.value).toBeGreaterThanOrEqual(1);
        // What stands in for it where it can't run counts the same, by the kernel's own count of the file system.
        const trigger = `/sys/fs/ext4/${device.replace("/dev/", "")}/trigger_fs_error`;
        if (!existsSync(trigger)) return;
        const fallback = openFallback("fserror", { proc: "/proc", sys: "/sys" });
        writeFileSync(trigger, "weir");
        const builder = new FrameBuilder();
        // The kernel writes its count down when it gets to it.
        await eventually(() => {
          fallback?.add(builder, 1);
          expect(ours(rowsOf(builder.build()))).toMatchObject([
            { metric, value: expect.toSatisfy((by) => by >= 1) },
          ]);
        });
      } finally {
        probe.close();
        spawnSync("umount", [mount]);
        rmSync(folder, { recursive: true });
      }
    },
  );

  test.skipIf(!has("mkfs.ext4"))("exec leaves out kernel threads, as that of a journal", (context) => {
    const folder = mkdtempSync(join(tmpdir(), "weir-thread-"));
    const probe = open("exec", LARGEST_RING_BYTES);
    try {
      const image = join(folder, "image");
      run('truncate -s 8M "$1" && mkfs.ext4 -q -F -b 1024 "$1"', image);
      try {
        run('mount -o loop "$1" "$2" && umount "$2"', image, folder);
      } catch {
        return context.skip("no loop devices here");
      }
      const names = drainAll(probe).flatMap(({ kind, comm }) => (kind === 2 ? [comm] : []));
      expect(names).toContain("umount");
      expect(names.filter((name) => /^(jbd2|loop|kworker)/.test(name))).toEqual([]);
    } finally {
      probe.close();
      rmSync(folder, { recursive: true });
    }
  });

  test.skipIf(!has("mkfs.ext4"))(
    "writeerror counts what a full disk did not take, by device",
    async (context) => {
      const folder = mkdtempSync(join(tmpdir(), "weir-full-"));
      const [disk, mount] = [join(folder, "disk"), join(folder, "mount")];
      const probe = open("writeerror");
      try {
        // A file system that is larger than what it lies on.
        run(
          'mkdir "$1" "$2" && mount -t tmpfs -o size=6M none "$1" && truncate -s 64M "$1/image"',
          disk,
          mount,
        );
        run('mkfs.ext4 -q -F "$1/image"', disk);
        try {
          run('mount -o loop "$1/image" "$2"', disk, mount);
        } catch {
          return context.skip("no loop devices here");
        }
        const rows = new SlotRows("writeerror");
        const device = run('findmnt -no SOURCE "$1"', mount).trim().replace("/dev/", "");
        writeFileSync(join(mount, "file"), Buffer.alloc(16 << 20, 7));
        await eventually(() => {
          spawnSync("sync", [join(mount, "file")]);
          const wanted = `system.filesystem.write_errors;system.device=${device}`;
          expect(rowsNow(probe, rows).find(({ metric }) => metric === wanted)?.value).toBeGreaterThanOrEqual(
            1,
          );
        });
      } finally {
        probe.close();
        // Lazily: the loop device lets go of its file when it gets to it.
        spawnSync("umount", ["-l", mount, disk]);
        rmSync(folder, { recursive: true });
      }
    },
  );

  test.skipIf(!has("python3") || !has("bpftool"))(
    "thermal gives zone and trip point, when its program is run by hand: no zone here trips",
    () => {
      const dump = run("bpftool btf dump file /sys/kernel/btf/vmlinux format raw");
      /** Where a field of a kernel's structure lies, in bytes. */
      const offset = (struct: string, field: string): string => {
        const at = dump.indexOf(`STRUCT '${struct}' size=`);
        const bits = new RegExp(`'${field}' type_id=\\d+ bits_offset=(\\d+)`).exec(
          dump.slice(at, at + 100_000),
        )?.[1];
        return String(Number(bits) / 8);
      };
      const folder = mkdtempSync(join(tmpdir(), "weir-thermal-"));
      const native = changedAddon(folder, "btf_trace_thermal", "btf_nosuc_thermal");
      const before = new Set(bpfHoldings().programs);
      try {
        expect(native.loadProbe("thermal", 4096)).toMatchObject({ raw: true });
        const [program = ""] = bpfHoldings().programs.filter((id) => !before.has(id));
        const script = join(import.meta.dirname, "run-program.py");
        const offsets = [offset("task_struct", "comm"), offset("thermal_zone_device", "type")];
        run('python3 "$@"', script, program, ...offsets, "3", "3", "7");
        const rows = slotRows(native, "thermal", new SlotRows("thermal"));
        expect(new Map(rows.map(({ metric, value, unit }) => [metric, `${value} ${unit}`]))).toEqual(
          new Map([
            ["hw.temperature.trips;hw.name=cpu-thermal;trip=3", "2 {trip}"],
            ["hw.temperature.trips;hw.name=cpu-thermal;trip=7", "1 {trip}"],
          ]),
        );
      } finally {
        native.closeProbe("thermal");
        rmSync(folder, { recursive: true });
      }
    },
  );

  test.skipIf(!has("nft") || !has("ip"))(
    "tcploss counts segments that were lost and sent again, by peer and port",
    async () => {
      const probe = open("tcploss");
      const rows = new SlotRows("tcploss");
      const script = `
      ip link set lo up
      nft 'add table ip t; add chain ip t c { type filter hook input priority 0; }; add rule ip t c tcp dport 7777 drop'
      echo ready
      timeout 4 bash -c 'echo > /dev/tcp/127.0.0.9/7777' || true
      nft 'add rule ip t c tcp dport 7778 limit rate over 100/second burst 5 packets drop'
      "$1" -e 'require("net").createServer((s) => s.resume()).listen(7778, "127.0.0.9", () => console.log("up"))' > up &
      until [ -s up ]; do sleep 0.1; done
      timeout 60 bash -c 'head -c 4000000 /dev/zero > /dev/tcp/127.0.0.9/7778'
      kill %1
      awk '/^Tcp:/ { segments = $13 } END { print segments }' /proc/net/snmp`;
      const folder = mkdtempSync(join(tmpdir(), "weir-lost-"));
      const ran = spawnSync("unshare", ["-n", "bash", "-ec", script, "bash", process.execPath], {
        encoding: "utf8",
        env: environment,
        cwd: folder,
      });
      rmSync(folder, { recursive: true });
      expect(ran.stdout).toMatch(/^ready\n\d+\n$/);
      const found = rowsNow(probe, rows).filter(({ metric }) => metric.includes("127.0.0.9"));
      const to = (port: number): unknown =>
        found.find(
          ({ metric }) =>
            metric === `tcp.retransmits;network.peer.address=127.0.0.9;network.peer.port=${port}`,
        )?.value;
      expect(to(7777)).toBeGreaterThanOrEqual(1);
      expect(to(7778)).toBeGreaterThanOrEqual(2);
      // As many as the kernel has counted, though it sends several segments as one; the end of a connection may be sent
      // again after it was asked.
      const more = Number(to(7777)) + Number(to(7778)) - Number(ran.stdout.split("\n")[1]);
      expect(more).toBeGreaterThanOrEqual(0);
      expect(more).toBeLessThan(10);
      probe.close();
    },
  );
});
