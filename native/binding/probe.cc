#include "probe.h"

#include "../bpf/layout.h"

namespace weir {

static_assert(kRecordStride == WEIR_RECORD_STRIDE && kSampleBytes == sizeof(weir_event));

const weir_probe_kind* FindProbeKind(std::string_view name) {
  for (size_t i = 0; i < weir_probe_kind_count; ++i) {
    if (name == weir_probe_kinds[i].name) return &weir_probe_kinds[i];
  }
  return nullptr;
}

std::unique_ptr<Probe> Probe::Open(const weir_probe_kind* kind, uint32_t ring_bytes, weir_failure* failure) {
  std::unique_ptr<Probe> probe(new Probe());
  if (!weir_probe_open(kind, weir_possible_cpus(), ring_bytes, &probe->probe_, failure)) return nullptr;
  return probe;
}

Probe::~Probe() { weir_probe_close(&probe_); }

Ring Probe::ring() const {
  return {{probe_.ring, 2 * size_t{probe_.ring_bytes}}, probe_.producer, probe_.consumer};
}

void Probe::ReadCounters(std::span<uint64_t> into) const {
  weir_probe_read(&probe_, into.data());
  into[1] += malformed_;
}

size_t Probe::Drain(std::span<uint8_t> into) {
  const Drained drained = DrainRing(ring(), into);
  malformed_ += drained.malformed;
  return drained.records;
}

}  // namespace weir
