// Any bytes, cut anywhere: slices out of bounds are refused, and one-shot, slices and stream agree.
//
//   byte 0      the hash
//   byte 1      number of starts
//   starts      16 bits each, as they come
//   the rest    the bytes to be hashed
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../native/hash/hash.h"

namespace {

void Check(bool held) {
  if (!held) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto kind = static_cast<weir::HashKind>(data[0] % weir::kHashKinds);
  const weir::HashKey key = {data[0] * 0x9e3779b97f4a7c15u, data[1]};
  const size_t count = data[1] % 32;
  data += 2;
  size -= 2;
  if (size < 2 * count) return 0;
  std::vector<uint32_t> starts(count);
  for (uint32_t& start : starts) {
    uint16_t word;
    std::memcpy(&word, data, 2);
    // Mostly within the bytes, and at times far outside.
    start = word == 0xffff ? 0xffffffff : word;
    data += 2;
    size -= 2;
  }
  // Exactly as long as it says, for the sanitizer.
  const std::vector<uint8_t> bytes(data, data + size);
  const size_t words = weir::DigestWords(kind);
  std::vector<uint64_t> out(count > 1 ? (count - 1) * words : 0);

  bool in_order = true;
  for (size_t i = 0; i < count; ++i) {
    if (starts[i] > size || (i > 0 && starts[i] < starts[i - 1])) in_order = false;
  }
  const bool hashed = weir::HashSlices(kind, key, bytes, starts, out);
  Check(hashed == (in_order || count < 2));
  if (!hashed || count < 2) return 0;
  weir::HashStream stream(kind, key);
  for (size_t i = 0; i + 1 < count; ++i) {
    const std::span<const uint8_t> part = std::span(bytes).subspan(starts[i], starts[i + 1] - starts[i]);
    Check(out[i * words] == weir::Hash(kind, key, part).low);
    stream.Update(part);
  }
  const auto whole = std::span(bytes).subspan(starts.front(), starts.back() - starts.front());
  Check(stream.Digest().low == weir::Hash(kind, key, whole).low);
  Check(stream.Digest().high == weir::Hash(kind, key, whole).high);
  return 0;
}
