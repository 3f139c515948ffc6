/**
 * `weir vet`: runs in the jail, for one component. Transpiles it to JavaScript and core modules, checks those, and hands
 * them back. It never runs what it makes. Descriptor 3, both ways:
 *
 *     in    metaBytes u32 | componentBytes u32 | {@link VetRequest} as JSON | component
 *     out   metaBytes u32 | 0 u32 | {@link VetAnswer} as JSON | the files, one after the other
 */
import { readSync, writeSync } from "node:fs";
import { registerHooks } from "node:module";
import { extname } from "node:path";
import { capMemories } from "./memory-cap.ts";
import { checkContract, checkNames, checkPreamble, MOST_MEMORIES } from "./vet-checks.ts";
import type { VetAnswer } from "./vetted.ts";

/** What the agent asks. */
export interface VetRequest {
  readonly memoryMiB: number;
}

const PIPE = 3;

// The transpiler is a wasm component itself. It gets the WASI that plugins get: the package it would take starts a thread,
// reads the environment and can open files.
const stubs = import.meta.resolve(`./wasi-stubs${extname(import.meta.filename)}`);
registerHooks({
  resolve: (specifier, context, next) =>
    specifier.startsWith("@bytecodealliance/preview2-shim/")
      ? { url: stubs, shortCircuit: true }
      : next(specifier, context),
});
const { $init, generate } = await import("@bytecodealliance/jco-transpile/component");
const { componentWit } = await import("@bytecodealliance/jco-transpile/wasm-tools");

function read(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const got = readSync(PIPE, bytes, at, length - at, null);
    if (got === 0) process.exit(0); // the agent is gone
    at += got;
  }
  return bytes;
}

function write(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.byteLength; ) at += writeSync(PIPE, bytes, at, bytes.byteLength - at, null);
}

const files: [name: string, bytes: Uint8Array][] = [];

async function vet(component: Uint8Array, memoryMiB: number): Promise<VetAnswer> {
  checkPreamble(component);
  await $init;
  const wit = await componentWit(component);
  const made = generate(component, {
    name: "component",
    map: [],
    instantiation: { tag: "sync" },
    noTypescript: true,
    noNodejsCompat: true,
    noComponentErrorWrapping: true,
    base64Cutoff: 0,
  });
  const exports = checkContract(
    wit,
    made.imports,
    made.exports.map(([name]) => name),
  );
  let memories = 0;
  for (const [name, bytes] of made.files) {
    if (name === "component.js") {
      files.push([name, bytes]);
      continue;
    }
    if (!/^component\.core\d*\.wasm$/.test(name))
      throw new Error(`makes a file called ${JSON.stringify(name)}`);
    const capped = capMemories(bytes, memoryMiB);
    memories += capped.memories;
    if (memories > MOST_MEMORIES) throw new Error(`has more than ${MOST_MEMORIES} memories`);
    checkNames(new WebAssembly.Module(capped.bytes));
    files.push([name, capped.bytes]);
  }
  return {
    ok: true,
    exports,
    memories,
    files: files.map(([name, bytes]) => ({ name, size: bytes.byteLength })),
  };
}

const head = new DataView(read(8).buffer);
const request: VetRequest = JSON.parse(new TextDecoder().decode(read(head.getUint32(0, true))));
const component = read(head.getUint32(4, true));
let answer: VetAnswer;
try {
  answer = await vet(component, request.memoryMiB);
} catch (thrown) {
  const reason = thrown instanceof Error ? thrown.message : String(thrown);
  answer = { ok: false, reason: reason.replaceAll(/\s+/g, " ").slice(0, 500) };
}
const meta = new TextEncoder().encode(JSON.stringify(answer));
const out = new Uint8Array(8);
new DataView(out.buffer).setUint32(0, meta.byteLength, true);
write(out);
write(meta);
if (answer.ok) for (const [, bytes] of files) write(bytes);
