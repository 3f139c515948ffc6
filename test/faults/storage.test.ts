/** Faults of the disk and of what is on it. */
import { spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { expect } from "vitest";
import { until } from "../helpers/until.ts";
import { fault, LONG, long, type World } from "./harness/world.ts";

/** Writes until nothing fits any more. */
function fill(path: string): void {
  const file = openSync(path, "w");
  try {
    for (const part = Buffer.alloc(4096, 1); ; ) writeSync(file, part);
  } catch (thrown) {
    expect(thrown).toMatchObject({ code: "ENOSPC" });
  } finally {
    closeSync(file);
  }
}

const mountable = ((): boolean => {
  const done = spawnSync("sh", ["-c", "d=$(mktemp -d) && mount -t tmpfs tmpfs $d && umount $d && rmdir $d"]);
  return done.status === 0;
})();

/** A file system of its own, of some megabytes; gives what unmounts it. */
function smallDisk(dir: string): () => void {
  mkdirSync(dir);
  const done = spawnSync("mount", ["-t", "tmpfs", "-o", "size=32m,mode=755", "tmpfs", dir]);
  expect(done.status).toBe(0);
  return () => spawnSync("umount", ["-l", dir]);
}

/** Waits until the agent is ready, with its socket, which is made anew once the database can be used again: the folder may be another one. */
async function well({ folder }: World): Promise<void> {
  let answers = 0;
  await until("all to be well", async () => {
    const ready = await folder.api.readiness().then(
      (answer) => answer.ready,
      () => false,
    );
    answers = ready ? answers + 1 : 0;
    return answers === 3;
  });
}

fault(
  "disk full, and freed",
  {
    lacks: mountable ? undefined : "mount of a tmpfs",
    uplink: { overflow: "pause" },
    load: { perSecond: 200 },
    prepare: smallDisk,
  },
  async (world) => {
    await world.acknowledged(500);
    await world.link.cut();
    const ballast = join(world.folder.dir, "data", "ballast");
    fill(ballast);
    const { api } = world.folder;
    await until("the outbox to say that there is no room", async () =>
      (await api.readiness()).reasons.some((reason) => /outbox.*full/.test(reason)),
    );
    await setTimeout(long(20_000, 3_000));
    rmSync(ballast);
    await well(world);
    await world.link.start();
    return undefined;
  },
);

/** Stops the agent as a crash does, damages its database, and starts it again. */
async function damage(world: World, how: (path: string) => void): Promise<string> {
  await world.load.stop();
  await until("everything to be sent", async () => (await world.data()).held === 0);
  await world.agent.kill();
  how(join(world.folder.dir, "data", "weir.db"));
  await world.restart();
  world.load.start();
  const { quarantined } = await world.folder.api.outbox();
  expect(quarantined).toBeDefined();
  expect(readdirSync(join(world.folder.dir, "data", "quarantine")).length).toBeGreaterThan(0);
  return "set aside, alarm raised";
}

const wreck = (path: string, work: (bytes: Buffer) => void): void => {
  // What is in the WAL alone would hide the damage.
  spawnSync("sqlite3", [path, "PRAGMA wal_checkpoint(TRUNCATE)"]);
  const bytes = readFileSync(path);
  work(bytes);
  writeFileSync(path, bytes);
};

const damages: readonly (readonly [string, (path: string) => void])[] = [
  ["corrupt", (path) => wreck(path, (bytes) => bytes.fill(0xee, 3 * 4096))],
  ["zeroed", (path) => wreck(path, (bytes) => bytes.fill(0))],
  [
    "truncated",
    (path) => {
      wreck(path, () => {});
      truncateSync(path, 9 * 4096 + 100);
    },
  ],
];
for (const [name, how] of damages)
  fault(`database ${name}`, { needs: ["sqlite3"], longOnly: name === "truncated" }, (world) =>
    damage(world, how),
  );

/** Writes over a database that is in use; with what is done meanwhile, it is set aside without a restart. */
async function overwrite(world: World, how: (path: string) => void): Promise<string> {
  const path = join(world.folder.dir, "data", "weir.db");
  const { epoch } = await world.folder.api.status();
  await world.link.cut();
  await world.acknowledged(500);
  // Else what is in the WAL hides it for a while.
  spawnSync("sqlite3", [path, "PRAGMA wal_checkpoint(TRUNCATE)"]);
  how(path);
  await until("it to be set aside", async () => {
    const { quarantined } = await world.folder.api.outbox().catch(() => ({ quarantined: undefined }));
    return quarantined !== undefined && existsSync(quarantined);
  });
  expect((await world.folder.api.status()).epoch).not.toBe(epoch);
  await world.link.start();
  return "set aside without a restart, alarm raised";
}

/** Like `dd conv=notrunc` of zeroes. */
function zeroPages(path: string, from: number, to: number): void {
  const file = openSync(path, "r+");
  writeSync(file, Buffer.alloc((to - from) * 4096), 0, (to - from) * 4096, from * 4096);
  closeSync(file);
}

const overwritten: readonly (readonly [string, (path: string) => void])[] = [
  ["with zeroes in its middle", (path) => zeroPages(path, 60, 120)],
  ["with a file of another kind", (path) => writeFileSync(path, "not a database\n".repeat(20_000))],
  ["with its beginning alone", (path) => truncateSync(path, 9 * 4096)],
];
for (const [name, how] of overwritten)
  fault(
    `database written over ${name} while it is in use`,
    {
      needs: ["sqlite3"],
      load: { padBytes: 2000 },
      mayLose: true,
      longOnly: name !== "with zeroes in its middle",
    },
    (world) => overwrite(world, how),
  );

/** Whether strace may change what another process's system calls give. */
const lacksTracer = (): string | undefined =>
  spawnSync("strace", ["-q", "-e", "inject=getpid:error=EIO", "true"]).status === 0 ? undefined : "strace";

fault(
  "the disk fails to read for a while",
  // More than SQLite keeps in memory.
  {
    needs: ["strace"],
    lacks: lacksTracer(),
    load: { perSecond: 0, inFlight: 50, padBytes: 6000 },
  },
  async (world) => {
    const { api, dir } = world.folder;
    await world.link.cut();
    await world.acknowledged(4_000);
    const { pid } = await api.status();
    const failing = ["trace=pread64,read", "inject=pread64,read:error=EIO"].flatMap((what) => ["-e", what]);
    const path = join(dir, "data", "weir.db");
    const tracer = spawn("strace", ["-f", "-q", "-P", path, ...failing, "-p", String(pid)], {
      stdio: "ignore",
    });
    try {
      await world.link.start();
      await until("the outbox to say so", async () =>
        (await api.readiness()).reasons.some((reason) => reason.startsWith("outbox: ")),
      );
      await setTimeout(long(10_000, 1_000));
    } finally {
      tracer.kill();
    }
    await well(world);
    expect((await api.outbox()).quarantined).toBeUndefined();
    return "taken for no damage";
  },
);

/** A megabyte holds some thousand messages with a pad that doesn't compress away. */
const SMALL = { outbox: { maxBytes: "4MiB" } };

for (const overflow of ["drop-oldest", "drop-newest", "pause"] as const) {
  fault(
    `outbox at its limit under ${overflow}`,
    {
      config: SMALL,
      uplink: { overflow, streams: ["data"] },
      load: { perSecond: 0, inFlight: 50, padBytes: 2000 },
      mayDrop: overflow !== "pause",
      longOnly: overflow === "drop-newest",
    },
    async (world) => {
      await world.link.cut();
      if (overflow === "pause") {
        await until("the outbox to be full", async () => (await world.folder.api.outbox()).full, 120_000);
        await setTimeout(2_000);
        const before = world.load.acknowledged;
        await setTimeout(long(10_000, 2_000));
        // What was in flight may still be committed; then nothing is.
        expect(world.load.acknowledged - before).toBeLessThanOrEqual(200);
      } else {
        await until("something to be dropped", async () => (await world.data()).dropped > 5_000, 120_000);
      }
      // The heap first grows to what this load takes.
      if (overflow !== "pause") await world.acknowledged(long(50_000, 1_000));
      const rss = world.rssMiB();
      if (overflow !== "pause") await world.acknowledged(long(50_000, 5_000));
      const grown = world.rssMiB() - rss;
      if (LONG) expect(grown, "growth of RSS at the limit, in MiB").toBeLessThan(40);
      const { fileBytes } = await world.folder.api.outbox();
      expect(fileBytes).toBeLessThanOrEqual(4 * 2 ** 20);
      await world.link.start();
      return `RSS ${grown >= 0 ? "+" : ""}${grown.toFixed(0)} MiB at the limit`;
    },
  );
}
