#include "sampler.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "../ring/size.h"

namespace weir {
namespace {

// PERF_FORMAT_LOST of Linux 6.0, which older headers lack.
constexpr uint64_t kFormatLost = 1u << 4;

}  // namespace

std::unique_ptr<Sampler> Sampler::Open(const SamplerOptions& options, uint32_t cpu_count, int* error) {
  std::unique_ptr<Sampler> sampler(new Sampler());
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  sampler->mapped_ = page + weir_ring_bytes(options.ring_bytes, page, size_t{1} << 28);
  *error = 0;
  if (options.pid >= 0) {
    *error = sampler->Add(options, -1);
  } else {
    for (uint32_t cpu = 0; cpu < cpu_count && *error == 0; ++cpu) {
      *error = sampler->Add(options, static_cast<int>(cpu));
      if (*error == ENODEV) *error = 0;  // an offline CPU
    }
  }
  if (*error == 0 && sampler->events_.empty()) *error = ENODEV;
  return *error == 0 ? std::move(sampler) : nullptr;
}

int Sampler::Add(const SamplerOptions& options, int cpu) {
  perf_event_attr attr = {};
  attr.size = sizeof(attr);
  attr.type = PERF_TYPE_SOFTWARE;
  attr.config = options.event;
  attr.freq = options.by_period ? 0 : 1;
  attr.sample_freq = options.rate;
  attr.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_CALLCHAIN;
  attr.read_format = says_lost_ ? kFormatLost : 0;
  attr.comm = 1;
  attr.comm_exec = 1;
  // Without wake-ups: the reader comes by itself.
  attr.watermark = 1;
  attr.wakeup_watermark = UINT32_MAX;
  Event event;
  const auto open = [&] {
    return static_cast<int>(syscall(__NR_perf_event_open, &attr, options.pid, cpu, -1, PERF_FLAG_FD_CLOEXEC));
  };
  event.fd = open();
  if (event.fd < 0 && errno == EINVAL && says_lost_) {
    says_lost_ = false;
    attr.read_format = 0;
    event.fd = open();
  }
  if (event.fd < 0) return errno;
  event.mapping = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_SHARED, event.fd, 0);
  if (event.mapping == MAP_FAILED) {
    const int error = errno;
    close(event.fd);
    return error;
  }
  auto* page = static_cast<perf_event_mmap_page*>(event.mapping);
  const auto* bytes = static_cast<const uint8_t*>(event.mapping);
  event.ring = {{bytes + page->data_offset, static_cast<size_t>(page->data_size)},
                reinterpret_cast<const uint64_t*>(&page->data_head),
                reinterpret_cast<uint64_t*>(&page->data_tail)};
  events_.push_back(event);
  return 0;
}

Sampler::~Sampler() {
  for (const Event& event : events_) {
    munmap(event.mapping, mapped_);
    close(event.fd);
  }
}

size_t Sampler::Drain(std::span<uint8_t> out) {
  size_t bytes = 0;
  for (size_t i = 0; i < events_.size(); ++i) {
    // Less room than this could hold up a ring for ever: it comes first the next time.
    if (out.size() - bytes < kPerfLargestRecord) {
      next_ = (next_ + i) % events_.size();
      break;
    }
    const PerfDrained drained = DrainPerfRing(events_[(next_ + i) % events_.size()].ring, out.subspan(bytes));
    bytes += drained.bytes;
    drained_ += drained.samples;
    lost_in_records_ += drained.lost;
    malformed_ += drained.malformed;
  }
  return bytes;
}

SamplerCounts Sampler::Counts() const {
  SamplerCounts counts;
  uint64_t said = 0;
  for (const Event& event : events_) {
    uint64_t value[2] = {};
    const size_t wanted = says_lost_ ? sizeof(value) : sizeof(value[0]);
    if (read(event.fd, value, wanted) != static_cast<ssize_t>(wanted)) continue;
    counts.produced += value[0];
    said += value[1];
  }
  counts.drained = drained_;
  counts.lost = (says_lost_ ? said : lost_in_records_) + malformed_;
  return counts;
}

}  // namespace weir
