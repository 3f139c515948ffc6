#include "hash.h"

#include <new>

#include "crc32c.h"
#include "siphash.h"

// The state's layout is private upstream; here it lives inside a HashStream.
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>
#endif

namespace weir {
namespace {

// One function for each kind, so that a loop over slices has no choice to make.
struct Xxh3 {
  static constexpr size_t kWords = 1;
  static weir::Digest Of(HashKey key, std::span<const uint8_t> bytes) {
    return {XXH3_64bits_withSeed(bytes.data(), bytes.size(), key.low), 0};
  }
};

struct Xxh128 {
  static constexpr size_t kWords = 2;
  static weir::Digest Of(HashKey key, std::span<const uint8_t> bytes) {
    const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), key.low);
    return {hash.low64, hash.high64};
  }
};

struct Sip {
  static constexpr size_t kWords = 1;
  static weir::Digest Of(HashKey key, std::span<const uint8_t> bytes) {
    SipHash13 hash(key.low, key.high);
    hash.Update(bytes);
    return {hash.Digest(), 0};
  }
};

struct Crc {
  static constexpr size_t kWords = 1;
  static weir::Digest Of(HashKey key, std::span<const uint8_t> bytes) {
    return {Crc32c(bytes, static_cast<uint32_t>(key.low)), 0};
  }
};

template <typename Visitor>
auto With(HashKind kind, Visitor visit) {
  switch (kind) {
    case HashKind::kXxh3:
      return visit(Xxh3{});
    case HashKind::kXxh128:
      return visit(Xxh128{});
    case HashKind::kSipHash13:
      return visit(Sip{});
    case HashKind::kCrc32c:
      break;
  }
  return visit(Crc{});
}

}  // namespace

Digest Hash(HashKind kind, HashKey key, std::span<const uint8_t> bytes) {
  return With(kind, [&](auto hash) { return hash.Of(key, bytes); });
}

bool HashSlices(HashKind kind, HashKey key, std::span<const uint8_t> bytes, std::span<const uint32_t> starts,
                std::span<uint64_t> out) {
  if (starts.size() < 2) return true;
  const size_t slices = starts.size() - 1;
  return With(kind, [&]<typename H>(H hash) {
    if (out.size() / H::kWords < slices) return false;
    const volatile uint32_t* const start = starts.data();
    size_t from = start[0];
    if (from > bytes.size()) return false;
    for (size_t i = 0; i < slices; ++i) {
      const size_t to = start[i + 1];
      if (to < from || to > bytes.size()) return false;
      const weir::Digest digest = hash.Of(key, bytes.subspan(from, to - from));
      out[i * H::kWords] = digest.low;
      if constexpr (H::kWords == 2) out[i * 2 + 1] = digest.high;
      from = to;
    }
    return true;
  });
}

HashStream::HashStream(HashKind kind, HashKey key) : kind_(kind) {
  static_assert(sizeof(XXH3_state_t) <= kStateBytes && alignof(XXH3_state_t) <= 64);
  static_assert(sizeof(SipHash13) <= kStateBytes);
  switch (kind) {
    case HashKind::kXxh3:
      XXH3_64bits_reset_withSeed(new (state_) XXH3_state_t, key.low);
      break;
    case HashKind::kXxh128:
      XXH3_128bits_reset_withSeed(new (state_) XXH3_state_t, key.low);
      break;
    case HashKind::kSipHash13:
      new (state_) SipHash13(key.low, key.high);
      break;
    case HashKind::kCrc32c:
      new (state_) uint32_t(static_cast<uint32_t>(key.low));
      break;
  }
}

void HashStream::Update(std::span<const uint8_t> bytes) {
  switch (kind_) {
    case HashKind::kXxh3:
      XXH3_64bits_update(State<XXH3_state_t>(), bytes.data(), bytes.size());
      break;
    case HashKind::kXxh128:
      XXH3_128bits_update(State<XXH3_state_t>(), bytes.data(), bytes.size());
      break;
    case HashKind::kSipHash13:
      State<SipHash13>()->Update(bytes);
      break;
    case HashKind::kCrc32c:
      *State<uint32_t>() = Crc32c(bytes, *State<uint32_t>());
      break;
  }
}

Digest HashStream::Digest() const {
  switch (kind_) {
    case HashKind::kXxh3:
      return {XXH3_64bits_digest(State<XXH3_state_t>()), 0};
    case HashKind::kXxh128: {
      const XXH128_hash_t hash = XXH3_128bits_digest(State<XXH3_state_t>());
      return {hash.low64, hash.high64};
    }
    case HashKind::kSipHash13:
      return {State<SipHash13>()->Digest(), 0};
    case HashKind::kCrc32c:
      break;
  }
  return {*State<uint32_t>(), 0};
}

}  // namespace weir
