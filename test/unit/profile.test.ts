/** The parts of a profile that need no kernel: records, symbols, the drawing. */
import { expect, test } from "vitest";
import { ElfSymbols } from "../../src/addon/elf.ts";
import { readRecords, readStack, type Stack } from "../../src/addon/sampler.ts";
import { parseMaps } from "../../src/addon/symbols.ts";
import { flameGraph } from "../../src/cli/flame-graph.ts";

function record(type: number, body: readonly bigint[]): Buffer {
  const bytes = Buffer.alloc(8 + 8 * body.length);
  bytes.writeUInt32LE(type, 0);
  bytes.writeUInt16LE(bytes.length, 6);
  for (const [i, word] of body.entries()) bytes.writeBigUInt64LE(BigInt.asUintN(64, word), 8 + 8 * i);
  return bytes;
}

test("a sample's addresses are the kernel's and the program's, by the marks between them", () => {
  const samples: (Stack & { readonly pid: number; readonly tid: number })[] = [];
  const names: string[] = [];
  const ids = (70n << 32n) | 7n;
  const records = Buffer.concat([
    record(9, [ids, 0n, 5n, -128n, 0xffffffff81000000n, -512n, 0x1000n, 0x2000n]),
    record(3, [(7n << 32n) | 7n, BigInt(`0x${Buffer.from("pump\0\0\0\0").reverse().toString("hex")}`)]),
    record(3, [ids, 0x61n]),
    // says more addresses than it has
    record(9, [ids, 0n, 1000n, -512n, 0x3000n]),
    Buffer.from([9, 0, 0, 0, 0, 0, 200, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
  ]);
  const take = (bytes: Buffer): void =>
    readRecords(
      bytes,
      ({ pid, tid, callchain }) => samples.push({ pid, tid, ...readStack(callchain) }),
      (pid, name) => names.push(`${pid} ${name}`),
    );
  take(records);
  expect(samples).toEqual([
    { pid: 7, tid: 70, kernel: [0xffffffff81000000n], user: [0x1000n, 0x2000n] },
    { pid: 7, tid: 70, kernel: [], user: [0x3000n] },
  ]);
  expect(names).toEqual(["7 pump"]);
  for (let length = 0; length < records.length; length++)
    expect(() => take(records.subarray(0, length))).not.toThrow();
});

/** An ELF file with a segment from 0x100 of the file to 0x401000, and functions `first` (16 bytes) and `second` (size 0). */
function elf(): Buffer {
  const file = Buffer.alloc(0x400);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  const at = (offset: number, value: number): void => void file.writeBigUInt64LE(BigInt(value), offset);
  at(32, 64); // segments
  at(40, 0x200); // sections
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt16LE(64, 58);
  file.writeUInt16LE(3, 60);
  file.writeUInt32LE(1, 64);
  at(64 + 8, 0x100);
  at(64 + 16, 0x401000);
  at(64 + 32, 0x100);
  file.writeUInt32LE(2, 0x240 + 4);
  at(0x240 + 24, 0x300);
  at(0x240 + 32, 48);
  file.writeUInt32LE(2, 0x240 + 40);
  at(0x280 + 24, 0x380);
  at(0x280 + 32, 14);
  file.writeUInt32LE(1, 0x300);
  file[0x304] = 0x12;
  at(0x308, 0x401010);
  at(0x310, 16);
  file.writeUInt32LE(7, 0x318);
  file[0x31c] = 0x12;
  at(0x320, 0x401040);
  file.write("\0first\0second\0", 0x380);
  return file;
}

const symbolsOf = (file: Buffer): ElfSymbols | undefined =>
  ElfSymbols.from((position, length) => file.subarray(position, position + length));

test("a function is found by where it lies in the file, one without a size reaches to the next", () => {
  const symbols = symbolsOf(elf());
  const at = (offset: number): string | undefined => symbols?.at(offset);
  expect([at(0x10f), at(0x110), at(0x11f), at(0x120), at(0x140), at(0x1ff), at(0x200)]).toEqual([
    undefined,
    "first",
    "first",
    undefined,
    "second",
    "second",
    undefined,
  ]);
});

test("a file cut off or damaged anywhere never throws", () => {
  const whole = elf();
  for (let length = 0; length < whole.length; length += 3)
    expect(() => symbolsOf(whole.subarray(0, length))?.at(0x110)).not.toThrow();
  for (let at = 0; at < 0x390; at++) {
    for (const byte of [0, 0x7f, 0xff]) {
      const damaged = Buffer.from(whole);
      damaged[at] = byte;
      expect(() => symbolsOf(damaged)?.at(0x110)).not.toThrow();
    }
  }
});

test("mappings that can be executed are read with their files", () => {
  const text = `55d0c0000000-55d0c0001000 r--p 00000000 fe:00 1234    /usr/bin/a b
55d0c0001000-55d0c0002000 r-xp 00001000 fe:00 1234    /usr/bin/a b (deleted)
7ffd0000000-7ffd0001000 r-xp 00000000 00:00 0    [vdso]
7f0000000000-7f0000001000 r-xp 00000000 00:00 0
nonsense`;
  expect(parseMaps(text)).toEqual([
    { start: 0x55d0c0001000, end: 0x55d0c0002000, offset: 0x1000, path: "/usr/bin/a b" },
    { start: 0x7ffd0000000, end: 0x7ffd0001000, offset: 0, path: "[vdso]" },
    { start: 0x7f0000000000, end: 0x7f0000001000, offset: 0, path: "" },
  ]);
});

test("a flame graph's frames are as wide as their share, and no name breaks out of the file", () => {
  const stacks = new Map([
    ['a;<script>alert("x")</script>', 3],
    ["a;b", 1],
  ]);
  const svg = flameGraph(stacks, "t & u");
  const width = (name: string): number =>
    Number(new RegExp(`data-w="([0-9.]+)" data-d="\\d+" data-n="${name}"`).exec(svg)?.[1]);
  expect(width("all")).toBe(1180);
  expect(width("b")).toBeCloseTo(1180 / 4, 1);
  expect(svg).toContain("t &amp; u");
  expect(svg.match(/<script/g)?.length).toBe(1);
});
