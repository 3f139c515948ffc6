// The addon as one environment (the main thread or a worker) sees it: its own probes, closed when it ends.
#ifndef WEIR_BINDING_MODULE_H_
#define WEIR_BINDING_MODULE_H_

#include <napi.h>

#include <map>
#include <memory>
#include <string>

#include "probe.h"
#ifdef WEIR_BENCH
#include "flood.h"
#endif

namespace weir {

// Functions check their arguments as far as memory safety asks; src/addon checks them for people. An instance
// and everything it owns is touched by its environment's thread alone. Node destroys it when the environment
// ends.
class Module : public Napi::Addon<Module> {
 public:
  Module(Napi::Env env, Napi::Object exports);
  ~Module();

 private:
  Napi::Value LoadProbe(const Napi::CallbackInfo& info);
  Napi::Value CloseProbe(const Napi::CallbackInfo& info);
  Napi::Value ReadCounters(const Napi::CallbackInfo& info);
  Napi::Value Drain(const Napi::CallbackInfo& info);
  Napi::Value ProbeCost(const Napi::CallbackInfo& info);
  Napi::Value CountRuns(const Napi::CallbackInfo& info);
  Napi::Value ProbeMemory(const Napi::CallbackInfo& info);
  Napi::Value Crc32c(const Napi::CallbackInfo& info);
  Napi::Value BootTimeOffsetUs(const Napi::CallbackInfo& info);
  Napi::Value ReadConnections(const Napi::CallbackInfo& info);
  Napi::Value AskConnections(const Napi::CallbackInfo& info);
  Napi::Value Listeners(const Napi::CallbackInfo& info);
  Napi::Value DropCapabilities(const Napi::CallbackInfo& info);
  Napi::Value NotifyService(const Napi::CallbackInfo& info);
  void TrimMemory(const Napi::CallbackInfo& info);
  void CollectGarbage(const Napi::CallbackInfo& info);

  // The probe that argument 0 names, or null with a JavaScript exception pending.
  Probe* LoadedProbe(const Napi::CallbackInfo& info);

  std::map<std::string, std::unique_ptr<Probe>> probes_;
  // While open, the kernel counts runs of programs.
  int counting_runs_ = -1;

#ifdef WEIR_BENCH
  Napi::Value StartFlood(const Napi::CallbackInfo& info);
  Napi::Value StopFlood(const Napi::CallbackInfo& info);
  Napi::Value DrainInC(const Napi::CallbackInfo& info);
  // After probes_, so that the producer's thread ends before its ring.
  std::unique_ptr<Flood> flood_;
#endif
};

}  // namespace weir

#endif  // WEIR_BINDING_MODULE_H_
