/**
 * The names of an enumeration of the running kernel, from its own description of its types (BTF;
 * Documentation/bpf/btf.rst): what numbers mean differs from kernel to kernel.
 *
 * A file is a header (magic, version, flags, own length, then offset and length of types and of strings), the types one
 * after the other, and strings that end with NUL. A type is three words, name, kind and count, size; what follows depends on
 * its kind.
 */
import { readFileSync } from "node:fs";
import { endianness } from "node:os";
import { freeNow } from "../core/free.ts";

const MAGIC = 0xeb9f;
const HEADER_BYTES = 24;
const KIND_ENUM = 6;
/** Bytes after a type's three words: of the type itself, and of each of its members. By kind, 0 to 19. */
const AFTER: readonly (readonly [own: number, member: number])[] = [
  [0, 0],
  [4, 0], // int
  [0, 0], // pointer
  [12, 0], // array
  [0, 12], // struct
  [0, 12], // union
  [0, 8], // enum
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 8], // function prototype
  [4, 0], // variable
  [0, 12], // section
  [0, 0],
  [4, 0], // declaration tag
  [0, 0],
  [0, 12], // enum of 64 bits
];

/**
 * The members of enumeration `name` by their value; undefined when there is none, or `bytes` is not a whole description in
 * this machine's byte order.
 */
export function enumNames(bytes: Buffer, name: string): ReadonlyMap<number, string> | undefined {
  const little = endianness() === "LE";
  const u32 = (at: number): number => (little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at));
  if (bytes.length < HEADER_BYTES || (little ? bytes.readUInt16LE(0) : bytes.readUInt16BE(0)) !== MAGIC)
    return undefined;
  const headerBytes = u32(4);
  const [types, typesEnd] = [headerBytes + u32(8), headerBytes + u32(8) + u32(12)];
  const [strings, stringsEnd] = [headerBytes + u32(16), headerBytes + u32(16) + u32(20)];
  if (typesEnd > bytes.length || stringsEnd > bytes.length) return undefined;
  const text = (offset: number): string => {
    const at = strings + offset;
    const end = at < stringsEnd ? bytes.indexOf(0, at) : -1;
    return end < 0 || end >= stringsEnd ? "" : bytes.toString("latin1", at, end);
  };
  // The name is looked for once, as bytes: comparing a text for each of 100,000 types would take long.
  const wanted = bytes.indexOf(`\0${name}\0`, strings, "latin1") + 1 - strings;
  for (let at = types; at + 12 <= typesEnd; ) {
    const info = u32(at + 4);
    const [kind, members] = [(info >>> 24) & 0x1f, info & 0xffff];
    const [own, member] = AFTER[kind] ?? [0, 0];
    const next = at + 12 + own + members * member;
    // A kind of later kernels: how long it is can't be known.
    if (kind >= AFTER.length || next > typesEnd) return undefined;
    if (kind === KIND_ENUM && members > 0 && u32(at) === wanted) {
      const found = new Map<number, string>();
      for (let one = at + 12; one < next; one += 8) found.set(u32(one + 4), text(u32(one)));
      return found;
    }
    at = next;
  }
  return undefined;
}

/** The same of the running kernel; empty when it doesn't describe its types. */
export function kernelEnum(name: string): ReadonlyMap<number, string> {
  try {
    const bytes = readFileSync("/sys/kernel/btf/vmlinux");
    const names = enumNames(bytes, name);
    // 5 MB that would else wait for a collection, which an agent at rest has none of.
    freeNow(bytes);
    return names ?? new Map();
  } catch {
    return new Map();
  }
}
