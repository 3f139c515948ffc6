/**
 * One plugin's thread inside the plugin host. It reads its own socketpair with blocking reads, one message at a time, and
 * answers in order: no event loop runs once the component is loaded, so nothing but the component's code does either.
 *
 * Before anything generated is imported, the thread gives up the right to start threads, which would have the rights of
 * the process again; once it is loaded, all others. The walls around the process stand in any case.
 */
import { readFileSync, readSync, writevSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { getHeapStatistics } from "node:v8";
import { workerData } from "node:worker_threads";
import { Frame } from "../core/frame.ts";
import { freeNow } from "../core/free.ts";
import type { StateEntry } from "../core/ports.ts";
import { beginCall, limitLifting, quickenMemory, refillLifting, replaceEngineCalls } from "./engine-calls.ts";
import { GuestImports } from "./guest-imports.ts";
import { isLiftedFrame, type LiftedFrame, layOut } from "./lay-out.ts";
import type { Exports } from "./vet-checks.ts";
import { WASI } from "./wasi-stubs.ts";
import {
  encodeHead,
  encodeResult,
  LOG_LEVELS,
  type LogLevel,
  MOST_TEXT,
  type OpenRequest,
  readHead,
  WIRE_HEADER_BYTES,
  Wire,
} from "./wire.ts";
import { FieldReader, FieldWriter } from "./wire-fields.ts";

/** What the host's main thread hands a worker. */
export interface WorkerData {
  /** the socketpair */
  readonly fd: number;
  /** the vetted files */
  readonly dir: string;
  readonly exports: Exports;
  readonly files: readonly string[];
}

/** The exports of a component that are called, as jco makes them. */
interface Component {
  readonly lifecycle: { configure(config: string): void };
  readonly decoder: { decode(batch: object): unknown } | undefined;
  readonly transform: { transform(batch: Frame | LiftedFrame): unknown } | undefined;
  readonly timer: { tick(nowUs: number): unknown } | undefined;
}

/** A reason that isn't a trap: the component answered `err`. */
class Answered {
  readonly reason: string;
  constructor(reason: string) {
    this.reason = reason;
  }
}

const { fd, dir, exports, files }: WorkerData = workerData;
const NOTHING = new Uint8Array(0);
replaceEngineCalls();
process.permission?.drop("worker");
// Generated code asks the environment a dozen times a call whether it is to be debugged, and Node asks the system each time:
// measured, 4.5 → 2.4 µs for each function of ours that a component calls.
Object.defineProperty(process, "env", { value: Object.freeze({}) });

function read(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const got = readSync(fd, bytes, at, length - at, null);
    if (got === 0) process.exit(0); // the agent has closed its end
    at += got;
  }
  return bytes;
}

function send(type: number, id: number, meta: Uint8Array, block: Uint8Array = NOTHING): void {
  let parts: Uint8Array[] = [encodeHead(type, id, meta, block.byteLength), block];
  for (;;) {
    let wrote = writevSync(fd, parts);
    while (parts.length > 0 && wrote >= (parts[0]?.byteLength ?? 0)) wrote -= parts.shift()?.byteLength ?? 0;
    if (parts.length === 0) return;
    parts = parts.map((part, i) => (i === 0 ? part.subarray(wrote) : part));
  }
}

function sendLog(level: LogLevel, text: string): void {
  send(Wire.log, 0, new FieldWriter().u8(LOG_LEVELS.indexOf(level)).text(text).done());
}

function sendFailure(id: number, thrown: unknown): void {
  const answered = thrown instanceof Answered;
  const reason = answered
    ? thrown.reason
    : thrown instanceof Error
      ? `${thrown.name}: ${thrown.message}`
      : String(thrown);
  send(
    Wire.failure,
    id,
    new FieldWriter()
      .u8(answered ? 0 : 1)
      .text(reason.slice(0, MOST_TEXT))
      .done(),
  );
}

/** How often it is told what an instance holds, at most: of its calls, so one that isn't called says nothing. */
const TELL_MEMORY_MS = 5_000;

/** Calls into the component; an `err` arrives as the bare value. */
function guarded<T>(call: () => T): T {
  beginCall();
  try {
    return call();
  } catch (thrown) {
    throw typeof thrown === "string" ? new Answered(thrown) : thrown;
  }
}

/** Buffers below this size are left to the collector: they are part of its heap, or not worth a call. */
const WORTH_BYTES = 512;

/**
 * Frees buffers now. A collection comes after a thousand calls or more, by the number of objects, and would find megabytes of them.
 * One that is larger than its view is the component's memory, or not ours alone.
 */
function letGo(arrays: readonly ArrayBufferView[]): void {
  for (const array of arrays) if (array.byteLength >= WORTH_BYTES) freeNow(array);
}

/** What the vetted files give before there is an instance. */
interface Prepared {
  readonly modules: ReadonlyMap<string, WebAssembly.Module>;
  readonly generated: {
    instantiate(
      core: (name: string) => WebAssembly.Module | undefined,
      imports: object,
      instantiateCore: (module: WebAssembly.Module, imports: object) => WebAssembly.Instance,
    ): Record<string, never>;
  };
}

/** Compiles the modules and imports the generated code, then gives up the right to read files. */
async function prepare(): Promise<Prepared> {
  const modules = new Map(
    files
      .filter((name) => name.endsWith(".wasm"))
      .map((name) => [name, new WebAssembly.Module(readFileSync(join(dir, name)))]),
  );
  const generated: Prepared["generated"] = await import(pathToFileURL(join(dir, "component.js")).href);
  for (const right of ["fs.read", "fs.write", "child", "net", "addon", "wasi", "inspector"]) {
    process.permission?.drop(right);
  }
  return { modules, generated };
}

/** The component's, those that its core modules share among them once. */
const memories = new Set<WebAssembly.Memory>();
let memoryToldMs = Number.NEGATIVE_INFINITY;

/** Tells the agent what this thread holds, when it hasn't for a while. */
function tellMemory(): void {
  const nowMs = performance.now();
  if (nowMs - memoryToldMs < TELL_MEMORY_MS) return;
  memoryToldMs = nowMs;
  let wasmBytes = 0;
  for (const { buffer } of memories) wasmBytes += buffer.byteLength;
  send(Wire.memory, 0, new FieldWriter().f64(wasmBytes).f64(getHeapStatistics().used_heap_size).done());
}

function instantiate({ modules, generated }: Prepared, imports: Record<string, object>): Component {
  const made = guarded(() =>
    generated.instantiate(
      (name) => modules.get(name),
      imports,
      (module, wanted) => {
        const instance = new WebAssembly.Instance(module, wanted);
        for (const one of Object.values<unknown>(instance.exports))
          if (one instanceof WebAssembly.Memory && !memories.has(one)) {
            quickenMemory(one);
            memories.add(one);
          }
        return instance;
      },
    ),
  );
  const pick = <T>(name: string | undefined): T | undefined => (name === undefined ? undefined : made[name]);
  const lifecycle = pick<Component["lifecycle"]>(exports.lifecycle);
  if (lifecycle === undefined) throw new Error("the component lost its lifecycle export");
  return {
    lifecycle,
    decoder: pick(exports.decoder),
    transform: pick(exports.transform),
    timer: pick(exports.timer),
  };
}

function readState(fields: FieldReader): StateEntry[] {
  const state: StateEntry[] = [];
  for (let left = fields.u32(); left > 0; left--) {
    state.push({ scope: fields.text(MOST_TEXT), key: fields.text(MOST_TEXT), value: fields.bytes(2 ** 30) });
  }
  return state;
}

/** Device messages as the contract has them, views on the block. */
function readMessages(
  meta: Uint8Array<ArrayBuffer>,
  block: Uint8Array<ArrayBuffer>,
): { count: number; batch: object } {
  const fields = new FieldReader(meta);
  const count = fields.u32();
  const names = [fields.u32(), fields.u32(), fields.u32()].map((entries) =>
    Array.from({ length: entries }, () => fields.text(2 ** 20)),
  );
  let at = 8 * count;
  const column = (): Uint32Array => {
    const view = new Uint32Array(block.buffer, at, count);
    at += 4 * count;
    return view;
  };
  const [devices, channels, topics] = names;
  const time = new Float64Array(block.buffer, 0, count);
  const [device, channel, topic, end] = [column(), column(), column(), column()];
  const payload = new Uint8Array(block.buffer, at);
  return { count, batch: { devices, channels, topics, device, channel, topic, time, end, payload } };
}

function checkedFrame(value: unknown): LiftedFrame {
  if (isLiftedFrame(value)) return value;
  throw new Error("its types are not the contract's");
}

function checkedRejections(value: unknown, count: number): { index: number; reason: string }[] {
  if (!Array.isArray(value)) throw new Error("its types are not the contract's");
  if (value.length > count) throw new Error(`refused ${value.length} of ${count} messages`);
  return value.map(({ index, reason }: { index: number; reason: string }) => ({
    index,
    reason: String(reason).slice(0, 256),
  }));
}

let prepared: Prepared | undefined;
let unprepared: unknown;
try {
  prepared = await prepare();
  send(Wire.ready, 0, NOTHING);
} catch (thrown) {
  // Whoever opens it is told.
  unprepared = thrown;
}
const head = readHead(read(WIRE_HEADER_BYTES));
const opening = new FieldReader(read(head.metaBytes));
const request: OpenRequest = JSON.parse(opening.text(2 ** 24));
const { outputRows: rows, outputBytes: bytes } = request.limits;
const guest = new GuestImports(request, readState(opening), sendLog);
limitLifting(2 * bytes + 4 * 1024 * 1024);

let component: Component;
try {
  if (prepared === undefined) throw unprepared;
  component = instantiate(prepared, { ...WASI, ...guest.interfaces(refillLifting) });
  const { lifecycle } = component;
  guarded(() => lifecycle.configure(request.config));
} catch (thrown) {
  sendFailure(head.id, thrown);
  process.exit(0);
}
tellMemory();
// What `configure` changed goes with the first result: it commits with that, or not at all.
send(Wire.ready, head.id, NOTHING);
// What the start took and no longer needs: a thread that waits for calls makes too little garbage to be collected. 5 ms, 2 MB.
globalThis.gc?.();

for (;;) {
  const { type, id, metaBytes, blockBytes } = readHead(read(WIRE_HEADER_BYTES));
  const meta = read(metaBytes);
  const block = read(blockBytes);
  refillLifting(); // names of messages are read as the component's are
  try {
    let frame: LiftedFrame;
    let rejected: { index: number; reason: string }[] = [];
    if (type === Wire.transform) {
      const input = new Frame(block.buffer);
      frame = checkedFrame(guarded(() => component.transform?.transform(input)));
    } else if (type === Wire.decode) {
      const { count, batch } = readMessages(meta, block);
      const decoded = guarded(() => component.decoder?.decode(batch));
      const parts = new Map<string, unknown>(Object.entries(decoded ?? {}));
      frame = checkedFrame(parts.get("frame"));
      rejected = checkedRejections(parts.get("rejected"), count);
    } else {
      const nowUs = new FieldReader(meta).f64();
      frame = checkedFrame(guarded(() => component.timer?.tick(nowUs)));
    }
    const out = layOut(frame, { rows, bytes });
    tellMemory();
    send(Wire.result, id, encodeResult({ ...guest.take(), rejected }), out);
    letGo([block, out, frame.device, frame.metric, frame.time, frame.kind, frame.status, frame.value]);
  } catch (thrown) {
    sendFailure(id, thrown);
    process.exit(0); // what it holds now is nobody's business: the agent starts a fresh one
  }
}
