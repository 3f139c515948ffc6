#include "ring.h"

#include <cstring>

namespace weir {

Drained DrainRing(const Ring& ring, std::span<uint8_t> out) {
  const uint64_t size = ring.data.size() / 2;
  const uint64_t mask = size - 1;
  uint64_t position = *ring.consumer;
  const uint64_t start = position;
  // Pairs with the kernel's release of the producer position: the headers up to it are written.
  const uint64_t end = __atomic_load_n(ring.producer, __ATOMIC_ACQUIRE);
  Drained drained;
  uint8_t* to = out.data();
  uint8_t* const to_end = to + out.size() / kRecordStride * kRecordStride;

  if (end - position > size) {
    drained.malformed = 1;
    position = end;
  }
  while (position != end && to != to_end) {
    const uint8_t* record = ring.data.data() + (position & mask);
    // Pairs with the kernel's exchange that clears the busy bit: the sample is written.
    const uint32_t header = __atomic_load_n(reinterpret_cast<const uint32_t*>(record), __ATOMIC_ACQUIRE);
    if (header & kRingBusy) break;
    const uint32_t length = header & ~kRingDiscarded;
    if (length == kSampleBytes) [[likely]] {
      if (end - position < kRecordStride) {
        ++drained.malformed;
        position = end;
        break;
      }
      position += kRecordStride;
      if (header & kRingDiscarded) continue;
      std::memcpy(to, record, kRecordStride);
      to += kRecordStride;
      continue;
    }
    const uint64_t whole = (kRingHeaderBytes + uint64_t{length} + 7) & ~uint64_t{7};
    if (whole > end - position) {
      ++drained.malformed;
      position = end;
      break;
    }
    position += whole;
    if (!(header & kRingDiscarded)) ++drained.malformed;
  }
  drained.records = static_cast<size_t>(to - out.data()) / kRecordStride;
  // One store: each would take the cache line from the producers. They may overwrite what lies before it.
  if (position != start) __atomic_store_n(ring.consumer, position, __ATOMIC_RELEASE);
  return drained;
}

}  // namespace weir
