// Weir's hashes behind one face: of one run of bytes, of many slices in a call, of parts that come one by
// one. Nothing here allocates, throws or knows Node.
#ifndef WEIR_HASH_HASH_H_
#define WEIR_HASH_HASH_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace weir {

// The numbers are those of src/addon/hash.ts.
enum class HashKind : uint32_t { kXxh3 = 0, kXxh128 = 1, kSipHash13 = 2, kCrc32c = 3 };
inline constexpr uint32_t kHashKinds = 4;

// XXH3 and XXH128: `low` is the seed. CRC-32C: `low` is the checksum of what came before. SipHash: the key.
struct HashKey {
  uint64_t low = 0;
  uint64_t high = 0;
};

// Only XXH128 has a high part. Numbers, not bytes: the same on every machine.
struct Digest {
  uint64_t low = 0;
  uint64_t high = 0;
};

// Words of uint64_t that a digest takes.
constexpr size_t DigestWords(HashKind kind) { return kind == HashKind::kXxh128 ? 2 : 1; }

Digest Hash(HashKind kind, HashKey key, std::span<const uint8_t> bytes);

// Hashes the slices [starts[i], starts[i + 1]) of `bytes`, for each i but the last, into `out`, DigestWords
// each. False, with `out` partly written, when a start goes back or past the end, or `out` is too short. Each
// start is read once, so that one which changes meanwhile (memory that threads share) leads nowhere else.
bool HashSlices(HashKind kind, HashKey key, std::span<const uint8_t> bytes, std::span<const uint32_t> starts,
                std::span<uint64_t> out);

// The same digest from parts in order.
class HashStream {
 public:
  HashStream(HashKind kind, HashKey key);
  void Update(std::span<const uint8_t> bytes);
  // Of everything so far; more may follow.
  weir::Digest Digest() const;

 private:
  // XXH3's state is 576 bytes, aligned to 64.
  static constexpr size_t kStateBytes = 640;
  template <typename T>
  T* State() {
    return reinterpret_cast<T*>(state_);
  }
  template <typename T>
  const T* State() const {
    return reinterpret_cast<const T*>(state_);
  }

  HashKind kind_;
  alignas(64) unsigned char state_[kStateBytes];
};

}  // namespace weir

#endif  // WEIR_HASH_HASH_H_
