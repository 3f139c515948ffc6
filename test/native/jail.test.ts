import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { release, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { jailLayers, spawnJailed } from "../../src/plugins/jail.ts";
import { eventually } from "../helpers/eventually.ts";
import { type Attempt, attempt, byAttempt, imprison, inmate } from "./jail-helpers.ts";

const root = process.getuid?.() === 0;
/** 612 for 6.12, the first with all that Landlock is used for. */
const linux = release()
  .split(".")
  .slice(0, 2)
  .reduce((value, part) => value * 100 + Number(part), 0);
const node = process.execPath;
const parentScript = fileURLToPath(new URL("./jail-parent.ts", import.meta.url));
const version: Attempt = ["call", "execve", node, [node, "--version"], []];

/** Files and listeners outside the jail, all reachable for this process. */
let folder: string;
let port: number;
const tcp = createServer();
const unix = createServer();
const abstract = createServer();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "weir-jail-"));
  chmodSync(folder, 0o777);
  writeFileSync(join(folder, "secret"), "s", { mode: 0o644 });
  tcp.listen(0, "127.0.0.1");
  unix.listen(join(folder, "socket"));
  abstract.listen(`\0weir-jail-${process.pid}`);
  await Promise.all([tcp, unix, abstract].map((server) => once(server, "listening")));
  chmodSync(join(folder, "socket"), 0o777);
  const address = tcp.address();
  port = typeof address === "object" && address !== null ? address.port : 0;
});

afterAll(() => {
  for (const server of [tcp, unix, abstract]) server.close();
  rmSync(folder, { recursive: true });
});

/** Attempts that must all fail, whatever `--permission` says. */
function escapes(): readonly Attempt[] {
  return [
    ["read", "/etc/passwd"],
    ["read", join(folder, "secret")],
    ["read", `/proc/${process.pid}/environ`],
    ["read", "/proc/self/maps"],
    ["list", "/proc"],
    ["list", "/sys/kernel"],
    ["list", folder],
    ["write", join(folder, "new")],
    ["mkdir", join(folder, "made")],
    ["chmod", join(folder, "secret"), 0o600],
    ["tcp", port],
    ["udp", port],
    ["unix", join(folder, "socket")],
    ["unix", `@weir-jail-${process.pid}`],
    ["listen"],
    ["spawn", "/bin/true"],
    ["spawn", node, "--version"],
    ["kill", process.pid, 0],
    ["kill", 1, 0],
    ["addon", join(dirname(inmate), "no-such.node")],
    ["call", "execveat", -100, node, [node, "--version"], [], 0],
    version,
    ["call", "clone", 17, 0, 0, 0, 0],
    ["call", "clone3", 0, 0],
    ["call", "seccomp", 0, 0, 0],
    ["call", "prctl", 1, 0], // would outlive its parent
    ["call", "prlimit64", 0, 1, "no limits at all", 0],
    ["call", "memfd_create", "x", 0],
    ["call", "socket", 1, 1, 0],
    ["call", "kill", -1, 0],
    ["call", "ptrace", 16, process.pid],
    ["call", "process_vm_readv", process.pid, 0, 0, 0, 0, 0],
    ["call", "pidfd_open", process.pid, 0],
    ["call", "unshare", 0x10000000],
    ["call", "mount", "none", "/tmp", "tmpfs", 0, 0],
    ["call", "setresuid", 0, 0, 0],
    ["call", "bpf", 0, 0, 0],
    ["call", "perf_event_open", 0, 0, -1, -1, 0],
    ["call", "io_uring_setup", 1, 0],
    ["call", "userfaultfd", 0],
    ["call", "keyctl", 0, 0],
    ["call", 0x40000000 + 39],
    ["call", 5000],
  ];
}

const refusal = /^(EPERM|EACCES|ENOSYS|ERR_DLOPEN_DISABLED)$/;

function expectRefused(attempts: readonly Attempt[], outcomes: readonly string[] | string): void {
  const results = byAttempt(attempts, outcomes);
  expect(Object.entries(results).filter(([, result]) => !refusal.test(result))).toEqual([]);
}

describe("the jail", () => {
  test.runIf(root && linux >= 612)(
    "has every layer on when started as root on Linux 6.12 or later",
    async () => {
      const { layers, outcomes } = await attempt([["env"]]);
      expect(outcomes).toEqual([
        "ok: MALLOC_ARENA_MAX MALLOC_MMAP_THRESHOLD_ TZ NODE_NO_WARNINGS LD_PRELOAD",
      ]);
      expect(Object.fromEntries(jailLayers.map((layer) => [layer, "on"]))).toEqual(layers);
    },
  );

  test("lets native code in a process without --permission do nothing outside", async () => {
    const { outcomes } = await attempt([...escapes(), ["call", "getpid"]], { without: ["permission"] });
    expect(outcomes.at(-1)).toMatch(/^ok: \d+$/);
    expectRefused(escapes(), outcomes);
    expect(existsSync(join(folder, "new"))).toBe(false);
  });

  test("holds a worker that shed --permission with execArgv", async () => {
    const inside: readonly Attempt[] = [
      ["read", "/etc/passwd"],
      ["spawn", "/bin/true"],
      ["tcp", port],
      version,
    ];
    const { outcomes, layers } = await attempt([
      ["read", "/etc/passwd"],
      ["worker", inside],
    ]);
    expect(layers.permission).toBe("on");
    expect(outcomes).toEqual(["ERR_ACCESS_DENIED", "ok: EACCES EPERM EPERM EPERM"]);
  });

  test("refuses workers when they are not allowed", async () => {
    expect((await attempt([["threads", 1]], { allowWorker: false })).outcomes).toEqual(["ERR_ACCESS_DENIED"]);
  });

  test("reads what it is given, folders with all below, and nothing beside them", async () => {
    const attempts: Attempt[] = [
      ["read", join(folder, "secret")],
      ["list", folder],
      ["read", "/etc/passwd"],
    ];
    for (const without of [[], ["permission"]] as const) {
      const { outcomes } = await attempt(attempts, { readPaths: [folder, join(folder, "absent")], without });
      expect(outcomes).toEqual([
        "ok: 1 bytes",
        "ok: secret socket",
        expect.stringMatching(/^(ERR_ACCESS_DENIED|EACCES)$/),
      ]);
    }
  });

  test("carries bytes both ways between the agent and a worker that runs WebAssembly", async () => {
    const script = join(folder, "echo.mjs");
    writeFileSync(
      script,
      `import { Socket } from "node:net";
       import { isMainThread, Worker } from "node:worker_threads";
       if (isMainThread) new Worker(new URL(import.meta.url));
       else {
         const { instance } = await WebAssembly.instantiate(new Uint8Array([0,97,115,109,1,0,0,0,1,6,1,96,1,127,1,127,3,2,1,0,
           7,7,1,3,105,110,99,0,0,10,9,1,7,0,32,0,65,1,106,11]));
         const socket = new Socket({ fd: 4 });
         socket.on("data", (bytes) => socket.write(bytes.map((byte) => instance.exports.inc(byte))));
       }`,
    );
    const { child, pipes, output } = spawnJailed({
      script,
      readPaths: [],
      pipes: 3,
      memoryMiB: 192,
      allowWorker: true,
    });
    const sent = Buffer.alloc(1 << 20, "a");
    const received: Buffer[] = [];
    let size = 0;
    const pipe = pipes[1];
    pipe?.write(sent);
    pipe?.on("data", (bytes: Buffer) => {
      received.push(bytes);
      size += bytes.length;
    });
    await eventually(() => expect({ size, output: output() }).toEqual({ size: sent.length, output: "" }));
    expect(Buffer.concat(received).equals(Buffer.alloc(1 << 20, "b"))).toBe(true);
    child.kill("SIGKILL");
    await once(child, "exit");
  });

  test("dies with its parent, even when that is killed", async () => {
    const parent = spawn(node, [parentScript, "stay"], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = await once(createInterface(parent.stdout), "line");
    expect(existsSync(`/proc/${line}/stat`)).toBe(true);
    parent.kill("SIGKILL");
    await eventually(() => expect(state(Number(line))).toMatch(/^(gone|Z|X)$/));
  });

  test("ends a process that takes more memory than it may", async () => {
    const { outcomes, layers } = await attempt([["memory", 3000]], { memoryMiB: 128 });
    expect(outcomes).toMatch(/^ended: /);
    expect(layers.rlimits).not.toMatch(/DATA/);
  });

  test("watches the memory of a process that no cgroup limits", async () => {
    const parent = ["--reuid", "65534", "--regid", "65534", "--clear-groups", node, parentScript, "attempt"];
    const command = root ? (["setpriv", parent] as const) : ([node, [parentScript, "attempt"]] as const);
    const attempts = JSON.stringify([["memory", 600], ["wait"]]);
    const answer = JSON.parse(
      execFileSync(command[0], [...command[1], attempts], { encoding: "utf8", cwd: "/" }),
    );
    expect(answer.outcomes).toBe("ended: SIGKILL");
    expect(answer.output).toMatch(/^killed: it held \d+ MiB of the 192 MiB it may$/m);
  });

  test("has room for as many workers as it has pipes", async () => {
    const { outcomes } = await attempt([["threads", 12]], { pipes: 12 });
    expect(outcomes).toEqual(["ok: undefined"]);
  });

  test("keeps the end of what the child printed, and hands it on line by line", async () => {
    const script = join(folder, "prints.mjs");
    writeFileSync(
      script,
      `console.log("one"); console.error("x".repeat(5000)); throw new Error("why it died");`,
    );
    const lines: string[] = [];
    const { child, output } = spawnJailed({
      script,
      readPaths: [],
      pipes: 0,
      memoryMiB: 128,
      allowWorker: false,
      onOutput: (line) => lines.push(line),
    });
    await once(child, "close");
    expect(output()).toContain("Error: why it died");
    expect(output().length).toBeLessThanOrEqual(8192);
    expect(lines).toContain("one");
    expect(Math.max(...lines.map((line) => line.length))).toBe(1000);
  });

  test("makes a child that prints without end wait instead of the agent", async () => {
    const script = join(folder, "floods.mjs");
    writeFileSync(
      script,
      `const line = "y".repeat(999) + "\\n"; (function print() { process.stdout.write(line, print); })();`,
    );
    let read = 0;
    const started = performance.now();
    const jailed = spawnJailed({
      script,
      readPaths: [],
      pipes: 0,
      memoryMiB: 128,
      allowWorker: false,
      onOutput: (line) => {
        read += line.length;
      },
    });
    await eventually(() => expect(read).toBeGreaterThan(100_000));
    // 16 KiB a second, and one read of 64 KiB at most goes over it each time.
    expect(read / ((performance.now() - started) / 1000 + 1)).toBeLessThan(85_000);
    jailed.child.kill("SIGKILL");
    await once(jailed.child, "exit");
  });
});

describe("what the jail leaves behind", () => {
  const own = cgroups();

  test.runIf(own.length > 0)("is no cgroup after the child's end", async () => {
    const jailed = imprison([]);
    await jailed.layers;
    const pid = jailed.child.pid;
    const entered = cgroups(pid).filter((path) => path.includes("weir-jail-"));
    expect(entered.length).toBeGreaterThan(0);
    jailed.pipes[0]?.end();
    await once(jailed.child, "exit");
    await eventually(() => expect(entered.filter((path) => existsSync(path))).toEqual([]));
  });

  test.runIf(own.length > 0)("is removed at the next start when the agent was killed", async () => {
    const parent = spawn(node, [parentScript, "stay"], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = await once(createInterface(parent.stdout), "line");
    const left = cgroups(Number(line)).filter((path) => path.includes("weir-jail-"));
    parent.kill("SIGKILL");
    await once(parent, "exit");
    // Whatever starts in a jail on this machine meanwhile removes them, too.
    const isUsed = (path: string): boolean => {
      try {
        return readFileSync(join(path, "cgroup.procs"), "utf8") !== "";
      } catch {
        return false;
      }
    };
    await eventually(() => expect(left.filter(isUsed)).toEqual([]));
    await attempt([]);
    expect(left.filter((path) => existsSync(path))).toEqual([]);
  });
});

describe("the jail degrades", () => {
  test.runIf(root)("to the agent's uid when another could not read what it must, and says so", async () => {
    const closed = mkdtempSync(join(tmpdir(), "weir-jail-"));
    const { layers, outcomes } = await attempt([["env"]], { readPaths: [closed] });
    rmSync(closed, { recursive: true });
    expect(layers.uid).toBe(
      `unavailable: ${closed} is not reachable by uid 64757: install it outside private folders`,
    );
    expect(layers.rlimits).toMatch(/^partial: no limit on threads/);
    expect(layers.seccomp).toBe("on");
    expect(outcomes).toHaveLength(1);
  });

  test.runIf(root)("for an unprivileged user to what such a user may do", () => {
    const attempts = escapes();
    const command = ["--reuid", "65534", "--regid", "65534", "--clear-groups", node, parentScript, "attempt"];
    const answer = execFileSync("setpriv", [...command, JSON.stringify(attempts)], {
      encoding: "utf8",
      cwd: "/",
    });
    const { layers, outcomes } = JSON.parse(answer);
    expectRefused(attempts, outcomes);
    expect(layers).toMatchObject({
      capabilities: "on",
      "memory-cgroup": expect.stringMatching(/^unavailable: /),
      "pids-cgroup": expect.stringMatching(/^unavailable: /),
      network: "on",
      uid: "unavailable: only root may change it: shares the agent's uid 65534",
      landlock: "on",
      seccomp: "on",
      parent: "on",
    });
  });

  test("not at all: without the launcher nothing is started, and the remedy is named", async () => {
    const copy = mkdtempSync(join(tmpdir(), "weir-jail-"));
    const source = fileURLToPath(new URL("../../src", import.meta.url));
    for (const name of [
      "plugins/jail.ts",
      "plugins/jail-launcher.ts",
      "plugins/jail-report.ts",
      "core/errors.ts",
    ])
      cpSync(join(source, name), join(copy, name));
    writeFileSync(join(copy, "package.json"), `{"type":"module"}`);
    const other: typeof import("../../src/plugins/jail.ts") = await import(join(copy, "plugins/jail.ts"));
    const options = { script: inmate, readPaths: [], pipes: 1, memoryMiB: 128, allowWorker: false };
    expect(() => other.spawnJailed(options)).toThrow(/launcher is not built: .*npm rebuild/);
    rmSync(copy, { recursive: true });
  });
});

/** A process's state letter, or "gone". */
function state(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.[0] ?? "gone";
  } catch {
    return "gone";
  }
}

/** The cgroup folders of a process that this one could make groups in. */
function cgroups(pid: number | "self" = "self"): readonly string[] {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" "));
  return readFileSync(`/proc/${pid}/cgroup`, "utf8")
    .trim()
    .split("\n")
    .flatMap((line) => {
      const [, controllers, path] = line.split(":");
      const mount = mounts.find(
        (words) =>
          words
            .at(-1)
            ?.split(",")
            .includes(controllers || "none") && words.includes("cgroup"),
      );
      const found = join(mount?.[4] ?? "/sys/fs/cgroup", path ?? "");
      return root &&
        ["memory", "pids", ""].includes(controllers ?? "x") &&
        existsSync(found) &&
        statSync(found).isDirectory()
        ? [found]
        : [];
    });
}
