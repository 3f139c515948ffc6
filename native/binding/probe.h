// A loaded kernel probe as a C++ object: owns its programs, maps and mappings, and its place in the ring.
#ifndef WEIR_BINDING_PROBE_H_
#define WEIR_BINDING_PROBE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "../bpf/probes.h"
#include "../ring/ring.h"

namespace weir {

const weir_probe_kind* FindProbeKind(std::string_view name);

class Probe {
 public:
  // Null on failure, with `failure` filled. `ring_bytes` is rounded up to a power of two of pages.
  static std::unique_ptr<Probe> Open(const weir_probe_kind* kind, uint32_t ring_bytes, weir_failure* failure);
  ~Probe();
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  // Words that ReadCounters fills.
  size_t words() const { return weir_probe_words(probe_.kind); }
  bool has_ring() const { return probe_.kind->has_ring; }
  Ring ring() const;
  const weir_probe& raw() const { return probe_; }

  // Totals over all CPUs, in the order of bpf/layout.h. Records that Drain had to give up count as lost.
  void ReadCounters(std::span<uint64_t> into) const;
  size_t Drain(std::span<uint8_t> into);

 private:
  Probe() = default;
  weir_probe probe_ = {};
  uint64_t malformed_ = 0;
};

}  // namespace weir

#endif  // WEIR_BINDING_PROBE_H_
