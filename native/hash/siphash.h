// SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012, with one compression and
// three finalisation rounds): for tables whose keys an attacker picks, under a random key that he doesn't
// know.
#ifndef WEIR_HASH_SIPHASH_H_
#define WEIR_HASH_SIPHASH_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace weir {

// Takes bytes in parts of any size; Digest may be asked for at any time and changes nothing.
class SipHash13 {
 public:
  SipHash13(uint64_t key_low, uint64_t key_high);
  void Update(std::span<const uint8_t> bytes);
  uint64_t Digest() const;

 private:
  void Compress(uint64_t word);
  uint64_t v0_, v1_, v2_, v3_;
  // The bytes that don't fill a word yet, from the low end.
  uint64_t tail_ = 0;
  uint64_t length_ = 0;
};

}  // namespace weir

#endif  // WEIR_HASH_SIPHASH_H_
