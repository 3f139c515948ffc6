// For bench/ring alone (WEIR_BENCH): a thread that fills the ring of the probe `flood` at a steady rate, and
// a reader in C++ to compare with.
#ifndef WEIR_BINDING_FLOOD_H_
#define WEIR_BINDING_FLOOD_H_

#include <atomic>
#include <cstdint>
#include <thread>

#include "probe.h"

namespace weir {

class Flood {
 public:
  // Has the BPF program put `per_second` records into the ring, in a slice every 0.5 ms, until destroyed; at
  // most 2 ms of them at once, so less than asked for where it gets no CPU.
  Flood(const Probe& probe, uint32_t per_second);
  ~Flood();

 private:
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

struct ReaderResult {
  uint64_t records = 0;
  uint64_t sum = 0;         // of every record's pid: the reader has looked at each
  uint64_t longest_ns = 0;  // from one look at the ring to the next
  uint64_t cpu_ns = 0;
};

// Reads for `milliseconds` on this thread: sleeps `interval_us`, walks the ring in place, stores the position
// once.
ReaderResult ReadInC(const Probe& probe, uint32_t milliseconds, uint32_t interval_us);

}  // namespace weir

#endif  // WEIR_BINDING_FLOOD_H_
