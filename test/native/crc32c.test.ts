import fc from "fast-check";
import { expect, test } from "vitest";
import { crc32cTable } from "../../src/addon/crc32c.ts";
import { addonState, crc32c } from "../../src/addon/index.ts";

// RFC 3720, appendix B.4, and the check value of the CRC catalogue (CRC-32/ISCSI).
const published: readonly [name: string, bytes: Uint8Array, crc: number][] = [
  ["32 zero bytes", new Uint8Array(32), 0x8a9136aa],
  ["32 bytes of ones", new Uint8Array(32).fill(0xff), 0x62a8ab43],
  ["32 bytes counting up", Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
  ["32 bytes counting down", Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
  ["the digits", new TextEncoder().encode("123456789"), 0xe3069283],
];

for (const [name, bytes, crc] of published) {
  test(`the checksum of ${name} is the published one, from the addon and from JavaScript`, () => {
    expect(crc32c(bytes)).toBe(crc);
    expect(crc32cTable(bytes)).toBe(crc);
  });
}

test.skipIf(!addonState().ok)("the addon and JavaScript agree on any bytes in any two parts", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(300), (bytes, at) => {
      const whole = crc32c(bytes);
      expect(crc32cTable(bytes)).toBe(whole);
      expect(crc32c(bytes.subarray(at), crc32c(bytes.subarray(0, at)))).toBe(whole);
      expect(crc32cTable(bytes.subarray(at), crc32cTable(bytes.subarray(0, at)))).toBe(whole);
    }),
  );
});

test("bytes of a detached buffer and of a shared one are read safely", () => {
  const detached = new Uint8Array([1, 2, 3]);
  structuredClone(detached.buffer, { transfer: [detached.buffer] });
  expect(crc32c(detached)).toBe(0);
  const shared = new Uint8Array(new SharedArrayBuffer(32));
  expect(crc32c(shared)).toBe(0x8a9136aa);
});
