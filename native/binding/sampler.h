// The sampler of native/perf as JavaScript sees it.
#ifndef WEIR_BINDING_SAMPLER_H_
#define WEIR_BINDING_SAMPLER_H_

#include <napi.h>

#include <memory>

#include "../perf/sampler.h"

namespace weir {

// new Sampler(event: number, rate: number, byPeriod: boolean, pid: number, ringBytes: number). What failed is
// in `errno`. Belongs to the thread that made it; closed by `close()`, or with the object.
class SamplerObject : public Napi::ObjectWrap<SamplerObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit SamplerObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value Errno(const Napi::CallbackInfo& info);
  Napi::Value Drain(const Napi::CallbackInfo& info);
  Napi::Value Counts(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  std::unique_ptr<Sampler> sampler_;
  int error_ = 0;
};

// demangle(name: string): string; what is no mangled name of C++ comes back as it is
Napi::Value Demangle(const Napi::CallbackInfo& info);

}  // namespace weir

#endif  // WEIR_BINDING_SAMPLER_H_
