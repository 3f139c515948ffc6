/** Faults of the data folder as a whole: who may write to it, whose it is, where it came from. */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { afterEach, expect, test } from "vitest";
import type { Readiness } from "../../src/api/types.ts";
import { Agent, AgentFolder, hasProgram, weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";
import { fault, long, type World } from "./harness/world.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});
const sh = (script: string): boolean => spawnSync("sh", ["-c", script], { stdio: "ignore" }).status === 0;
const mountable = sh("d=$(mktemp -d) && mount -t tmpfs tmpfs $d && umount $d && rmdir $d");

function quick(): AgentFolder {
  const folder = new AgentFolder({ sources: { kernel: { enabled: false }, system: { enabled: false } } });
  cleanups.push(() => folder.remove());
  return folder;
}

/** What `weir check` says of the data folder. */
function checked(
  folder: AgentFolder,
  wrap: readonly string[] = [],
): { state: string; what: string; remedy?: string } {
  const [program = "", ...args] = [
    ...wrap,
    resolve("bin/weir"),
    "check",
    "--json",
    "--config",
    folder.config,
  ];
  const { stdout } = spawnSync(program, args, { encoding: "utf8", timeout: 60_000 });
  const findings: { subject: string; state: string; what: string; remedy?: string }[] = JSON.parse(stdout);
  const found = findings.find(({ subject }) => subject === "data folder");
  if (found === undefined) throw new Error(`no data folder in ${stdout}`);
  return found;
}

/** Starts an agent that can't start: what it said. */
function refused(folder: AgentFolder, wrap: readonly string[] = []): string {
  const [program = "", ...args] = [...wrap, resolve("bin/weir"), "run", "--config", folder.config];
  const { status, stderr } = spawnSync(program, args, { encoding: "utf8", timeout: 60_000, cwd: folder.dir });
  expect(status).toBe(1);
  return stderr;
}

test.skipIf(!mountable)(
  "a file system that is read-only at the start is named, and once it is not, the agent starts (needs: mount of a tmpfs)",
  async () => {
    const folder = quick();
    const data = join(folder.dir, "data");
    mkdirSync(data);
    expect(sh(`mount -t tmpfs -o ro,mode=755 tmpfs ${data}`)).toBe(true);
    cleanups.push(() => sh(`umount -l ${data}`));
    const said = refused(folder);
    expect(said).toContain(`${data}: its file system is read-only`);
    expect(said).toMatch(/\(data\.unusable\) Give it/);
    expect(checked(folder)).toMatchObject({ state: "bad", what: expect.stringContaining("read-only") });
    expect(sh(`mount -o remount,rw ${data}`)).toBe(true);
    const agent = await Agent.start(folder);
    // Nobody makes it read-only by hand under a running agent: the kernel refuses while files are open for writing.
    expect(sh(`mount -o remount,ro ${data}`)).toBe(false);
    await agent.kill();
    expect(sh(`mount -o remount,ro ${data}`)).toBe(true);
  },
);

const NOBODY = 65_534;
const asNobody = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
const able =
  process.getuid?.() === 0 &&
  spawnSync("setpriv", [...asNobody.slice(1), resolve("bin/weir"), "--version"]).status === 0;

test.skipIf(!able)(
  "a folder of another user, and a file in it left from a run as root, are named with their owner (needs: root, setpriv)",
  async () => {
    const folder = quick();
    const data = join(folder.dir, "data");
    await (await Agent.start(folder)).stop();
    chmodSync(data, 0o700);
    const mine = `Weir runs as user ${NOBODY}`;
    expect(refused(folder, asNobody)).toContain(
      `${data}: permission denied: it belongs to user 0, mode 0700, and ${mine}`,
    );
    expect(checked(folder, asNobody)).toMatchObject({
      state: "bad",
      remedy: expect.stringContaining("chown -R"),
    });
    for (const name of ["", "lock", "cache"]) chownSync(join(data, name), NOBODY, NOBODY);
    const file = `${join(data, "weir.db")}: permission denied: it belongs to user 0, mode 0600, and ${mine}`;
    expect(refused(folder, asNobody)).toContain(file);
    expect(checked(folder, asNobody)).toMatchObject({ state: "bad", what: file });
    expect(sh(`chown -R ${NOBODY} ${data}`)).toBe(true);
    await (await Agent.start(folder, asNobody)).kill();
  },
);

fault("a second agent on the folder", {}, async ({ folder, agent }) => {
  const { status, stderr } = weir("run", "--config", folder.config);
  expect(status).toBe(1);
  expect(stderr).toContain(`is held by another agent: pid ${agent.child.pid}, gateway gw`);
  expect(stderr).toContain("(data.locked)");
  expect(agent.child.exitCode).toBeNull();
  expect(await folder.api.readiness()).toMatchObject({ ready: true });
  return undefined;
});

/** Whether all is well, and why not; undefined while the socket moves to the data folder as it is now: then it is asked again. */
const readinessOf = ({ folder }: World): Promise<Readiness | undefined> =>
  folder.api.readiness().catch(() => undefined);
const isReady = async (world: World): Promise<boolean> => (await readinessOf(world))?.ready === true;
/** The reason that the outbox gives for not being ready. */
const troubleOf = async (world: World): Promise<string | undefined> =>
  (await readinessOf(world))?.reasons.find((reason) => reason.startsWith("outbox: "));
/** The epoch, once the socket answers. */
const epochOf = ({ folder }: World): Promise<string> =>
  until("its epoch", async () => (await folder.api.status().catch(() => undefined))?.epoch);

/** Nothing is acknowledged in a while. */
async function nothingAcknowledged({ load }: World): Promise<void> {
  const before = load.acknowledged;
  await new Promise((done) => setTimeout(done, long(5_000, 1_000)));
  expect(load.acknowledged).toBe(before);
}

/** Rows of stream `alarm` that were committed: three for each alarm that was raised or ended. */
async function alarms({ folder }: World): Promise<number> {
  const { lines } = await folder.api.ledger();
  return lines.find(({ name }) => name === "cloud/alarm")?.in ?? 0;
}

const loopOf = (path: string): string =>
  spawnSync("losetup", ["--find", "--show", path], { encoding: "utf8" }).stdout.trim();

/** An ext4 file system in a file, and the loop devices over it. */
class BreakableDisk {
  readonly #dir = mkdtempSync(join(tmpdir(), "weir-image-"));
  readonly #image = join(this.#dir, "image");
  readonly #loops: string[] = [];

  /** Another device over the same file. */
  attach(): string {
    if (this.#loops.length === 0) sh(`truncate -s 64M ${this.#image} && mkfs.ext4 -q -F ${this.#image}`);
    const loop = loopOf(this.#image);
    if (loop !== "") this.#loops.push(loop);
    return loop;
  }

  remove(): void {
    for (const loop of this.#loops) sh(`losetup -d ${loop}`);
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

function lacksDisk(): string | undefined {
  if (!["losetup", "mkfs.ext4", "e2fsck"].every(hasProgram)) return "losetup, mkfs.ext4 or e2fsck";
  const disk = new BreakableDisk();
  const loop = disk.attach();
  const can = existsSync("/sys/fs/ext4") && loop !== "";
  disk.remove();
  return can ? undefined : "a loop device";
}

let disk: BreakableDisk;
let device = "";

fault(
  "the disk fails and turns read-only, then comes back mended as another device",
  {
    lacks: lacksDisk(),
    // An fsync that is under way when ext4 gives its journal up may be told that it worked: docs/operations.md.
    mayLose: true,
    config: { outbox: { sync: "full", maxBytes: "16MiB" } },
    prepare: (dir) => {
      mkdirSync(dir);
      disk = new BreakableDisk();
      device = disk.attach();
      expect(sh(`mount -o errors=remount-ro ${device} ${dir}`)).toBe(true);
      return () => {
        sh(`umount -l ${dir}`);
        disk.remove();
      };
    },
  },
  async (world) => {
    const data = join(world.folder.dir, "data");
    writeFileSync(`/sys/fs/ext4/${basename(device)}/trigger_fs_error`, "a fault\n");
    await until("the outbox to say that it can't be written to", () => troubleOf(world));
    await nothingAcknowledged(world);
    const { http } = await world.folder.api.status();
    expect(await (await fetch(`http://${http}/metrics`)).text()).toContain("weir_outbox_writable 0");
    await until("the file system to be named", async () => {
      const said = await troubleOf(world);
      return said?.includes("read-only") === true && said;
    });
    const check = weir("check", "--config", world.folder.config);
    expect(check.status).toBe(1);
    expect(check.stdout).toMatch(/ready +outbox: .* its file system is read-only/);
    expect(sh(`umount -l ${data}`)).toBe(true);
    const again = disk.attach();
    sh(`e2fsck -y ${again}`);
    expect(sh(`mount ${again} ${data}`)).toBe(true);
    await until("the agent to answer at the socket there, with the alarm raised and ended", async () => {
      const raised = await alarms(world).catch(() => 0);
      return raised === 6 && (await isReady(world));
    });
    return "goes on without a restart";
  },
);

let frozen: BreakableDisk;

fault(
  "the disk hangs, and answers again",
  {
    lacks: hasProgram("fsfreeze") ? lacksDisk() : "fsfreeze",
    prepare: (dir) => {
      mkdirSync(dir);
      frozen = new BreakableDisk();
      expect(sh(`mount ${frozen.attach()} ${dir}`)).toBe(true);
      return () => {
        sh(`fsfreeze -u ${dir}; umount -l ${dir}`);
        frozen.remove();
      };
    },
  },
  async (world) => {
    const data = join(world.folder.dir, "data");
    const epoch = await epochOf(world);
    try {
      expect(sh(`fsfreeze -f ${data}`)).toBe(true);
      const reason = await until("the outbox to say that nothing answers", () => troubleOf(world));
      expect(reason).toContain("the disk does not answer");
      await nothingAcknowledged(world);
      // Whoever asks is told at once.
      await expect(world.folder.api.outbox()).rejects.toThrow("the disk does not answer");
    } finally {
      sh(`fsfreeze -u ${data}`);
    }
    await until(
      "all to be well, with the alarm raised and ended",
      async () => (await alarms(world).catch(() => 0)) === 6 && (await isReady(world)),
    );
    expect(await epochOf(world)).toBe(epoch);
    return "goes on";
  },
);

const immutable = sh("f=$(mktemp) && chattr +i $f && chattr -i $f && rm $f");

fault(
  "the database turns read-only, and back",
  { lacks: immutable ? undefined : "chattr +i", config: { outbox: { sync: "full" } } },
  async (world) => {
    const path = join(world.folder.dir, "data", "weir.db");
    const epoch = await epochOf(world);
    const readOnly = (on: boolean): boolean => sh(`chattr ${on ? "+" : "-"}i ${path} ${path}-wal`);
    try {
      expect(readOnly(true)).toBe(true);
      await until("the outbox to say that it can't be written to", () => troubleOf(world));
      await nothingAcknowledged(world);
      // Closed by now, and tried again by its path.
      await until("the reason to be named", async () => (await troubleOf(world))?.includes("immutable"));
    } finally {
      readOnly(false);
    }
    await until(
      "all to be well, with the alarm raised and ended",
      async () => (await alarms(world).catch(() => 0)) === 6 && (await isReady(world)),
    );
    expect(await epochOf(world)).not.toBe(epoch);
    return "goes on without a restart";
  },
);

fault("the database is taken away, and put back, while it is in use", {}, async (world) => {
  const path = join(world.folder.dir, "data", "weir.db");
  renameSync(path, `${path}-away`);
  const reason = await until("the outbox to say so", () => troubleOf(world));
  expect(reason).toContain("removed or replaced");
  await nothingAcknowledged(world);
  renameSync(`${path}-away`, path);
  await until("all to be well", () => isReady(world));
  return undefined;
});

// Whether a batch is marked historical is decided when it is sealed, by how long it has waited: not in the copy once more.
const replay = { after: "1h" };
fault("the data folder restored from an older copy", { uplink: { replay } }, async (world) => {
  const { folder, link, load } = world;
  const data = join(folder.dir, "data");
  const backup = join(folder.dir, "backup");
  // With a backlog in it, which goes out before the copy is put back, and then again from the copy.
  await link.cut();
  await world.acknowledged(long(5_000, 500));
  await world.agent.kill();
  cpSync(data, backup, { recursive: true });
  await link.start();
  await world.restart();
  const { epoch } = await folder.api.status();
  await world.acknowledged(long(5_000, 500));
  await load.stop();
  await until("everything to be sent", async () => (await world.data()).held === 0);
  await world.agent.stop();
  rmSync(data, { recursive: true });
  cpSync(backup, data, { recursive: true });
  await world.restart();
  expect((await folder.api.status()).epoch).not.toBe(epoch);
  const { notes } = await folder.api.readiness();
  expect(notes.join()).toContain("restored from a backup, or copied");
  expect(await alarms(world)).toBe(3);
  await until("the backlog of the copy to be sent", async () => (await world.data()).held === 0);
  load.start();
  return "a new epoch; what was in both came under its old keys";
});
