// Prints digests of many lengths by an addon, as JSON: node digests.cjs <weir.node>. Runs under emulation as well.
const addon = require(process.argv[2]);

const bytes = Uint8Array.from({ length: 20_000 }, (_, i) => (i * 2_654_435_761) >>> 24);
const key = BigUint64Array.of(0x0706050403020100n, 0x0f0e0d0c0b0a0908n);
const lengths = [...Array(300).keys(), 1023, 1024, 1025, 4096, 19_999];
const digests = {};
for (let kind = 0; kind < 4; kind++) {
  const memory = new SharedArrayBuffer(272);
  const { of, slices, staged } = addon.openHash(kind, key, new Uint8Array(memory));
  const stream = new addon.HashStream(kind, key);
  const into = new BigUint64Array(2 * lengths.length);
  slices(bytes, Uint32Array.from(lengths), into);
  digests[kind] = lengths.map((length) => of(bytes.subarray(1, length + 1)).toString(16));
  digests[`staged ${kind}`] = lengths.map((length) => {
    new Uint32Array(memory, 8, 1)[0] = length; // cut to the 256 that there is room for
    new Uint8Array(memory, 16).set(bytes.subarray(1, Math.min(length, 256) + 1));
    staged();
    return String(new BigUint64Array(memory, 0, 1)[0]);
  });
  for (const length of lengths) stream.update(bytes.subarray(0, length));
  digests[`slices ${kind}`] = Array.from(into, String);
  digests[`stream ${kind}`] = stream.digest().toString(16);
}
process.stdout.write(JSON.stringify({ arch: process.arch, crc32c: addon.crc32cImplementation, digests }));
