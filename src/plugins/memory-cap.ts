/**
 * Memory limits of a core module. Nothing else bounds wasm memory: a worker's resource limits don't, and compilers leave
 * the maximum out, which means 4 GiB. An imported memory is one that another module of the component defines.
 */

const MEMORY_SECTION = 5;
const PAGE_KIB = 64;

/** A core module whose memories are capped, and how many it defines. */
export interface Capped {
  readonly bytes: Uint8Array;
  readonly memories: number;
}

/**
 * Gives every memory that a module defines a maximum of at most `memoryMiB`.
 * @throws Error when the bytes are no module, or a memory is shared, 64-bit, or begins larger than that
 */
export function capMemories(module: Uint8Array, memoryMiB: number): Capped {
  const most = (memoryMiB * 1024) / PAGE_KIB;
  let at = 8;
  while (at < module.byteLength) {
    const start = at;
    const id = module[at];
    const [size, body] = leb(module, at + 1);
    const end = body + size;
    if (end > module.byteLength) throw new Error("a core module's section runs past its end");
    if (id === MEMORY_SECTION) {
      const { section, memories } = rewrite(module.subarray(body, end), most, memoryMiB);
      const head = [MEMORY_SECTION, ...toLeb(section.length)];
      const parts = [module.subarray(0, start), Uint8Array.from([...head, ...section]), module.subarray(end)];
      return { bytes: Buffer.concat(parts), memories };
    }
    at = end;
  }
  return { bytes: module, memories: 0 };
}

/** The memory section's body with a maximum in each entry. */
function rewrite(body: Uint8Array, most: number, memoryMiB: number): { section: number[]; memories: number } {
  let [memories, at] = leb(body, 0);
  const section = toLeb(memories);
  for (let i = 0; i < memories; i++) {
    let flags: number;
    let least: number;
    let limit = most;
    [flags, at] = leb(body, at);
    if (flags > 1) throw new Error("a memory is shared, 64-bit or of another page size");
    [least, at] = leb(body, at);
    if (flags === 1) {
      [limit, at] = leb(body, at);
      limit = Math.min(limit, most);
    }
    if (least > most)
      throw new Error(`needs ${Math.ceil(least / 16)} MiB of memory to start, its limit is ${memoryMiB}`);
    section.push(1, ...toLeb(least), ...toLeb(limit));
  }
  if (at !== body.byteLength) throw new Error("bytes left over in a core module's memory section");
  return { section, memories };
}

/** An unsigned LEB128 of up to 32 bits, and where it ends. */
function leb(bytes: Uint8Array, start: number): [value: number, end: number] {
  let value = 0;
  for (let i = 0; i < 5; i++) {
    const byte = bytes[start + i];
    if (byte === undefined) break;
    value += (byte & 127) * 128 ** i;
    if (byte < 128) return [value, start + i + 1];
  }
  throw new Error("a core module has a broken number");
}

function toLeb(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  while (rest > 127) {
    out.push((rest % 128) | 128);
    rest = Math.floor(rest / 128);
  }
  out.push(rest);
  return out;
}
