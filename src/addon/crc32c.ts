/**
 * CRC-32C (Castagnoli; RFC 3720, appendix B.4) in JavaScript, for a machine on which the addon could not be built.
 * One table, a byte at a time: correct, and some ten times slower than the addon.
 */

/** The polynomial 0x1EDC6F41, reflected. */
const POLYNOMIAL = 0x82f63b78;

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ ((crc & 1) === 0 ? 0 : POLYNOMIAL);
  return crc;
});

/** Checksum of `bytes` after those whose checksum is `seed` (0 at the start), as an unsigned 32-bit number. */
export function crc32cTable(bytes: Uint8Array, seed = 0): number {
  let crc = ~seed;
  for (const byte of bytes) crc = (crc >>> 8) ^ (table[(crc ^ byte) & 0xff] ?? 0);
  return ~crc >>> 0;
}
