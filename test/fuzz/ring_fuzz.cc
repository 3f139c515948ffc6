// Any bytes as a ring: the reader stays inside the ring and the output, and always gets on.
//
//   byte 0      size of the ring: 64 << (byte % 5)
//   byte 1      room for records in the output, and some bytes more
//   4 bytes     what lies between the consumer and the producer
//   4 bytes     the consumer's position, near the end of its range when the top bit is set
//   the rest    the ring's bytes, again and again
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../native/ring/ring.h"

namespace {

void Check(bool held) {
  if (!held) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kHead = 10;
  if (size < kHead) return 0;
  const size_t ring_bytes = size_t{64} << (data[0] % 5);
  const size_t room = data[1] % 16;
  const size_t out_bytes = room * weir::kRecordStride + data[1] / 16;
  uint32_t ahead;
  uint32_t position;
  std::memcpy(&ahead, data + 2, 4);
  std::memcpy(&position, data + 6, 4);
  data += kHead;
  size -= kHead;

  // Mapped twice in a row. Headers are read as words, so the memory is aligned as pages are.
  std::vector<uint64_t> words(2 * ring_bytes / 8);
  auto* const bytes = reinterpret_cast<uint8_t*>(words.data());
  for (size_t i = 0; size > 0 && i < ring_bytes; ++i) bytes[i] = data[i % size];
  std::memcpy(bytes + ring_bytes, bytes, ring_bytes);

  uint64_t consumer = uint64_t{position} & ~uint64_t{7};
  if (position >> 31) consumer |= uint64_t{0xffffffff} << 32;
  const uint64_t producer = consumer + (ahead & ~uint32_t{7});
  const weir::Ring ring = {{bytes, 2 * ring_bytes}, &producer, &consumer};
  std::vector<uint8_t> out(out_bytes);

  for (int call = 0; call < 4; ++call) {
    const uint64_t before = consumer;
    const weir::Drained drained = weir::DrainRing(ring, out);
    Check(drained.records <= room);
    Check(consumer - before <= producer - before);
    Check(consumer % 8 == 0);
    Check(drained.records == 0 || consumer - before >= drained.records * weir::kRecordStride);
  }
  return 0;
}
