/**
 * The functions of an ELF file (elf(5)): names from .symtab or, where that was stripped, .dynsym. 64-bit files in this
 * machine's byte order. Files are read in parts and believed in nothing: what is out of bounds is left out.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";

const SECTION_BYTES = 64;
const SEGMENT_BYTES = 56;
const SYMBOL_BYTES = 24;
const SHT_SYMTAB = 2;
const SHT_DYNSYM = 11;
const PT_LOAD = 1;
const STT_FUNC = 2;
const STT_GNU_IFUNC = 10;
/** A table larger than this is not read: 64 MiB hold 2.8 million symbols. */
const MOST_TABLE_BYTES = 64 * 2 ** 20;
const MOST_ENTRIES = 4096;

/** Reads `length` bytes at `position`; fewer where the file ends. */
type Read = (position: number, length: number) => Buffer;

/** Where a part of the file is loaded to. */
interface Segment {
  readonly offset: number;
  readonly size: number;
  readonly address: number;
}

/** Finds functions by where they lie in the file. Holds the tables, not the file. */
export class ElfSymbols {
  readonly #segments: readonly Segment[];
  /** address and size of each function, by address, and where its name begins in #names */
  readonly #addresses: Float64Array;
  readonly #sizes: Float64Array;
  readonly #nameAt: Uint32Array;
  readonly #names: Buffer;

  /** Undefined for what is no ELF file of 64 bits, or has no symbols. */
  static open(path: string): ElfSymbols | undefined {
    let file: number | undefined;
    try {
      file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const descriptor = file;
      const facts = fstatSync(descriptor);
      if (!facts.isFile()) return undefined;
      return ElfSymbols.from((position, length) => {
        const part = Buffer.alloc(Math.max(0, Math.min(length, facts.size - position)));
        return part.subarray(0, readSync(descriptor, part, 0, part.length, position));
      });
    } catch {
      return undefined;
    } finally {
      if (file !== undefined) closeSync(file);
    }
  }

  /** The same of anything that can be read in parts. */
  static from(read: Read): ElfSymbols | undefined {
    const head = read(0, 64);
    // 0x7f E L F, 64 bits, least significant byte first
    if (head.length < 64 || head.readUInt32BE(0) !== 0x7f454c46 || head[4] !== 2 || head[5] !== 1)
      return undefined;
    const segments = entries(read, u64(head, 32), head.readUInt16LE(56), head.readUInt16LE(54), SEGMENT_BYTES)
      .filter((one) => one.readUInt32LE(0) === PT_LOAD)
      .map((one) => ({ offset: u64(one, 8), address: u64(one, 16), size: u64(one, 32) }));
    const sections = entries(
      read,
      u64(head, 40),
      head.readUInt16LE(60),
      head.readUInt16LE(58),
      SECTION_BYTES,
    );
    for (const type of [SHT_SYMTAB, SHT_DYNSYM]) {
      const table = sections.find((one) => one.readUInt32LE(4) === type);
      const names = sections[table?.readUInt32LE(40) ?? -1];
      if (table === undefined || names === undefined) continue;
      const [symbolBytes, nameBytes] = [u64(table, 32), u64(names, 32)];
      if (symbolBytes > MOST_TABLE_BYTES || nameBytes > MOST_TABLE_BYTES) continue;
      const found = new ElfSymbols(
        segments,
        read(u64(table, 24), symbolBytes),
        read(u64(names, 24), nameBytes),
      );
      if (found.#addresses.length > 0) return found;
    }
    return undefined;
  }

  private constructor(segments: readonly Segment[], table: Buffer, names: Buffer) {
    this.#segments = segments;
    this.#names = names;
    const functions: { address: number; size: number; name: number }[] = [];
    for (let at = 0; at + SYMBOL_BYTES <= table.length; at += SYMBOL_BYTES) {
      const type = (table[at + 4] ?? 0) & 0xf;
      const [name, address] = [table.readUInt32LE(at), u64(table, at + 8)];
      if ((type !== STT_FUNC && type !== STT_GNU_IFUNC) || address === 0 || name >= names.length) continue;
      functions.push({ address, size: u64(table, at + 16), name });
    }
    functions.sort((a, b) => a.address - b.address);
    this.#addresses = Float64Array.from(functions, ({ address }) => address);
    this.#sizes = Float64Array.from(functions, ({ size }) => size);
    this.#nameAt = Uint32Array.from(functions, ({ name }) => name);
  }

  /** The function that holds the byte at `offset` of the file; undefined when none does. */
  at(offset: number): string | undefined {
    const segment = this.#segments.find((one) => offset >= one.offset && offset < one.offset + one.size);
    if (segment === undefined) return undefined;
    const address = offset - segment.offset + segment.address;
    const place = lastNotAfter(this.#addresses, address);
    if (place < 0) return undefined;
    const size = this.#sizes[place] ?? 0;
    // Assembly has functions without a size: those reach to the next one.
    if (size > 0 && address >= (this.#addresses[place] ?? 0) + size) return undefined;
    const from = this.#nameAt[place] ?? 0;
    const end = this.#names.indexOf(0, from);
    return this.#names.toString("latin1", from, Math.min(end < 0 ? this.#names.length : end, from + 1024));
  }
}

/** The last place in ascending `values` whose value is not above `wanted`; -1 when there is none. */
export function lastNotAfter(values: Float64Array, wanted: number): number {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((values[middle] ?? 0) <= wanted) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** A word of 64 bits; beyond 2^53 it is rounded, which no table of a file that exists reaches. */
const u64 = (bytes: Buffer, at: number): number =>
  bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32;

function entries(read: Read, at: number, count: number, stride: number, bytes: number): Buffer[] {
  if (stride < bytes || stride > 1024) return [];
  const all = read(at, Math.min(count, MOST_ENTRIES) * stride);
  return Array.from({ length: Math.floor(all.length / stride) }, (_, i) =>
    all.subarray(i * stride, (i + 1) * stride),
  );
}
