#include "crc32c.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace weir {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as the CRC's bytes in order");

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected

using Table = std::array<std::array<uint32_t, 256>, 8>;

// kTable[k][b]: the CRC of byte b followed by k zero bytes (Kounavis and Berry, slicing-by-8).
constexpr Table MakeTable() {
  Table table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kPolynomial : 0);
    table[0][byte] = crc;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = table[k - 1][byte];
      table[k][byte] = (before >> 8) ^ table[0][before & 0xff];
    }
  }
  return table;
}

constexpr Table kTable = MakeTable();

uint64_t LoadWord(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t Crc32cHardware(std::span<const uint8_t> bytes, uint32_t seed) {
  const uint8_t* at = bytes.data();
  size_t left = bytes.size();
  uint64_t crc = ~seed;
  for (; left >= 8; at += 8, left -= 8) crc = _mm_crc32_u64(crc, LoadWord(at));
  auto tail = static_cast<uint32_t>(crc);
  for (; left > 0; ++at, --left) tail = _mm_crc32_u8(tail, *at);
  return ~tail;
}

bool HasHardware() noexcept { return __builtin_cpu_supports("sse4.2"); }
constexpr const char* kHardwareName = "sse4.2";
#elif defined(__aarch64__)
__attribute__((target("+crc"))) uint32_t Crc32cHardware(std::span<const uint8_t> bytes, uint32_t seed) {
  const uint8_t* at = bytes.data();
  size_t left = bytes.size();
  uint32_t crc = ~seed;
  for (; left >= 8; at += 8, left -= 8) crc = __crc32cd(crc, LoadWord(at));
  for (; left > 0; ++at, --left) crc = __crc32cb(crc, *at);
  return ~crc;
}

bool HasHardware() noexcept { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
constexpr const char* kHardwareName = "armv8";
#else
uint32_t Crc32cHardware(std::span<const uint8_t> bytes, uint32_t seed) { return Crc32cTable(bytes, seed); }
bool HasHardware() noexcept { return false; }
constexpr const char* kHardwareName = "table";
#endif

const bool kHardware = HasHardware();

}  // namespace

uint32_t Crc32cTable(std::span<const uint8_t> bytes, uint32_t seed) {
  const uint8_t* at = bytes.data();
  size_t left = bytes.size();
  uint32_t crc = ~seed;
  for (; left >= 8; at += 8, left -= 8) {
    const uint64_t word = LoadWord(at) ^ crc;
    crc = kTable[7][word & 0xff] ^ kTable[6][(word >> 8) & 0xff] ^ kTable[5][(word >> 16) & 0xff] ^
          kTable[4][(word >> 24) & 0xff] ^ kTable[3][(word >> 32) & 0xff] ^ kTable[2][(word >> 40) & 0xff] ^
          kTable[1][(word >> 48) & 0xff] ^ kTable[0][word >> 56];
  }
  for (; left > 0; ++at, --left) crc = (crc >> 8) ^ kTable[0][(crc ^ *at) & 0xff];
  return ~crc;
}

uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t seed) {
  return kHardware ? Crc32cHardware(bytes, seed) : Crc32cTable(bytes, seed);
}

const char* Crc32cImplementation() { return kHardware ? kHardwareName : "table"; }

}  // namespace weir
