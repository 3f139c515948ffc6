// CRC-32C (Castagnoli, RFC 3720 appendix B.4; polynomial 0x1EDC6F41 reflected), the checksum of Weir's
// blocks. Uses the CPU's instruction where there is one (SSE4.2, ARMv8 CRC), else slicing-by-8; decided once,
// at run time.
#ifndef WEIR_HASH_CRC32C_H_
#define WEIR_HASH_CRC32C_H_

#include <cstdint>
#include <span>

namespace weir {

// `seed` is the checksum of what came before, 0 at the start: Crc32c(b, Crc32c(a)) == Crc32c(a then b).
uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t seed = 0);

// What Crc32c uses on this machine: "sse4.2", "armv8" or "table".
const char* Crc32cImplementation();

// The portable way, for machines without the instruction and for tests to compare with.
uint32_t Crc32cTable(std::span<const uint8_t> bytes, uint32_t seed = 0);

}  // namespace weir

#endif  // WEIR_HASH_CRC32C_H_
