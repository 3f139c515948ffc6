// Reads the memory-mapped ring of perf_event_open(2).
//
// Memory: `data` is a power of two of bytes, mapped once, so a record that crosses the end is in two parts. A
// record is an 8-byte header, u32 type, u16 misc, u16 size (with the header, a multiple of 8), then what the
// type says. Positions are byte counts since the ring was made and only grow. The kernel owns the head and
// the data; the one reader owns the tail. When the ring is full the kernel throws records away, and says how
// many in a record of its own once there is room again.
//
// Pure: no system calls, no N-API, works on any memory of that shape.
#ifndef WEIR_PERF_PERF_RING_H_
#define WEIR_PERF_PERF_RING_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace weir {

inline constexpr size_t kPerfHeaderBytes = 8;
// What a record's size, 16 bits, can say.
inline constexpr size_t kPerfLargestRecord = 65528;
// include/uapi/linux/perf_event.h
inline constexpr uint32_t kPerfRecordLost = 2;
inline constexpr uint32_t kPerfRecordSample = 9;
inline constexpr uint32_t kPerfRecordLostSamples = 13;

struct PerfRing {
  std::span<const uint8_t> data;
  const uint64_t* head = nullptr;
  uint64_t* tail = nullptr;
};

struct PerfDrained {
  // Written to `out`: whole records, one after the other.
  size_t bytes = 0;
  uint64_t samples = 0;
  // Of the records, those that say what was lost are not written, but added up here.
  uint64_t lost = 0;
  // Places where records could not be told apart, or one larger than `out`: what was there is given up.
  uint64_t malformed = 0;
};

// Copies whole records to `out` until the head seen at the start or until the next one doesn't fit, and
// stores the tail once. Never looks at more than one lap of the ring. With room for kPerfLargestRecord it
// always gets on. A size that can't be, or that runs past the head, means that the positions no longer mark
// records: everything up to the head is given up as one malformed record.
PerfDrained DrainPerfRing(const PerfRing& ring, std::span<uint8_t> out);

}  // namespace weir

#endif  // WEIR_PERF_PERF_RING_H_
