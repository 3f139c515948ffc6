#include "perf_ring.h"

#include <algorithm>
#include <cstring>

namespace weir {
namespace {

struct Header {
  uint32_t type;
  uint16_t misc;
  uint16_t size;
};
static_assert(sizeof(Header) == kPerfHeaderBytes);

// Bytes from `position` on, over the end of the ring.
void CopyOut(std::span<const uint8_t> data, uint64_t position, void* to, size_t bytes) {
  const size_t at = position & (data.size() - 1);
  const size_t first = std::min(bytes, data.size() - at);
  std::memcpy(to, data.data() + at, first);
  std::memcpy(static_cast<uint8_t*>(to) + first, data.data(), bytes - first);
}

}  // namespace

PerfDrained DrainPerfRing(const PerfRing& ring, std::span<uint8_t> out) {
  PerfDrained drained;
  uint64_t position = *ring.tail;
  const uint64_t start = position;
  // Pairs with the kernel's release of the head: the records up to it are written.
  const uint64_t head = __atomic_load_n(ring.head, __ATOMIC_ACQUIRE);

  if (head - position > ring.data.size()) {
    drained.malformed = 1;
    position = head;
  }
  while (position != head) {
    const uint64_t left = head - position;
    Header header = {};
    if (left >= kPerfHeaderBytes) CopyOut(ring.data, position, &header, sizeof(header));
    if (header.size < kPerfHeaderBytes || header.size % 8 != 0 || header.size > left) {
      ++drained.malformed;
      position = head;
      break;
    }
    // What a record of a loss says: the event's id and then the number, or the number alone.
    const size_t number = header.type == kPerfRecordLost ? 8 : 0;
    if ((header.type == kPerfRecordLost || header.type == kPerfRecordLostSamples) &&
        header.size >= kPerfHeaderBytes + number + 8) {
      uint64_t lost = 0;
      CopyOut(ring.data, position + kPerfHeaderBytes + number, &lost, sizeof(lost));
      drained.lost += lost;
    } else if (header.size > out.size()) {
      ++drained.malformed;
    } else {
      if (header.size > out.size() - drained.bytes) break;
      CopyOut(ring.data, position, out.data() + drained.bytes, header.size);
      drained.bytes += header.size;
      if (header.type == kPerfRecordSample) ++drained.samples;
    }
    position += header.size;
  }
  // One store. The kernel may overwrite what lies before it.
  if (position != start) __atomic_store_n(ring.tail, position, __ATOMIC_RELEASE);
  return drained;
}

}  // namespace weir
