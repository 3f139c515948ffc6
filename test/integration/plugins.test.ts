/** The chain over real components in the jailed host: what plugins do, and what becomes of them when they fail. */
import { createHash } from "node:crypto";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { stringify } from "yaml";
import { family } from "../../bench/tools/processes.ts";
import type { Frame } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { MessagesBuilder } from "../../src/core/messages.ts";
import type { StateEntry } from "../../src/core/ports.ts";
import { HostPool } from "../../src/plugins/host.ts";
import { HostRoom } from "../../src/plugins/host-room.ts";
import { DEFAULT_LIMITS } from "../../src/plugins/limits.ts";
import { pluginsSchema } from "../../src/plugins/options.ts";
import { Runner } from "../../src/plugins/runner.ts";
import { hostRuntime } from "../../src/plugins/runtime.ts";
import { Settings } from "../../src/plugins/settings.ts";
import { vet } from "../../src/plugins/vet.ts";
import { fixture, frameOf, hostile, Lane, openFolder, rowsOf, type Subject } from "../helpers/lane.ts";
import { until } from "../helpers/until.ts";

let folder: string;
let cacheDir: string;
let lane: Lane | undefined;

beforeAll(() => {
  folder = openFolder("weir-plugins-");
  // As above the data folder in a clone: not the jail's to read.
  writeFileSync(join(folder, "package.json"), "{}");
  cacheDir = join(folder, "cache");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a test with plugins, which are stopped whatever happens. */
async function withLane(
  subjects: Readonly<Record<string, Subject>>,
  body: (lane: Lane) => Promise<void>,
  options: Parameters<typeof Lane.start>[2] = {},
): Promise<void> {
  lane = await Lane.start(subjects, cacheDir, options);
  try {
    await body(lane);
  } finally {
    await lane.stop();
  }
}

const counter: Subject = { component: fixture("counter"), manifest: { needs: { state: true } } };
const passthrough: Subject = { component: fixture("passthrough") };
const totalOf = (frame: Frame) => rowsOf(frame).findLast(([, metric]) => metric === "count")?.[2];

describe("the sample plugins", () => {
  test("change demo devices, each by its manifest, and leave the others alone", async () => {
    const samples = join(folder, "samples");
    cpSync("plugins", samples, { recursive: true });
    const options = pluginsSchema.parse({ dir: samples });
    await withLane(
      {},
      async (lane) => {
        expect(lane.info("deadband").state).toBe("on");
        expect(lane.info("scale").state).toBe("on");
        const output = await lane.pass(
          frameOf(["demo-1", "temp_c", 20], ["pump-1", "temp_c", 20], ["demo-1", "temp_c", 20]),
        );
        expect(rowsOf(output.frame)).toEqual([
          ["pump-1", "temp_c", 20],
          ["demo-1", "temp_f", 68],
        ]);
      },
      { options },
    );
  });
});

describe("a chain", () => {
  test("keeps the order of inputs through every stage, though they take different ways", async () => {
    const plugins = {
      one: { ...passthrough, options: { bind: { devices: ["a-*"] } } },
      two: { ...counter, options: { bind: { devices: ["a-*", "b-*"] } } },
    };
    await withLane(plugins, async (lane) => {
      const inputs = Array.from({ length: 60 }, (_, i) => frameOf([`${"abc"[i % 3]}-1`, "n", i]));
      const outputs = await Promise.all(inputs.map((frame) => lane.send(frame)));
      const totals = outputs.map((output) => totalOf(lane.commit(output).frame));
      // Two of three are counted, in the order in which they were sent.
      expect(totals).toEqual(
        inputs.map((_, i) => (i % 3 === 2 ? undefined : 2 * Math.floor(i / 3) + (i % 3) + 1)),
      );
      // The same frame comes back where nothing was bound to it.
      expect(outputs[2]).toMatchObject({ ok: true, output: { frame: inputs[2] } });
    });
  });

  test("passes rows of other sources, devices and metrics by", async () => {
    const bind = { sources: ["kernel"], devices: ["_gateway"], metrics: ["tcp.*"] };
    await withLane({ counter: { ...counter, options: { bind } } }, async (lane) => {
      const frame = frameOf(["_gateway", "tcp.rtt", 1], ["_gateway", "cpu.load", 2]);
      expect((await lane.pass(frame)).counts).toEqual([]);
      const output = await lane.pass(frame, { source: "kernel" });
      expect(output.counts).toEqual([
        { plugin: "counter", in: 1, out: 1, rejected: 0, dropped: 0, emitted: 2, refused: 0 },
      ]);
      expect(rowsOf(output.frame)).toEqual([
        ["_gateway", "cpu.load", 2],
        ["_gateway", "tcp.rtt", 1],
        ["_gateway", "count", 1],
      ]);
    });
  });

  test("decodes the messages of a decoder, and refuses those that it refuses, or that nobody decodes", async () => {
    await withLane({ decoder: { component: fixture("decoder") } }, async (lane) => {
      const payload = Buffer.alloc(16);
      payload.writeDoubleLE(1.5, 0);
      payload.writeDoubleLE(-2.5, 8);
      const builder = new MessagesBuilder();
      builder.add("d-1", "c", "raw/d-1", 1_000, payload);
      builder.add("d-2", "c", "raw/d-2", 2_000, Buffer.from("odd"));
      builder.add("d-3", "", "raw/d-3", 3_000, payload.subarray(0, 8));
      const strays = new MessagesBuilder();
      strays.add("d-4", "", "raw/d-4", 1, Buffer.from("x"));
      const messages = new Map([
        ["decoder", builder.build()],
        ["absent", strays.build()],
      ]);
      const output = await lane.pass(frameOf(["pump-1", "a", 1]), { messages });
      expect(rowsOf(output.frame)).toEqual([
        ["pump-1", "a", 1],
        ["d-1", "v0", 1.5],
        ["d-1", "v1", -2.5],
        ["d-3", "v0", 1.5],
      ]);
      expect(output.rejected).toEqual([
        { plugin: "decoder", index: 1, reason: "the payload is not 1 to 10 doubles" },
        { plugin: "absent", index: 0, reason: "no decoder plugin absent is installed" },
      ]);
    });
  });

  test("runs a timer when it is due, once for all it missed, and later plugins get its rows", async () => {
    const plugins = {
      ticker: { component: fixture("ticker"), manifest: { scheduleMs: 50 } },
      zcount: counter,
    };
    // The schedule's clock stands still but for what the test adds to it.
    vi.useFakeTimers({ toFake: ["performance"] });
    try {
      await withLane(plugins, async (lane) => {
        const { chain } = lane.manager;
        expect(chain.tick(5_000)).toBeUndefined();
        vi.advanceTimersByTime(50);
        const first = await chain.tick(5_000);
        if (first === undefined) throw new Error("no timer was due");
        expect(rowsOf(lane.commit(first).frame)).toEqual([
          ["demo-ticker", "ticks", 1],
          ["demo-ticker", "count", 1],
        ]);
        expect(chain.tick(5_000)).toBeUndefined();
        vi.advanceTimersByTime(220);
        const merged = await chain.tick(6_000);
        expect(rowsOf(lane.commit(merged ?? first).frame)[0]).toEqual(["demo-ticker", "ticks", 2]);
        expect(chain.tick(6_000)).toBeUndefined();
      });
    } finally {
      vi.useRealTimers();
    }
  });
});

describe("state", () => {
  test("lasts over restarts as far as it was committed, and no further", async () => {
    await withLane({ counter }, async (lane) => {
      const frame = frameOf(["a", "n", 1], ["a", "n", 2]);
      expect(totalOf((await lane.pass(frame)).frame)).toBe(2);
      // Went through, but was never committed.
      expect((await lane.send(frame)).ok).toBe(true);
      await lane.manager.chain.restart();
      expect(totalOf((await lane.pass(frame)).frame)).toBe(4);
    });
  });

  test("of a call is lost when a later plugin fails on the same input", async () => {
    const failing = { component: hostile("trap"), options: { order: 1, bind: { devices: ["bad"] } } };
    await withLane({ counter, failing }, async (lane) => {
      await lane.pass(frameOf(["a", "n", 1]));
      const both = frameOf(["bad", "n", 1], ["a", "n", 1]);
      const failure = await lane.fail(both);
      expect(failure).toMatchObject({ plugin: "failing", disposition: "retry" });
      const output = await lane.pass(both, { without: ["failing"] });
      expect(totalOf(output.frame)).toBe(3);
    });
  });

  test("of those that saw nothing but committed input goes on in the same instance when another fails", async () => {
    const failing = { component: hostile("trap"), options: { bind: { devices: ["bad"] } } };
    const bound = { ...counter, options: { bind: { devices: ["a"] } } };
    await withLane({ counter: bound, failing }, async (lane) => {
      await lane.pass(frameOf(["a", "n", 1]));
      await lane.fail(frameOf(["bad", "n", 1]));
      expect(lane.info("failing").restarts).toBe(1);
      expect(lane.info("counter").restarts).toBe(0);
      expect(totalOf((await lane.pass(frameOf(["a", "n", 1]))).frame)).toBe(2);
    });
  });

  test("and effects are refused without a grant, which the log says once", async () => {
    const refused = { ...counter, manifest: {} };
    const publisher = { component: fixture("publisher"), manifest: { needs: { publish: ["#"] } } };
    await withLane({ publisher, refused: { ...refused, options: { order: 1 } } }, async (lane) => {
      const result = await lane.send(frameOf(["a", "n", 1], ["b", "n", 2]));
      expect(result).toMatchObject({ ok: false, failures: [{ plugin: "refused", disposition: "reject" }] });
      const hints = lane.logs.filter(({ text }) => text.includes("not granted; to grant it"));
      expect(hints.map(({ plugin, text }) => `${plugin}: ${text}`)).toEqual([
        'publisher: publish is not granted; to grant it: grant: { publish: ["devices/a/set"] } under plugins.<name> in weir.yaml',
        "refused: state is not granted; to grant it: needs: { state: true } in its plugin.yaml, and no grant: { state: false } under plugins.<name> in weir.yaml",
      ]);
    });
  });
});

describe("effects", () => {
  test("leave with the output of the call that asked for them, as far as they are granted", async () => {
    const plugins = {
      alarmer: { component: fixture("alarmer"), manifest: { needs: { alarm: true } } },
      publisher: { component: fixture("publisher"), options: { grant: { publish: ["devices/a/+"] } } },
    };
    await withLane(plugins, async (lane) => {
      const output = await lane.pass(frameOf(["a", "n", 101], ["b", "n", 1]));
      expect(output.effects).toEqual([
        {
          type: "alarm",
          plugin: "alarmer",
          device: "a",
          code: "high",
          active: true,
          severity: "critical",
          message: "above 100",
        },
        {
          type: "alarm",
          plugin: "alarmer",
          device: "b",
          code: "high",
          active: false,
          severity: "critical",
          message: "above 100",
        },
        {
          type: "publish",
          plugin: "publisher",
          topic: "devices/a/set",
          payload: new Uint8Array([49]),
          qos: 1,
          retain: false,
        },
      ]);
    });
  });
});

describe("a start", () => {
  test("that fails for a reason that may pass is tried again by itself, the version before running meanwhile", async () => {
    let denied = true;
    const loadState = async (): Promise<readonly StateEntry[]> => {
      if (denied) throw new Error("not just now");
      return [];
    };
    const lane = await Lane.start({ passthrough }, join(folder, "cache"), { loadState });
    try {
      const { state, reason } = lane.info("passthrough");
      expect([state, reason]).toEqual(["failed", "not just now; it is tried again"]);
      expect(lane.logs.at(-1)?.text).toContain("not just now; it is tried again");
      denied = false;
      await until("the next try", () => lane.info("passthrough").state === "on");
      expect(lane.info("passthrough").reason).toBeUndefined();

      denied = true;
      const text = stringify({ name: "passthrough", version: "2", component: "passthrough.wasm" });
      writeFileSync(join(lane.dir, "plugins/passthrough/plugin.yaml"), text);
      const said = "version 2 did not start, the one before stays: not just now; it is tried again";
      await until("the failure", () => lane.info("passthrough").reason === said);
      expect(lane.info("passthrough")).toMatchObject({ state: "on", version: "1" });
      denied = false;
      await until("version 2", () => lane.info("passthrough").version === "2");
      expect(lane.info("passthrough")).toMatchObject({ state: "on", reason: undefined });
    } finally {
      await lane.stop();
    }
  });

  test.each(["err-configure", "trap-configure"])(
    "that ends by the plugin's own doing is not: %s",
    async (file) => {
      await withLane({ own: { component: hostile(file) } }, async (lane) => {
        expect(lane.info("own").state).toBe("failed");
        expect(lane.info("own").reason).not.toContain("tried again");
      });
    },
  );

  test("that takes too long is tried again, in the same process", async () => {
    const spin = { spin: { component: hostile("spin-configure") } };
    const lane = await Lane.start({ ...spin, passthrough }, join(folder, "cache"), { startMs: 1_000 });
    const failed = (): number =>
      lane.logs.filter(({ text }) => text.startsWith("failed: took longer")).length;
    try {
      const { pids } = lane.manager;
      expect(lane.info("spin").reason).toMatch(/took longer than 1000 ms; it is tried again$/);
      await until("a second try", () => failed() > 1);
      await until("the other one", () => lane.info("passthrough").state === "on");
      expect(lane.manager.pids).toEqual(pids);
    } finally {
      await lane.stop();
    }
  });
});

describe("failures", () => {
  test("poison what came after, until the restart", async () => {
    await withLane(
      { trap: { component: hostile("trap"), options: { bind: { devices: ["bad"] } } } },
      async (lane) => {
        const results = await Promise.all([
          lane.send(frameOf(["good", "n", 1])),
          lane.send(frameOf(["bad", "n", 2])),
          lane.send(frameOf(["good", "n", 3])),
          lane.send(frameOf(["bad", "n", 4])),
        ]);
        expect(results.map(({ ok }) => ok)).toEqual([true, false, false, false]);
        expect((await lane.send(frameOf(["good", "n", 5]))).ok).toBe(false);
        await lane.manager.chain.restart();
        expect((await lane.send(frameOf(["good", "n", 6]))).ok).toBe(true);
      },
    );
  });

  test.each(["bypass", "drop"])(
    "three within a minute earn it a rest, five end in quarantine, and onFailure: %s decides over the rows",
    async (onFailure) => {
      const trap = {
        component: hostile("trap"),
        manifest: { onFailure },
        options: { bind: { devices: ["bad"] } },
      };
      await withLane({ trap }, async (lane) => {
        const frame = frameOf(["bad", "n", 1], ["good", "n", 2]);
        for (let i = 0; i < 5; i++) {
          if (i > 2) {
            // It rests now, and nobody waits for it: its rows go where they go in quarantine.
            expect(lane.info("trap").state).toBe("resting");
            expect((await lane.pass(frame)).frame.rows).toBe(onFailure === "drop" ? 1 : 2);
            await until("its rest to end", () => lane.info("trap").state === "on");
          }
          await lane.fail(frame);
        }
        const { state, reason, failures } = lane.info("trap");
        expect({ state, failures }).toEqual({ state: "quarantined", failures: 5 });
        expect(reason).toContain("unreachable");
        const output = await lane.pass(frame);
        expect(output.frame.rows).toBe(onFailure === "drop" ? 1 : 2);
        expect(output.counts.map(({ dropped }) => dropped)).toEqual(onFailure === "drop" ? [1] : []);
        // A person can let it in again.
        expect(await lane.manager.restart("trap")).toBe(true);
        expect((await lane.send(frame)).ok).toBe(false);
      });
    },
  );

  test("of several plugins on one input are found in one pass", async () => {
    const plugins = Object.fromEntries(
      ["trap", "huge-output", "err"].map((file, order) => [
        file,
        { component: hostile(file), options: { order, bind: { devices: [file] } } },
      ]),
    );
    await withLane({ ...plugins, passthrough: { ...passthrough, options: { order: 9 } } }, async (lane) => {
      const frame = frameOf(["trap", "n", 1], ["huge-output", "n", 2], ["err", "n", 3], ["a", "n", 4]);
      expect(await lane.send(frame)).toMatchObject({
        ok: false,
        failures: [
          { plugin: "trap", disposition: "retry" },
          { plugin: "huge-output", disposition: "retry" },
          { plugin: "err", disposition: "reject" },
        ],
      });
      await lane.manager.chain.restart();
      const without = ["trap", "huge-output", "err"];
      expect(rowsOf((await lane.pass(frame, { without })).frame)).toEqual([["a", "n", 4]]);
    });
  });

  test("a killed host costs the inputs inside it one retry", async () => {
    await withLane({ counter }, async (lane) => {
      const frame = frameOf(["a", "n", 1]);
      await lane.pass(frame);
      const [pid = 0] = lane.manager.pids;
      process.kill(pid, "SIGKILL");
      await until("the host to be gone", () => lane.manager.pids.length === 0);
      expect(await lane.fail(frame)).toMatchObject({ plugin: "counter", disposition: "retry" });
      expect(totalOf((await lane.pass(frame)).frame)).toBe(2);
      expect(lane.manager.pids).not.toContain(pid);
    });
  });

  test("that use up a host's places bring up a fresh one, and the old one ends", async () => {
    const trap = { component: hostile("trap"), options: { bind: { devices: ["bad"] } } };
    await withLane(
      { counter: { ...counter, options: { bind: { devices: ["a"] } } }, trap },
      async (lane) => {
        const [first] = lane.manager.pids;
        for (let i = 0; i < 4; i++) {
          await until("trap to run", () => lane.info("trap").state === "on");
          await lane.fail(frameOf(["bad", "n", 1]));
          await lane.pass(frameOf(["a", "n", 1]));
        }
        await until(
          "the old host to end",
          () => lane.manager.pids.length === 1 && !lane.manager.pids.includes(first ?? 0),
        );
        expect(totalOf((await lane.pass(frameOf(["a", "n", 1]))).frame)).toBe(5);
      },
      { slots: 3 },
    );
  });

  test("what it holds is told, its threads together", async () => {
    const alone = { ...passthrough };
    const many = { ...passthrough, manifest: { perDevice: true } };
    const lane = await Lane.start({ alone, many }, cacheDir, {}, 3);
    try {
      const [one, three] = lane.manager.list();
      expect(one?.wasmBytes).toBeGreaterThanOrEqual(65_536);
      expect((one?.wasmBytes ?? 1) % 65_536).toBe(0);
      expect(one?.heapBytes).toBeGreaterThan(100_000);
      expect(three?.wasmBytes).toBe(3 * (one?.wasmBytes ?? 0));
    } finally {
      await lane.stop();
    }
  });

  test("are made of a result that is larger than the operator allows", async () => {
    const small = { ...passthrough, options: { limits: { outputBytes: 512 } } };
    await withLane({ small }, async (lane) => {
      expect((await lane.pass(frameOf(["a", "n", 1]))).frame).toBeDefined();
      const rows = Array.from({ length: 100 }, (_, i) => ["a", "n", i] as const);
      expect(await lane.send(frameOf(...rows))).toMatchObject({ ok: false });
    });
  });

  test("are not made of the agent's own delays", async () => {
    const quick = { ...passthrough, manifest: { limits: { timeMs: 100 } } };
    await withLane({ quick }, async (lane) => {
      const result = lane.send(frameOf(["a", "n", 1]));
      const start = performance.now();
      while (performance.now() < start + 400);
      expect((await result).ok).toBe(true);
    });
  });
});

describe("vetting", () => {
  const bytes = readFileSync(fixture("passthrough"));
  const hash = createHash("sha256").update(bytes).digest("hex");

  test("happens once for a component and a memory limit", async () => {
    const options = { cacheDir: join(folder, "vet-cache"), memoryMiB: 8 };
    mkdirSync(options.cacheDir);
    expect((await vet(hash, async () => bytes, options)).cached).toBe(false);
    expect((await vet(hash, async () => bytes, options)).cached).toBe(true);
    expect((await vet(hash, async () => bytes, { ...options, memoryMiB: 16 })).cached).toBe(false);
  });

  test("is done again when a cached file has lost bytes", async () => {
    const options = { cacheDir: join(folder, "torn-cache"), memoryMiB: 8 };
    mkdirSync(options.cacheDir);
    const { dir } = await vet(hash, async () => bytes, options);
    writeFileSync(join(dir, "component.js"), "");
    expect((await vet(hash, async () => bytes, options)).cached).toBe(false);
    expect(statSync(join(dir, "component.js")).size).toBeGreaterThan(1_000);
    expect(readdirSync(options.cacheDir)).toHaveLength(1);
  });

  test("the host's own code is made again when a file of it is damaged", async () => {
    const cache = join(folder, "runtime-cache");
    mkdirSync(cache);
    const { script } = await hostRuntime(cache);
    const before = readFileSync(script, "utf8");
    writeFileSync(script, "");
    expect((await hostRuntime(cache)).script).toBe(script);
    expect(readFileSync(script, "utf8")).toBe(before);
  });

  test("ends at its time limit", async () => {
    const options = { cacheDir: join(folder, "late-cache"), memoryMiB: 8, timeoutMs: 1 };
    await expect(vet(hash, async () => bytes, options)).rejects.toThrow("took too long");
  });

  test("is tried again when the system has killed it", async () => {
    const starting = Lane.start(
      { passthrough: { component: fixture("passthrough") } },
      join(folder, "killed-cache"),
    );
    const vets = (pid: number): boolean =>
      existsSync(`/proc/${pid}/cmdline`) &&
      readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("vet-child");
    const child = await until("the vetting process", () => family(process.pid).find(vets));
    process.kill(child, "SIGKILL");
    const lane = await starting;
    try {
      const { state, reason } = lane.info("passthrough");
      expect([state, reason]).toEqual(["refused", expect.stringContaining("killed")]);
      await until("the next try", () => lane.info("passthrough").state === "on");
      expect(lane.info("passthrough").reason).toBeUndefined();
    } finally {
      await lane.stop();
    }
  });
});

describe("a host that is begun before it is known what runs in it", () => {
  const settings = new Settings(pluginsSchema.parse({}));
  const roomOf = (kept: string | undefined) => {
    const sizes = { load: async () => kept, save: vi.fn(async (_size: string) => {}) };
    return { sizes, room: new HostRoom({ cacheDir, onOutput: () => {}, onRetired: () => {}, sizes }) };
  };

  test("is the one that runs it where the size is the last run's", async () => {
    const { sizes, room } = roomOf(undefined);
    await room.begin();
    await room.make([], settings);
    const kept = sizes.save.mock.calls.flat().join();
    const next = roomOf(kept).room;
    await next.begin();
    await next.make([], settings);
    const [begun] = next.pids;
    next.lease();
    expect(next.pids).toEqual([begun]);
    expect(begun).toBeGreaterThan(0);
    await Promise.all([room.stop(), next.stop()]);
  });

  test("ends where another is needed, or none", async () => {
    for (const use of [(room: HostRoom) => room.make([], settings), (room: HostRoom) => room.dismiss()]) {
      const { room } = roomOf("3 700");
      const before = family(process.pid);
      await room.begin();
      const [begun] = family(process.pid).filter((pid) => !before.includes(pid));
      expect(begun).toBeGreaterThan(0);
      await use(room);
      expect(family(process.pid)).not.toContain(begun);
      expect(room.pids).toEqual([]);
      await room.stop();
    }
  });
});

describe("code that took over a worker", () => {
  /** Runs hostile JavaScript where generated code would run; what it brings back as `err` is returned. */
  async function runInside(code: string): Promise<string> {
    const taken = join(
      folder,
      "cache",
      `taken-${createHash("sha256").update(code).digest("hex").slice(0, 8)}`,
    );
    mkdirSync(taken, { recursive: true });
    writeFileSync(join(taken, "component.js"), code);
    chmodSync(taken, 0o755);
    const pool = new HostPool({ cacheDir, slots: 2, memoryMiB: 512, onOutput: () => {} });
    const runner = new Runner(
      {
        name: "taken",
        version: "1",
        hash: "",
        id: "",
        order: 0,
        lanes: 1,
        perDevice: false,
        config: "{}",
        startMs: 5_000,
        vetted: {
          dir: taken,
          memories: 1,
          exports: { lifecycle: "l", transform: "t" },
          files: [{ name: "component.js", size: 1 }],
        },
        exports: { lifecycle: "l", transform: "t" },
        limits: DEFAULT_LIMITS,
        grants: { state: false, alarm: false, publish: [] },
        binding: { sources: ["devices"], devices: ["*"], metrics: ["*"] },
        onFailure: "bypass",
        scheduleMs: 60_000,
        onLog: () => {},
      },
      {
        lease: () => pool.lease(),
        loadState: async () => [],
        exclusively: (action) => action(),
        onChange: () => {},
      },
    );
    try {
      await runner.start();
      const reply = await runner.instance?.transform(frameOf(["a", "n", 1]));
      if (reply === undefined) return runner.lastError ?? "did not start";
      return reply.ok ? "went through" : reply.reason;
    } finally {
      await pool.stop();
    }
  }

  test("can't start a worker, read files, reach the network, start a process or see the environment", async () => {
    const said = await runInside(`
      import { Worker } from "node:worker_threads";
      import { readFileSync, writeFileSync, readdirSync } from "node:fs";
      import { spawnSync } from "node:child_process";
      import net from "node:net";
      import { open, Session } from "node:inspector";
      const attacks = {
        worker: () => new Worker("1", { eval: true, execArgv: [] }),
        read: () => readFileSync("/etc/hostname"),
        own: () => readFileSync(import.meta.filename),
        list: () => readdirSync("/"),
        write: () => writeFileSync("/tmp/weir-taken", "x"),
        spawn: () => { const r = spawnSync("/bin/true"); if (r.error) throw r.error; },
        parent: () => process.kill(process.ppid, 0),
        env: () => { if (Object.keys(process.env).length === 0) throw new Error("empty"); },
        addon: () => process.dlopen({ exports: {} }, "/lib/x86_64-linux-gnu/libc.so.6"),
        code: () => new Function("return 1")(),
        inspector: () => open(0),
        session: () => new Session().connect(),
        mainThread: () => new Session().connectToMainThread(),
        debug: () => process._debugProcess(process.ppid),
        listen: () => net.createServer().listen(0)._handle ?? (() => { throw new Error("no handle"); })(),
      };
      export function instantiate() {
        return { l: { configure() {} }, t: { transform() {
          const worked = [];
          for (const [name, attack] of Object.entries(attacks)) { try { attack(); worked.push(name); } catch {} }
          throw "worked: " + worked.join(" ");
        } } };
      }`);
    expect(said).toBe("worked: ");
  });

  test.each([
    ["a length beyond every cap", "Buffer.from([66,0,0,0, 2,0,0,0, 255,255,255,255, 255,255,255,255])"],
    ["an answer that nobody waits for", "Buffer.from([66,0,0,0, 9,0,0,0, 0,0,0,0, 0,0,0,0])"],
    ["garbage", "Buffer.alloc(1 << 16, 0x5a)"],
    [
      "state without a grant",
      "Buffer.from([66,0,0,0, 2,0,0,0, 23,0,0,0, 0,0,0,0, 1,0,0,0, 1, 1,0,0,0,65, 1,0,0,0,65, 0,0,0,0, 0,0,0,0])",
    ],
  ])("can't get past the agent with %s", async (_, bytes) => {
    const said = await runInside(`
      import { writeSync } from "node:fs";
      export function instantiate() {
        return { l: { configure() {} }, t: { transform() { writeSync(4, ${bytes}); for (;;); } } };
      }`);
    expect(said).toMatch(/^broke the protocol: /);
  });

  test("can't speak for the host", async () => {
    const said = await runInside(`
      import { writeSync } from "node:fs";
      export function instantiate() {
        return { l: { configure() {} }, t: { transform() { writeSync(3, '{"exited":77,"reason":"x"}\\n'); for (;;); } } };
      }`);
    expect(said).toBe("it broke the control protocol");
  });
});

test("an empty folder starts nothing", async () => {
  await withLane({}, async (lane) => {
    expect(lane.manager.pids).toEqual([]);
    const frame = new FrameBuilder(1).build();
    expect((await lane.pass(frame)).frame).toBe(frame);
  });
});
