#include "module.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <span>

#include "../bpf/connections.h"
#include "../hash/crc32c.h"
#include "../memory/trim.h"
#include "../net/connections.h"
#include "../net/listeners.h"
#include "../service/capabilities.h"
#include "../service/notify.h"
#include "hash.h"
#include "process_rows.h"
#include "sampler.h"

namespace weir {
namespace {

Napi::Value Throw(const Napi::CallbackInfo &info, const char *message) {
  Napi::TypeError::New(info.Env(), message).ThrowAsJavaScriptException();
  return info.Env().Undefined();
}

bool IsTypedArray(const Napi::Value &value, napi_typedarray_type type) {
  return value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == type;
}

double ClockUs(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

// A table of connections over the caller's bytes, whole rows only.
std::span<weir_connection> Rows(Napi::Uint8Array into) {
  return {reinterpret_cast<weir_connection *>(into.Data()), into.ElementLength() / sizeof(weir_connection)};
}

// [kept, seen], or [a negative errno, 0].
Napi::Value TableResult(Napi::Env env, int64_t kept, size_t seen) {
  Napi::Array result = Napi::Array::New(env, 2);
  result[0u] = Napi::Number::New(env, static_cast<double>(kept));
  result[1u] = Napi::Number::New(env, static_cast<double>(seen));
  return result;
}

bool IsTable(const Napi::Value &value) {
  return IsTypedArray(value, napi_uint8_array) &&
         reinterpret_cast<uintptr_t>(value.As<Napi::Uint8Array>().Data()) % alignof(weir_connection) == 0;
}

}  // namespace

Module::Module(Napi::Env env, Napi::Object exports) {
  DefineAddon(exports,
              {
                  InstanceMethod("loadProbe", &Module::LoadProbe),
                  InstanceMethod("closeProbe", &Module::CloseProbe),
                  InstanceMethod("readCounters", &Module::ReadCounters),
                  InstanceMethod("drain", &Module::Drain),
                  InstanceMethod("probeMemory", &Module::ProbeMemory),
                  InstanceMethod("probeCost", &Module::ProbeCost),
                  InstanceMethod("countRuns", &Module::CountRuns),
                  InstanceMethod("crc32c", &Module::Crc32c),
                  InstanceMethod("bootTimeOffsetUs", &Module::BootTimeOffsetUs),
                  InstanceMethod("notifyService", &Module::NotifyService),
                  InstanceMethod("trimMemory", &Module::TrimMemory),
                  InstanceMethod("collectGarbage", &Module::CollectGarbage),
                  InstanceMethod("readConnections", &Module::ReadConnections),
                  InstanceMethod("askConnections", &Module::AskConnections),
                  InstanceMethod("listeners", &Module::Listeners),
                  InstanceMethod("dropCapabilities", &Module::DropCapabilities),
                  InstanceValue("openHash", Napi::Function::New<OpenHash>(env, "openHash")),
                  InstanceValue("Sampler", SamplerObject::Define(env)),
                  InstanceValue("ProcessRows", ProcessRowsObject::Define(env)),
                  InstanceValue("demangle", Napi::Function::New<Demangle>(env, "demangle")),
                  InstanceValue("HashStream", HashStreamObject::Define(env)),
                  InstanceValue("crc32cImplementation", Napi::String::New(env, Crc32cImplementation())),
#ifdef WEIR_BENCH
                  InstanceMethod("startFlood", &Module::StartFlood),
                  InstanceMethod("stopFlood", &Module::StopFlood),
                  InstanceMethod("drainInC", &Module::DrainInC),
#endif
              });
}

// loadProbe(name: string, ringBytes: number): null | { errno: number, step: string, log: string, raw: boolean
// }
Napi::Value Module::LoadProbe(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsString() || !info[1].IsNumber()) return Throw(info, "loadProbe(name, ringBytes)");
  std::string name = info[0].As<Napi::String>();
  const weir_probe_kind *kind = FindProbeKind(name);
  if (!kind) return Throw(info, "loadProbe: no probe of that name");
  if (probes_.contains(name)) return Throw(info, "loadProbe: already loaded");

  weir_failure failure = {};
  std::unique_ptr<Probe> probe = Probe::Open(kind, info[1].As<Napi::Number>().Uint32Value(), &failure);
  const bool raw = probe && probe->raw().raw;
  if (probe) probes_.emplace(std::move(name), std::move(probe));
  if (failure.error == 0) return env.Null();
  Napi::Object result = Napi::Object::New(env);
  result["errno"] = Napi::Number::New(env, failure.error);
  result["step"] = Napi::String::New(env, failure.step);
  result["log"] = Napi::String::New(env, failure.log);
  result["raw"] = Napi::Boolean::New(env, raw);
  return result;
}

// closeProbe(name: string): boolean, false when it wasn't loaded
Napi::Value Module::CloseProbe(const Napi::CallbackInfo &info) {
  if (!info[0].IsString()) return Throw(info, "closeProbe(name)");
  const std::string name = info[0].As<Napi::String>();
  return Napi::Boolean::New(info.Env(), probes_.erase(name) > 0);
}

Probe *Module::LoadedProbe(const Napi::CallbackInfo &info) {
  if (info[0].IsString()) {
    const std::string name = info[0].As<Napi::String>();
    if (const auto found = probes_.find(name); found != probes_.end()) return found->second.get();
  }
  Throw(info, "the probe is not loaded");
  return nullptr;
}

// readCounters(name: string, into: BigUint64Array): number of words written, in the order of
// bpf/layout.h
Napi::Value Module::ReadCounters(const Napi::CallbackInfo &info) {
  Probe *probe = LoadedProbe(info);
  if (!probe) return info.Env().Undefined();
  if (!IsTypedArray(info[1], napi_biguint64_array))
    return Throw(info, "readCounters: into is no BigUint64Array");
  auto into = info[1].As<Napi::BigUint64Array>();
  if (into.ElementLength() < probe->words()) return Throw(info, "readCounters: into is too short");
  probe->ReadCounters({into.Data(), into.ElementLength()});
  return Napi::Number::New(info.Env(), static_cast<double>(probe->words()));
}

// probeMemory(name: string): number of bytes that the kernel charges for its maps and programs
Napi::Value Module::ProbeMemory(const Napi::CallbackInfo &info) {
  Probe *probe = LoadedProbe(info);
  if (!probe) return info.Env().Undefined();
  return Napi::Number::New(info.Env(), static_cast<double>(probe->raw().memory_bytes));
}

// probeCost(name: string): [nanoseconds, runs] of its programs while runs were counted
Napi::Value Module::ProbeCost(const Napi::CallbackInfo &info) {
  Probe *probe = LoadedProbe(info);
  if (!probe) return info.Env().Undefined();
  uint64_t run_ns = 0;
  uint64_t runs = 0;
  weir_probe_cost(&probe->raw(), &run_ns, &runs);
  Napi::Array result = Napi::Array::New(info.Env(), 2);
  result[0u] = Napi::Number::New(info.Env(), static_cast<double>(run_ns));
  result[1u] = Napi::Number::New(info.Env(), static_cast<double>(runs));
  return result;
}

// countRuns(on: boolean): 0, or an errno; the kernel counts until called with false or the environment ends
Napi::Value Module::CountRuns(const Napi::CallbackInfo &info) {
  if (counting_runs_ >= 0) close(counting_runs_);
  counting_runs_ = info[0].ToBoolean() ? weir_count_runs() : -1;
  return Napi::Number::New(info.Env(), info[0].ToBoolean() && counting_runs_ < 0 ? -counting_runs_ : 0);
}

Module::~Module() {
  if (counting_runs_ >= 0) close(counting_runs_);
}

// drain(name: string, into: Uint8Array): number of 64-byte records copied
Napi::Value Module::Drain(const Napi::CallbackInfo &info) {
  Probe *probe = LoadedProbe(info);
  if (!probe) return info.Env().Undefined();
  if (!probe->has_ring()) return Throw(info, "drain: the probe has no ring");
  if (!IsTypedArray(info[1], napi_uint8_array)) return Throw(info, "drain: into is no Uint8Array");
  auto into = info[1].As<Napi::Uint8Array>();
  return Napi::Number::New(info.Env(),
                           static_cast<double>(probe->Drain({into.Data(), into.ElementLength()})));
}

// crc32c(bytes: Uint8Array, seed: number): number
Napi::Value Module::Crc32c(const Napi::CallbackInfo &info) {
  if (!IsTypedArray(info[0], napi_uint8_array) || !info[1].IsNumber())
    return Throw(info, "crc32c(bytes, seed)");
  auto bytes = info[0].As<Napi::Uint8Array>();
  const uint32_t seed = info[1].As<Napi::Number>().Uint32Value();
  return Napi::Number::New(info.Env(), weir::Crc32c({bytes.Data(), bytes.ElementLength()}, seed));
}

// notifyService(address: string, message: string): number; 0, or an errno
Napi::Value Module::NotifyService(const Napi::CallbackInfo &info) {
  if (!info[0].IsString() || !info[1].IsString()) return Throw(info, "notifyService(address, message)");
  const std::string address = info[0].As<Napi::String>();
  const std::string message = info[1].As<Napi::String>();
  return Napi::Number::New(info.Env(), weir::NotifyService(address, message));
}

// trimMemory(): void
void Module::TrimMemory(const Napi::CallbackInfo & /*info*/) { weir_trim_memory(); }

// collectGarbage(): void
void Module::CollectGarbage(const Napi::CallbackInfo &info) {
  // Told that there is more outside of its heap than may ever be, V8 collects at once, compacts, and gives
  // pages back.
  constexpr int64_t kMuch = int64_t{4} << 30;
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), kMuch);
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -kMuch);
}

// dropCapabilities(numbers: Uint32Array of capabilities): threads that still hold one, or a negative errno
Napi::Value Module::DropCapabilities(const Napi::CallbackInfo &info) {
  if (!IsTypedArray(info[0], napi_uint32_array)) return Throw(info, "dropCapabilities(numbers)");
  auto numbers = info[0].As<Napi::Uint32Array>();
  uint64_t mask = 0;
  for (size_t i = 0; i < numbers.ElementLength(); ++i)
    if (numbers[i] < 64) mask |= uint64_t{1} << numbers[i];
  return Napi::Number::New(info.Env(), weir::DropCapabilities(mask));
}

// readConnections(name: string, into: Uint8Array): [kept, seen] or [-errno, 0]; through the iterator of a
// loaded probe
Napi::Value Module::ReadConnections(const Napi::CallbackInfo &info) {
  Probe *probe = LoadedProbe(info);
  if (!probe) return info.Env().Undefined();
  if (probe->raw().kind->load != weir_load_connections)
    return Throw(info, "readConnections: the probe is no table");
  if (!IsTable(info[1])) return Throw(info, "readConnections: into is no aligned Uint8Array");
  const std::span<weir_connection> rows = Rows(info[1].As<Napi::Uint8Array>());
  size_t seen = 0;
  const int64_t kept = weir_read_connections(&probe->raw(), rows.data(), rows.size(), &seen);
  return TableResult(info.Env(), kept, seen);
}

// askConnections(into: Uint8Array): [kept, seen] or [-errno, 0]; through sock_diag
Napi::Value Module::AskConnections(const Napi::CallbackInfo &info) {
  if (!IsTable(info[0])) return Throw(info, "askConnections: into is no aligned Uint8Array");
  ConnectionTable table = {Rows(info[0].As<Napi::Uint8Array>())};
  const int error = weir::AskConnections(&table);
  if (error != 0) return TableResult(info.Env(), -error, 0);
  return TableResult(info.Env(), static_cast<int64_t>(std::min(table.seen, table.rows.size())), table.seen);
}

// listeners(): number[]; port, queued, limit, drops of each TCP socket that listens, or one negative errno
Napi::Value Module::Listeners(const Napi::CallbackInfo &info) {
  std::vector<Listener> found;
  Napi::Array result = Napi::Array::New(info.Env());
  uint32_t at = 0;
  const int error = AskListeners(&found);
  if (error != 0) {
    result[at] = Napi::Number::New(info.Env(), -error);
    return result;
  }
  for (const Listener &listener : found)
    for (const uint32_t number : {listener.port, listener.queued, listener.limit, listener.drops})
      result[at++] = Napi::Number::New(info.Env(), number);
  return result;
}

// bootTimeOffsetUs(): number; an event's time_ns / 1000 plus this is microseconds since the Unix
// epoch
Napi::Value Module::BootTimeOffsetUs(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), ClockUs(CLOCK_REALTIME) - ClockUs(CLOCK_BOOTTIME));
}

}  // namespace weir
