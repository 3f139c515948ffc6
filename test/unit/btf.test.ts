import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { enumNames, kernelEnum } from "../../src/addon/btf.ts";

/** A description with an integer, a structure of one member and an enumeration `colour` of two. */
function description(): Buffer {
  const strings = Buffer.from("\0colour\0RED\0BLUE\0int\0");
  const at = (text: string): number => strings.indexOf(`\0${text}\0`) + 1;
  const types = [
    [at("int"), 1 << 24, 4, 0],
    [0, (4 << 24) | 1, 4, 0, 1, 0],
    [at("colour"), (6 << 24) | 2, 4, at("RED"), 3, at("BLUE"), 8],
  ].flat();
  const header = [0xeb9f | (1 << 16), 24, 0, types.length * 4, types.length * 4, strings.length];
  return Buffer.concat([Buffer.from(Uint32Array.from([...header, ...types]).buffer), strings]);
}

test("an enumeration's members are found by their value, past types of other kinds", () => {
  const found = enumNames(description(), "colour");
  expect([...(found ?? [])]).toEqual([
    [3, "RED"],
    [8, "BLUE"],
  ]);
  expect(enumNames(description(), "RED")).toBeUndefined();
  expect(enumNames(description(), "shape")).toBeUndefined();
});

test("a description cut off or damaged anywhere gives nothing, or names, and never throws", () => {
  const whole = description();
  for (let length = 0; length < whole.length; length++)
    expect(enumNames(whole.subarray(0, length), "colour")).toBeUndefined();
  for (let at = 0; at < whole.length; at++) {
    for (const byte of [0, 1, 0x7f, 0xff]) {
      const damaged = Buffer.from(whole);
      damaged[at] = byte;
      expect(() => enumNames(damaged, "colour")).not.toThrow();
    }
  }
});

test.skipIf(!existsSync("/sys/kernel/btf/vmlinux"))("the running kernel names its own", () => {
  expect(enumNames(readFileSync("/sys/kernel/btf/vmlinux"), "bpf_map_type")?.get(2)).toBe(
    "BPF_MAP_TYPE_ARRAY",
  );
  expect(kernelEnum("no_such_enumeration").size).toBe(0);
});
