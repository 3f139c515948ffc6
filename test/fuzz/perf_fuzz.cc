// Any bytes as a ring of perf_event_open(2): the reader stays inside the ring and the output, and always gets
// on.
//
//   byte 0      size of the ring: 64 << (byte % 5)
//   byte 1      bytes of the output: 8 * byte
//   4 bytes     what lies between the tail and the head
//   4 bytes     the tail, near the end of its range when the top bit is set
//   the rest    the ring's bytes, again and again
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../native/perf/perf_ring.h"

namespace {

void Check(bool held) {
  if (!held) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kHead = 10;
  if (size < kHead) return 0;
  const size_t ring_bytes = size_t{64} << (data[0] % 5);
  std::vector<uint8_t> out(size_t{8} * data[1]);
  uint32_t ahead;
  uint32_t position;
  std::memcpy(&ahead, data + 2, 4);
  std::memcpy(&position, data + 6, 4);
  data += kHead;
  size -= kHead;

  std::vector<uint64_t> words(ring_bytes / 8);
  auto* const bytes = reinterpret_cast<uint8_t*>(words.data());
  for (size_t i = 0; size > 0 && i < ring_bytes; ++i) bytes[i] = data[i % size];

  uint64_t tail = uint64_t{position} & ~uint64_t{7};
  if (position >> 31) tail |= uint64_t{0xffffffff} << 32;
  const uint64_t head = tail + (ahead & ~uint32_t{7});
  const weir::PerfRing ring = {{bytes, ring_bytes}, &head, &tail};

  for (int call = 0; call < 4; ++call) {
    const uint64_t before = tail;
    const weir::PerfDrained drained = weir::DrainPerfRing(ring, out);
    Check(drained.bytes <= out.size());
    Check(tail - before <= head - before);
    Check(drained.samples * weir::kPerfHeaderBytes <= drained.bytes);
    // What was written is whole records, as long as they say.
    for (size_t at = 0; at < drained.bytes;) {
      uint16_t length;
      Check(drained.bytes - at >= weir::kPerfHeaderBytes);
      std::memcpy(&length, out.data() + at + 6, sizeof(length));
      Check(length >= weir::kPerfHeaderBytes && length <= drained.bytes - at);
      at += length;
    }
  }
  return 0;
}
