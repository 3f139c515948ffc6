#include "siphash.h"

#include <bit>
#include <cstring>

namespace weir {
namespace {

static_assert(std::endian::native == std::endian::little,
              "words are read as SipHash's, least significant first");

inline void Round(uint64_t& v0, uint64_t& v1, uint64_t& v2, uint64_t& v3) {
  v0 += v1;
  v1 = std::rotl(v1, 13) ^ v0;
  v0 = std::rotl(v0, 32);
  v2 += v3;
  v3 = std::rotl(v3, 16) ^ v2;
  v0 += v3;
  v3 = std::rotl(v3, 21) ^ v0;
  v2 += v1;
  v1 = std::rotl(v1, 17) ^ v2;
  v2 = std::rotl(v2, 32);
}

}  // namespace

SipHash13::SipHash13(uint64_t key_low, uint64_t key_high)
    : v0_(key_low ^ 0x736f6d6570736575),
      v1_(key_high ^ 0x646f72616e646f6d),
      v2_(key_low ^ 0x6c7967656e657261),
      v3_(key_high ^ 0x7465646279746573) {}

inline void SipHash13::Compress(uint64_t word) {
  v3_ ^= word;
  Round(v0_, v1_, v2_, v3_);
  v0_ ^= word;
}

void SipHash13::Update(std::span<const uint8_t> bytes) {
  const uint8_t* at = bytes.data();
  size_t left = bytes.size();
  size_t held = length_ % 8;
  length_ += left;
  for (; held != 0 && left > 0; ++at, --left) {
    tail_ |= uint64_t{*at} << (8 * held);
    held = (held + 1) % 8;
    if (held == 0) {
      Compress(tail_);
      tail_ = 0;
    }
  }
  for (; left >= 8; at += 8, left -= 8) {
    uint64_t word;
    std::memcpy(&word, at, sizeof(word));
    Compress(word);
  }
  for (size_t i = 0; i < left; ++i) tail_ |= uint64_t{at[i]} << (8 * (held + i));
}

uint64_t SipHash13::Digest() const {
  SipHash13 end = *this;
  end.Compress(tail_ | length_ << 56);
  end.v2_ ^= 0xff;
  for (int i = 0; i < 3; ++i) Round(end.v0_, end.v1_, end.v2_, end.v3_);
  return end.v0_ ^ end.v1_ ^ end.v2_ ^ end.v3_;
}

}  // namespace weir
