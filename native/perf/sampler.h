// Samples of perf_event_open(2): the events, their rings, and their account.
#ifndef WEIR_PERF_SAMPLER_H_
#define WEIR_PERF_SAMPLER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "perf_ring.h"

namespace weir {

struct SamplerOptions {
  // PERF_COUNT_SW_*: the processor's clock, or an event that is counted.
  uint64_t event = 0;
  // Samples a second, or, with by_period, events a sample.
  uint64_t rate = 99;
  bool by_period = false;
  // The thread to look at; -1: every CPU.
  int32_t pid = -1;
  // For each CPU; rounded up to a power of two of whole pages.
  size_t ring_bytes = 0;
};

struct SamplerCounts {
  // What the events counted: with a period of 1, the samples that there should be.
  uint64_t produced = 0;
  uint64_t drained = 0;
  // Samples that had no room, as the kernel counts them, and records that could not be read.
  uint64_t lost = 0;
};

// Owns its descriptors and mappings. A sample is `PERF_SAMPLE_TID | TIME | CALLCHAIN`; names of processes
// that start come as records between them.
class Sampler {
 public:
  // Null on failure, with `error` a positive errno.
  static std::unique_ptr<Sampler> Open(const SamplerOptions& options, uint32_t cpu_count, int* error);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // Copies whole records of all rings to `out`, and returns the bytes.
  size_t Drain(std::span<uint8_t> out);
  SamplerCounts Counts() const;

 private:
  struct Event {
    int fd = -1;
    void* mapping = nullptr;
    PerfRing ring;
  };

  Sampler() = default;
  int Add(const SamplerOptions& options, int cpu);

  std::vector<Event> events_;
  size_t mapped_ = 0;
  // The ring that the next drain begins with, so that a busy one can't starve the others.
  size_t next_ = 0;
  uint64_t drained_ = 0;
  uint64_t lost_in_records_ = 0;
  uint64_t malformed_ = 0;
  // The kernel says for each event how many samples had no room (6.0).
  bool says_lost_ = true;
};

}  // namespace weir

#endif  // WEIR_PERF_SAMPLER_H_
