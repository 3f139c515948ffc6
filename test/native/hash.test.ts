import { createRequire } from "node:module";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Hash, type HashName, keyedSliceHash, openHash } from "../../src/addon/hash.ts";
import { addonState, crc32c } from "../../src/addon/index.ts";
import { checkDictionaries, indexDictionaries } from "../../src/core/dictionary.ts";
import { rawBlock } from "../helpers/raw-block.ts";

// A CommonJS package whose types don't fit its exports under nodenext.
const { XXHash3, XXHash128 } = createRequire(import.meta.url)("xxhash-addon");

const state = addonState();

const open = (name: HashName, key?: bigint): Hash => {
  const hash = openHash(name, key);
  if (hash === undefined) throw new Error("no addon");
  return hash;
};

/** The bytes that xxHash's own sanity test hashes. */
function sanityBytes(length: number): Uint8Array {
  let generator = 2_654_435_761n;
  return Uint8Array.from({ length }, () => {
    const byte = Number(generator >> 56n);
    generator = BigInt.asUintN(64, generator * 11_400_714_785_074_694_797n);
    return byte;
  });
}

/** SipHash-c-d as the paper has it, in whole numbers: slow, and nothing like the addon's. */
function sipHash(c: number, d: number, key: bigint, bytes: Uint8Array): bigint {
  const mask = (1n << 64n) - 1n;
  const rotate = (x: bigint, by: bigint) => ((x << by) | (x >> (64n - by))) & mask;
  const low = key & mask;
  const high = key >> 64n;
  let v = [
    low ^ 0x736f6d6570736575n,
    high ^ 0x646f72616e646f6dn,
    low ^ 0x6c7967656e657261n,
    high ^ 0x7465646279746573n,
  ];
  const rounds = (count: number) => {
    for (let i = 0; i < count; i++) {
      let [a = 0n, b = 0n, e = 0n, f = 0n] = v;
      a = (a + b) & mask;
      b = rotate(b, 13n) ^ a;
      a = rotate(a, 32n);
      e = (e + f) & mask;
      f = rotate(f, 16n) ^ e;
      a = (a + f) & mask;
      f = rotate(f, 21n) ^ a;
      e = (e + b) & mask;
      b = rotate(b, 17n) ^ e;
      e = rotate(e, 32n);
      v = [a, b, e, f];
    }
  };
  const padded = new Uint8Array(Math.floor(bytes.length / 8) * 8 + 8);
  padded.set(bytes);
  padded[padded.length - 1] = bytes.length;
  const words = new DataView(padded.buffer);
  for (let at = 0; at < padded.length; at += 8) {
    const word = words.getBigUint64(at, true);
    v = v.map((x, i) => (i === 3 ? x ^ word : x));
    rounds(c);
    v = v.map((x, i) => (i === 0 ? x ^ word : x));
  }
  v = v.map((x, i) => (i === 2 ? x ^ 0xffn : x));
  rounds(d);
  return v.reduce((all, x) => all ^ x);
}

const counting = (length: number) => Uint8Array.from({ length }, (_, i) => i);
const paperKey = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100n;
const names: readonly HashName[] = ["xxh3", "xxh128", "siphash13", "crc32c"];

describe.skipIf(!state.ok)(`the addon's hashes${state.ok ? "" : ` (skipped: ${state.reason})`}`, () => {
  // xxHash's sanity test, one length for each of its code paths.
  const xxh3: readonly [length: number, hash: bigint][] = [
    [0, 0x2d06800538d394c2n],
    [1, 0xc44bdff4074eecdbn],
    [6, 0x27b56a84cd2d7325n],
    [12, 0xa713daf0dfbb77e7n],
    [24, 0xa3fe70bf9d3510ebn],
    [48, 0x397da259ecba1f11n],
    [80, 0xbcdefbbb2c47c90an],
    [195, 0xcd94217ee362ec3an],
    [403, 0xcdeb804d65c6dea4n],
    [512, 0x617e49599013cb6bn],
    [2048, 0xdd59e2c3a5f038e0n],
    [2240, 0x6e73a90539cf2948n],
    [2367, 0xcb37aeb9e5d361edn],
  ];
  test("XXH3 and XXH128 give the published values", () => {
    for (const [length, hash] of xxh3) expect(open("xxh3").of(sanityBytes(length))).toBe(hash);
    expect(open("xxh128").of(sanityBytes(0))).toBe(0x99aa06d3014798d86001c324468d497fn);
    expect(open("xxh128").of(sanityBytes(1))).toBe(0xa6cd5e9392000f6ac44bdff4074eecdbn);
  });

  test("SipHash-1-3 gives the reference's values, and the model in this test the paper's for SipHash-2-4", () => {
    expect(open("siphash13").of(counting(0))).toBe(0xd1fba762150c532cn);
    expect(open("siphash13").of(counting(1))).toBe(0x68a914128e01e473n);
    expect(open("siphash13", paperKey).of(counting(0))).toBe(0xabac0158050fc4dcn);
    expect(sipHash(2, 4, paperKey, counting(0))).toBe(0x726fdb47dd0e0e31n);
    expect(sipHash(2, 4, paperKey, counting(15))).toBe(0xa129ca6149be45e5n);
  });

  const anyBytes = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.integer({ min: 0, max: 5000 }).map(sanityBytes),
  );

  test("other implementations give the same for any bytes under any key", () => {
    const seeds = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
    fc.assert(
      fc.property(anyBytes, seeds, seeds, (bytes, low, high) => {
        const seed = Buffer.alloc(8);
        seed.writeBigUInt64BE(low);
        const other = (Other: typeof XXHash3): string => {
          const hash = new Other(seed);
          hash.update(Buffer.from(bytes));
          return hash.digest().toString("hex");
        };
        const hex = (name: HashName) => open(name, low).of(bytes).toString(16);
        expect(hex("xxh3").padStart(16, "0")).toBe(other(XXHash3));
        expect(hex("xxh128").padStart(32, "0")).toBe(other(XXHash128));
        const key = (high << 64n) | low;
        const short = bytes.subarray(0, 200);
        expect(open("siphash13", key).of(short)).toBe(sipHash(1, 3, key, short));
        const before = Number(low & 0xffff_ffffn);
        expect(open("crc32c", BigInt(before)).of(bytes)).toBe(BigInt(crc32c(bytes, before)));
      }),
    );
  });

  test.each(names)("%s of slices, and of parts in a row, is that of the bytes they are", (name) => {
    fc.assert(
      fc.property(
        anyBytes,
        fc.array(fc.nat()),
        fc.bigInt({ min: 0n, max: 1n << 128n }),
        (bytes, cuts, key) => {
          const starts = Uint32Array.from([
            0,
            ...cuts.map((cut) => cut % (bytes.length + 1)),
            bytes.length,
          ]).sort();
          const hash = open(name, key);
          const words = name === "xxh128" ? 2 : 1;
          const into = new BigUint64Array((starts.length - 1) * words);
          hash.slices(bytes, starts, into);
          const stream = hash.stream();
          for (let i = 0; i + 1 < starts.length; i++) {
            const part = bytes.subarray(starts[i], starts[i + 1]);
            const [low = 0n, high = 0n] = into.subarray(i * words, (i + 1) * words);
            expect((high << 64n) | low).toBe(hash.of(part));
            stream.update(part);
            expect(stream.digest()).toBe(hash.of(bytes.subarray(0, starts[i + 1])));
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  test("slices that go back, or past the end, or find no room are refused", () => {
    const hash = open("xxh128");
    const bytes = new Uint8Array(10);
    for (const starts of [
      [0, 5, 4],
      [0, 11],
      [11, 11],
      [4_294_967_295, 1],
    ]) {
      expect(() => hash.slices(bytes, Uint32Array.from(starts), new BigUint64Array(8))).toThrow(RangeError);
    }
    expect(() => hash.slices(bytes, Uint32Array.of(0, 5, 10), new BigUint64Array(3))).toThrow(RangeError);
    hash.slices(bytes, Uint32Array.of(3), new BigUint64Array(0));
    hash.slices(bytes, new Uint32Array(0), new BigUint64Array(0));
  });

  test("bytes are refused that are none, and a stage that could be taken away or is too small", () => {
    for (const none of ["abc", new Uint16Array(4), undefined])
      expect(() => Reflect.apply(open("xxh3").of, open("xxh3"), [none])).toThrow(TypeError);
    const { native } = state.ok ? state : expect.fail("no addon");
    const shared = new SharedArrayBuffer(300);
    for (const stage of [new Uint8Array(272), new Uint8Array(shared, 0, 271), new Uint8Array(shared, 4, 272)])
      expect(() => Reflect.apply(native.openHash, native, [0, new BigUint64Array(2), stage])).toThrow(
        TypeError,
      );
  });

  test("bytes of a detached buffer and of a shared one are read safely", () => {
    const detached = new Uint8Array([1, 2, 3]);
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    const hash = open("xxh3");
    expect(hash.of(detached)).toBe(0x2d06800538d394c2n);
    expect(hash.of(new Uint8Array(new SharedArrayBuffer(9)))).toBe(hash.of(new Uint8Array(9)));
    expect(() => hash.slices(detached, Uint32Array.of(0, 1), new BigUint64Array(1))).toThrow(RangeError);
  });

  test("the check of dictionaries finds what is there twice by the addon's hash as by the one in JavaScript", () => {
    const hash = keyedSliceHash();
    for (const text of ["n7", "n8"]) {
      const parts = { devices: ["a", "n7", "b"], metrics: ["m", "m"], units: ["", "K"], texts: ["n7", text] };
      const index = indexDictionaries(rawBlock(parts).buffer);
      for (const check of [() => checkDictionaries(index, hash), () => checkDictionaries(index)]) {
        if (text === "n7") expect(check).toThrow("texts has a duplicate entry");
        else expect(check).not.toThrow();
      }
    }
  });
});
