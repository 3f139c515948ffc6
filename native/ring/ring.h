// Reads a BPF ring buffer (kernel/bpf/ringbuf.c) of records that all have one size.
//
// Memory: `data` is a power of two of bytes, mapped twice in a row, so a record that crosses the end reads
// on. A record is an 8-byte header, u32 length with two flag bits and u32 page offset, then the sample, then
// padding to 8 bytes. Positions are byte counts since the ring was made and only grow. The kernel owns the
// producer position and the data; the one reader owns the consumer position.
//
// Pure: no system calls, no N-API, works on any memory of that shape.
#ifndef WEIR_RING_RING_H_
#define WEIR_RING_RING_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace weir {

inline constexpr uint32_t kRingBusy = 1u << 31;
inline constexpr uint32_t kRingDiscarded = 1u << 30;
inline constexpr size_t kRingHeaderBytes = 8;
inline constexpr size_t kRecordStride = 64;
inline constexpr uint32_t kSampleBytes = kRecordStride - kRingHeaderBytes;

struct Ring {
  // Both mappings: twice the ring's size.
  std::span<const uint8_t> data;
  const uint64_t* producer = nullptr;
  uint64_t* consumer = nullptr;
};

struct Drained {
  // Records written to `out`, each of kRecordStride bytes, header first.
  size_t records = 0;
  // Committed records of another size: skipped, and an event lost to the caller.
  size_t malformed = 0;
};

// Copies committed records to `out` until the first that is still being written, the producer position seen
// at the start, or the end of `out`, and stores the consumer position once. Never looks at more than one lap
// of the ring. A length that runs past the producer position means that the positions no longer mark records:
// everything up to the producer is given up as one malformed record, since no boundary can be found again.
Drained DrainRing(const Ring& ring, std::span<uint8_t> out);

}  // namespace weir

#endif  // WEIR_RING_RING_H_
