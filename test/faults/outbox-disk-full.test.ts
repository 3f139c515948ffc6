import { execFileSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync, statfsSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import { WorkerOutbox } from "../../src/outbox/outbox.ts";
import { Store } from "../../src/outbox/store.ts";
import { frameOf, planFor, uplink, workerUrl } from "../helpers/outbox.ts";
import { until } from "../helpers/until.ts";

const folder = mkdtempSync(join(tmpdir(), "weir-full-"));
let mounted = false;
try {
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], { stdio: "ignore" });
  mounted = true;
} catch {
  // Not allowed to mount here.
}
afterAll(() => {
  if (mounted) execFileSync("umount", ["-l", folder]);
  rmSync(folder, { recursive: true, force: true });
});

it.skipIf(!mounted)(
  "a limit beyond the disk: it stops growing before the disk is full, drops the oldest and never fails (needs: mount tmpfs)",
  () => {
    const path = join(folder, "large.db");
    const store = new Store(planFor(path, { maxBytes: 2 ** 30 }), crc32c);
    const { blocks, bsize } = statfsSync(folder);
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 2_000; i++) {
      const frame = frameOf(Array.from({ length: 2048 }, Math.random));
      store.transaction(() => store.append({ stream: "data", frame, state: [], effects: [] }));
      least = Math.min(least, statfsSync(folder).bavail * bsize);
    }
    const data = store.transaction(() => store.counts()).find(({ stream }) => stream === "data");
    expect(data).toMatchObject({ committed: 2_000 * 2048, lost: 0, rejected: 0 });
    expect(data?.held).toBeGreaterThan(200 * 2048);
    expect(least).toBeGreaterThan((blocks * bsize) / 32);
    store.close();
    for (const end of ["", "-wal", "-shm", "-reserve"]) rmSync(path + end, { force: true });
  },
);

it.skipIf(!mounted)(
  "a full disk: acknowledging still works, and it goes on without a restart once space is freed (needs: mount tmpfs)",
  async () => {
    const plan = planFor(join(folder, "weir.db"), { uplinks: [uplink("up", { overflow: "pause" })] });
    const outbox = new WorkerOutbox(workerUrl, plan);
    await outbox.start();
    let stored = 0;
    const append = async (): Promise<boolean> => {
      try {
        const frame = frameOf(Array.from({ length: 2048 }, Math.random));
        await outbox.append({ stream: "data", frame, state: [], effects: [] });
        stored += 2048;
        return true;
      } catch (thrown) {
        expect(thrown).toMatchObject({ disposition: "retry" });
        await outbox.resume();
        return false;
      }
    };
    for (let i = 0; i < 50; i++) expect(await append()).toBe(true);
    const { bavail, bsize } = statfsSync(folder);
    const ballast = join(folder, "ballast");
    writeFileSync(ballast, Buffer.alloc(bavail * bsize - 65_536, 1));
    let refused = 0;
    for (let i = 0; i < 400 && refused < 3; i++) if (!(await append())) refused += 1;
    expect(refused).toBe(3);
    const held = async (): Promise<number> =>
      (await outbox.counts()).find(({ stream }) => stream === "data")?.held ?? -1;
    expect(await held()).toBe(stored);
    const first = await outbox.lease("up", 4);
    expect(first.length).toBeGreaterThan(0);
    await outbox.ack(
      "up",
      first.map(({ id }) => id),
    );
    expect(await held()).toBeLessThan(stored);
    rmSync(ballast);
    // The reserve is made again within a second or two; until then the database makes do with the pages it has.
    let again = 0;
    await until("a hundred chunks after the disk was freed", async () => {
      while (again < 100 && (await append())) again += 1;
      return again === 100;
    });
    const count = (await outbox.counts()).find(({ stream }) => stream === "data");
    expect(count).toMatchObject({ committed: stored, dropped: 0, lost: 0, rejected: 0 });
    await outbox.stop();
  },
);

it.skipIf(!mounted)(
  "a full disk while a damaged database is set aside: that waits, and nothing of its books is lost (needs: mount tmpfs)",
  () => {
    const path = join(folder, "damaged.db");
    const before = new Store(planFor(path), crc32c);
    for (let i = 0; i < 20; i++)
      before.transaction(() =>
        before.append({ stream: "data", frame: frameOf([1, 2, 3]), state: [], effects: [] }),
      );
    before.markDamaged("a test says so");
    before.close();
    rmSync(`${path}-reserve`);
    const ballast = join(folder, "ballast");
    const file = openSync(ballast, "w");
    expect(() => {
      for (const part = Buffer.alloc(4096, 1); ; ) writeSync(file, part);
    }).toThrow("ENOSPC");
    closeSync(file);
    for (let i = 0; i < 2; i++) expect(() => new Store(planFor(path), crc32c)).toThrow();
    rmSync(ballast);
    const after = new Store(planFor(path), crc32c);
    expect(after.quarantined).toBeDefined();
    const data = after.transaction(() => after.counts()).find(({ stream }) => stream === "data");
    expect(data).toMatchObject({ committed: 60, lost: 60 });
    expect(after.transaction(() => after.gaps.list("up"))).toMatchObject([
      { from: 0, to: 59, reason: "corrupt" },
    ]);
    after.close();
  },
);
