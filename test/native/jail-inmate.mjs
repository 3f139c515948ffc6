// What hostile code in the jail would do. Started by the jail tests with a list of attempts as JSON, `[["read", "/etc/passwd"], …]`;
// answers on descriptor 3 with one line of JSON, the outcome of each: "ok: …", an error's code, or what else was seen. Then it
// stays until that descriptor ends.
import { spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { chmodSync, closeSync, mkdirSync, openSync, readdirSync, readFileSync, writeSync } from "node:fs";
import { createServer, Socket } from "node:net";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

/** System calls by name: [x86-64, aarch64]. */
const calls = {
  bpf: [321, 280],
  clone: [56, 220],
  clone3: [435, 435],
  execve: [59, 221],
  execveat: [322, 281],
  getpid: [39, 172],
  io_uring_setup: [425, 425],
  keyctl: [250, 219],
  kill: [62, 129],
  memfd_create: [319, 279],
  mount: [165, 40],
  perf_event_open: [298, 241],
  pidfd_open: [434, 434],
  prctl: [157, 167],
  prlimit64: [302, 261],
  process_vm_readv: [310, 270],
  ptrace: [101, 117],
  seccomp: [317, 277],
  setresuid: [117, 147],
  socket: [41, 198],
  unshare: [272, 97],
  userfaultfd: [323, 282],
};
const errors = { 1: "EPERM", 3: "ESRCH", 13: "EACCES", 14: "EFAULT", 22: "EINVAL", 38: "ENOSYS" };

const connecting = (target) =>
  new Promise((resolve, reject) => {
    const socket = new Socket();
    socket.once("error", reject);
    socket.connect(target, () => resolve("connected"));
  });

const held = [];

const attempts = {
  read: (path) => `${readFileSync(path).length} bytes`,
  list: (path) => readdirSync(path).join(" "),
  write: (path) => {
    const file = openSync(path, "w");
    writeSync(file, "x");
    closeSync(file);
  },
  mkdir: (path) => mkdirSync(path),
  chmod: (path, mode) => chmodSync(path, mode),
  tcp: (port) => connecting({ port, host: "127.0.0.1" }),
  unix: (path) => connecting({ path: path.replace("@", "\0") }),
  listen: () =>
    new Promise((resolve, reject) => {
      const server = createServer().once("error", reject);
      server.listen(0, "127.0.0.1", () => resolve(server.close()));
    }),
  udp: (port) =>
    new Promise((resolve, reject) => {
      const socket = createSocket("udp4").once("error", reject);
      socket.send("x", port, "127.0.0.1", (error) => (error ? reject(error) : resolve("sent")));
    }),
  spawn: (command, ...list) => {
    const result = spawnSync(command, list);
    if (result.error) throw result.error;
    return String(result.stdout);
  },
  kill: (pid, signal) => process.kill(pid, signal),
  sqlite: async (path) => new (await import("node:sqlite")).DatabaseSync(path),
  addon: (path) => process.dlopen({ exports: {} }, path),
  env: () => Object.keys(process.env).join(" "),
  memory: (mebibytes) => {
    for (let index = 0; index < mebibytes; index++) held.push(new Uint8Array(1 << 20).fill(index + 1));
    return held.length;
  },
  wait: () => new Promise(() => setInterval(() => {}, 60_000)),
  threads: async (count) => {
    const source = "require('node:worker_threads').parentPort.once('message', () => {})";
    for (let index = 0; index < count; index++) {
      const worker = new Worker(source, { eval: true });
      await new Promise((resolve, reject) => worker.once("online", resolve).once("error", reject));
    }
  },
  /** A system call made by native code: what a plugin could do that took over the process. Strings become pointers to them. */
  call: async (name, ...list) => {
    const ffi = await import("node:ffi");
    const words = new Array(7).fill("i64");
    const { functions } = ffi.dlopen(null, {
      syscall: { arguments: words, return: "i64" },
      __errno_location: { arguments: [], return: "u64" },
    });
    const buffers = [];
    const pointer = (buffer) => {
      buffers.push(buffer);
      return ffi.getRawPointer(buffer);
    };
    const values = list.map((item) => {
      if (typeof item === "string") return pointer(Buffer.from(`${item}\0`));
      if (Array.isArray(item))
        return pointer(
          Buffer.from(
            BigUint64Array.from([...item.map((text) => pointer(Buffer.from(`${text}\0`))), 0n]).buffer,
          ),
        );
      return BigInt(item);
    });
    const number = typeof name === "number" ? name : calls[name][process.arch === "x64" ? 0 : 1];
    const result = functions.syscall(BigInt(number), ...values, ...new Array(6 - values.length).fill(0n));
    if (result >= 0n) return String(result);
    const code = ffi.getInt32(functions.__errno_location(), 0);
    throw Object.assign(new Error(), { code: errors[code] ?? `errno ${code}` });
  },
  /** The attempts in a worker that sheds this process's flags, --permission included. */
  worker: (list) =>
    new Promise((resolve, reject) => {
      const worker = new Worker(new URL(import.meta.url), { execArgv: [], workerData: list });
      worker.once("message", (outcome) => resolve(outcome.join(" "))).once("error", reject);
    }),
};

async function outcome([name, ...list]) {
  try {
    return `ok: ${await attempts[name](...list)}`;
  } catch (error) {
    return error.code ?? error.message;
  }
}

async function outcomes(list) {
  const results = [];
  for (const attempt of list) results.push(await outcome(attempt));
  return results;
}

if (isMainThread) {
  const socket = new Socket({ fd: 3 });
  socket.on("end", () => process.exit(0)).resume();
  socket.write(`${JSON.stringify(await outcomes(JSON.parse(process.argv[2])))}\n`);
} else {
  parentPort.postMessage(await outcomes(workerData));
}
