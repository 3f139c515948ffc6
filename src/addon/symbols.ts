/** Names for the addresses of a sample: the kernel's functions, those of programs and libraries, and of just-in-time compilers. */
import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { ElfSymbols, lastNotAfter } from "./elf.ts";
import { addonState } from "./index.ts";

const MOST_PROCESSES = 4096;
const MOST_FILES = 512;
const MOST_MAPPINGS = 16_384;
/** A larger map of a just-in-time compiler is not read. */
const MOST_MAP_BYTES = 64 * 2 ** 20;

/** Ascending addresses with names. */
interface Names {
  readonly addresses: Float64Array;
  readonly sizes: Float64Array | undefined;
  readonly names: readonly string[];
}

interface Mapping {
  readonly start: number;
  readonly end: number;
  readonly offset: number;
  readonly path: string;
}

interface Process {
  name: string;
  mappings: readonly Mapping[];
  compiled: Names | undefined;
}

/** Remembers what it has read. For one recording: processes come and go, and files change. */
export class Symbols {
  readonly #kernel: Names = kernelNames();
  readonly #processes = new Map<number, Process>();
  readonly #files = new Map<string, ElfSymbols | undefined>();
  readonly #plain = new Map<string, string>();

  /** False when the kernel's addresses are hidden: its functions then show as `[kernel]`. */
  get kernelKnown(): boolean {
    return this.#kernel.names.length > 0;
  }

  /** Looks at a process that was just seen for the first time, while it is still there. */
  see(pid: number): void {
    if (this.#processes.has(pid) || this.#processes.size >= MOST_PROCESSES) return;
    const name = readText(`/proc/${pid}/comm`)?.trim() || (pid === 0 ? "[idle]" : `[${pid}]`);
    this.#processes.set(pid, {
      name,
      mappings: parseMaps(readText(`/proc/${pid}/maps`) ?? ""),
      compiled: undefined,
    });
  }

  /** A process took another name: with exec, another program. */
  rename(pid: number, name: string): void {
    this.#processes.delete(pid);
    this.see(pid);
    const process = this.#processes.get(pid);
    if (process !== undefined) process.name = name;
  }

  /** Reads what grew meanwhile: libraries that were loaded, and code that was compiled. Call it before {@link user}. */
  refresh(): void {
    for (const [pid, process] of this.#processes) {
      const mappings = parseMaps(readText(`/proc/${pid}/maps`) ?? "");
      if (mappings.length > 0) process.mappings = mappings;
      process.compiled = compiledNames(pid);
    }
  }

  processName(pid: number): string {
    return this.#processes.get(pid)?.name ?? `[${pid}]`;
  }

  kernel(address: bigint): string {
    return nameAt(this.#kernel, Number(BigInt.asUintN(48, address))) ?? "[kernel]";
  }

  user(pid: number, address: bigint): string {
    const process = this.#processes.get(pid);
    const at = Number(address);
    const mapping = process?.mappings.find(({ start, end }) => at >= start && at < end);
    const compiled = process?.compiled === undefined ? undefined : nameAt(process.compiled, at);
    if (compiled !== undefined) return compiled;
    if (mapping === undefined) return "[unknown]";
    if (!mapping.path.startsWith("/")) return mapping.path === "" ? "[anonymous]" : mapping.path;
    const name = this.#file(pid, mapping.path)?.at(at - mapping.start + mapping.offset);
    if (name === undefined) return `[${mapping.path.slice(mapping.path.lastIndexOf("/") + 1)}]`;
    return this.#demangled(name);
  }

  #file(pid: number, path: string): ElfSymbols | undefined {
    // A container's files are seen through its process.
    const known = `/proc/${pid}/root${path}`;
    if (!this.#files.has(path)) {
      if (this.#files.size >= MOST_FILES) return undefined;
      this.#files.set(path, ElfSymbols.open(known) ?? ElfSymbols.open(path));
    }
    return this.#files.get(path);
  }

  #demangled(name: string): string {
    let plain = this.#plain.get(name);
    if (plain === undefined) {
      const addon = addonState();
      plain = addon.ok ? addon.native.demangle(name) : name;
      this.#plain.set(name, plain);
    }
    return plain;
  }
}

function nameAt({ addresses, sizes, names }: Names, address: number): string | undefined {
  const place = lastNotAfter(addresses, address);
  const size = sizes?.[place];
  if (place < 0 || (size !== undefined && address >= (addresses[place] ?? 0) + size)) return undefined;
  return names[place];
}

/** /proc/kallsyms; no names where addresses are hidden (kptr_restrict: all 0). */
function kernelNames(): Names {
  const found: { readonly address: number; readonly name: string }[] = [];
  const text = readText("/proc/kallsyms") ?? "";
  for (const [, hex = "", name = ""] of text.matchAll(/^([0-9a-f]{16}) [tTwW] (\S+)/gm)) {
    // The upper half of the address space: 48 bits tell its addresses apart, and a double holds them.
    const address = Number.parseInt(hex.slice(4), 16);
    if (address > 0) found.push({ address, name });
  }
  found.sort((a, b) => a.address - b.address);
  return {
    addresses: Float64Array.from(found, ({ address }) => address),
    sizes: undefined,
    names: found.map(({ name }) => name),
  };
}

/** What a just-in-time compiler says of its code: perf-<pid>.map, lines of start, size (both hexadecimal) and name. */
function compiledNames(pid: number): Names | undefined {
  const inside = /^NSpid:.*\s(\d+)$/m.exec(readText(`/proc/${pid}/status`) ?? "")?.[1] ?? String(pid);
  const text = readForeign(`/proc/${pid}/root/tmp/perf-${inside}.map`);
  if (text === undefined) return undefined;
  const found = new Map<number, { readonly size: number; readonly name: string }>();
  for (const [, start = "", size = "", name = ""] of text.matchAll(
    /^([0-9a-f]{1,12}) ([0-9a-f]{1,8}) (.{1,256})/gm,
  ))
    found.set(Number.parseInt(start, 16), { size: Number.parseInt(size, 16), name });
  const sorted = [...found].sort(([a], [b]) => a - b);
  return {
    addresses: Float64Array.from(sorted, ([address]) => address),
    sizes: Float64Array.from(sorted, ([, { size }]) => size),
    names: sorted.map(([, { name }]) => name),
  };
}

/** /proc/<pid>/maps (proc(5)): those that can be executed. */
export function parseMaps(text: string): readonly Mapping[] {
  const found: Mapping[] = [];
  const lines = text.matchAll(/^([0-9a-f]{1,13})-([0-9a-f]{1,13}) ..x. ([0-9a-f]{1,13}) \S+ \d+ *(.*)$/gm);
  for (const [, start = "", end = "", offset = "", path = ""] of lines) {
    if (found.length >= MOST_MAPPINGS) break;
    const [from, to, at] = [start, end, offset].map((hex) => Number.parseInt(hex, 16));
    if (from !== undefined && to !== undefined && at !== undefined)
      found.push({ start: from, end: to, offset: at, path: path.replace(/ \(deleted\)$/, "") });
  }
  return found;
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return undefined;
  }
}

/** A file that anybody may have put there: a plain one, neither a link nor too large. */
function readForeign(path: string): string | undefined {
  let file: number | undefined;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const facts = fstatSync(file);
    return facts.isFile() && facts.size <= MOST_MAP_BYTES ? readFileSync(file, "latin1") : undefined;
  } catch {
    return undefined;
  } finally {
    if (file !== undefined) closeSync(file);
  }
}
