/** CRC32C in plain JavaScript: for consumers, which have no addon. */

/** Remainders of every byte for the polynomial of Castagnoli, bits reversed (RFC 3720, appendix B.4). */
const TABLE: Uint32Array = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0x82f6_3b78 : rest >>> 1;
  return rest;
});

/** CRC32C of bytes, as an unsigned 32-bit number; about 3 ns a byte. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (let at = 0; at < bytes.length; at++) crc = (crc >>> 8) ^ (TABLE[(crc ^ (bytes[at] ?? 0)) & 255] ?? 0);
  return (crc ^ 0xffff_ffff) >>> 0;
}
