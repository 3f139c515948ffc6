#include "flood.h"

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "../bpf/layout.h"
#include "module.h"

namespace weir {
namespace {

uint64_t ClockNs(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

void SleepNs(uint64_t ns) {
  const timespec time = {static_cast<time_t>(ns / 1'000'000'000),
                         static_cast<decltype(timespec::tv_nsec)>(ns % 1'000'000'000)};
  nanosleep(&time, nullptr);
}

void RunFlood(int program_fd, uint32_t records) {
  bpf_attr attr = {};
  attr.test.prog_fd = static_cast<uint32_t>(program_fd);
  attr.test.ctx_in = reinterpret_cast<uintptr_t>(&records);
  attr.test.ctx_size_in = sizeof(records);
  syscall(__NR_bpf, BPF_PROG_RUN, &attr, sizeof(attr.test));
}

}  // namespace

Flood::Flood(const Probe& probe, uint32_t per_second) {
  const int program_fd = probe.raw().program_fds[0];
  thread_ = std::thread([this, program_fd, per_second] {
    const uint64_t start = ClockNs(CLOCK_MONOTONIC);
    const uint64_t most = uint64_t{per_second} / 100;
    uint64_t done = 0;
    while (!stop_.load(std::memory_order_relaxed)) {
      const uint64_t due = (ClockNs(CLOCK_MONOTONIC) - start) / 1000 * per_second / 1'000'000;
      // What it missed while it had no CPU is not made up for: that would come at three times the rate.
      if (due > done + most) done = due - most;
      for (; done < due; done += 1024) RunFlood(program_fd, 1024);
      SleepNs(500'000);
    }
  });
}

Flood::~Flood() {
  stop_.store(true, std::memory_order_relaxed);
  thread_.join();
}

ReaderResult ReadInC(const Probe& probe, uint32_t milliseconds, uint32_t interval_us) {
  const Ring ring = probe.ring();
  const uint64_t mask = ring.data.size() / 2 - 1;
  const uint64_t until = ClockNs(CLOCK_MONOTONIC) + milliseconds * 1'000'000ull;
  const uint64_t cpu = ClockNs(CLOCK_THREAD_CPUTIME_ID);
  ReaderResult result;
  uint64_t last = 0;
  for (uint64_t now; (now = ClockNs(CLOCK_MONOTONIC)) < until;) {
    if (last) result.longest_ns = std::max(result.longest_ns, now - last);
    last = now;
    uint64_t position = *ring.consumer;
    const uint64_t end = __atomic_load_n(ring.producer, __ATOMIC_ACQUIRE);
    while (position != end) {
      const uint8_t* record = ring.data.data() + (position & mask);
      if (__atomic_load_n(reinterpret_cast<const uint32_t*>(record), __ATOMIC_ACQUIRE) & kRingBusy) break;
      result.sum += reinterpret_cast<const weir_event*>(record + kRingHeaderBytes)->pid;
      ++result.records;
      position += kRecordStride;
    }
    __atomic_store_n(ring.consumer, position, __ATOMIC_RELEASE);
    SleepNs(interval_us * 1000ull);
  }
  result.cpu_ns = ClockNs(CLOCK_THREAD_CPUTIME_ID) - cpu;
  return result;
}

// startFlood(name: string, perSecond: number)
Napi::Value Module::StartFlood(const Napi::CallbackInfo& info) {
  if (Probe* probe = LoadedProbe(info)) {
    flood_ = std::make_unique<Flood>(*probe, info[1].As<Napi::Number>().Uint32Value());
  }
  return info.Env().Undefined();
}

Napi::Value Module::StopFlood(const Napi::CallbackInfo& info) {
  flood_.reset();
  return info.Env().Undefined();
}

// drainInC(name: string, milliseconds: number, intervalUs: number): { records, sum, longestNs, cpuNs }
Napi::Value Module::DrainInC(const Napi::CallbackInfo& info) {
  Probe* probe = LoadedProbe(info);
  if (!probe) return info.Env().Undefined();
  const ReaderResult result =
      ReadInC(*probe, info[1].As<Napi::Number>().Uint32Value(), info[2].As<Napi::Number>().Uint32Value());
  Napi::Object object = Napi::Object::New(info.Env());
  object["records"] = Napi::Number::New(info.Env(), static_cast<double>(result.records));
  object["sum"] = Napi::Number::New(info.Env(), static_cast<double>(result.sum));
  object["longestNs"] = Napi::Number::New(info.Env(), static_cast<double>(result.longest_ns));
  object["cpuNs"] = Napi::Number::New(info.Env(), static_cast<double>(result.cpu_ns));
  return object;
}

}  // namespace weir
