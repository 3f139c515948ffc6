#include "sampler.h"

#include <cxxabi.h>

#include <cstdlib>
#include <string>

#include "../bpf/probes.h"

namespace weir {
namespace {

// Longer ones are left alone: the library's demangler goes deep on what it reads.
constexpr size_t kLongestMangled = 1024;

}  // namespace

Napi::Function SamplerObject::Define(Napi::Env env) {
  return DefineClass(env, "Sampler",
                     {
                         InstanceAccessor<&SamplerObject::Errno>("errno"),
                         InstanceMethod<&SamplerObject::Drain>("drain"),
                         InstanceMethod<&SamplerObject::Counts>("counts"),
                         InstanceMethod<&SamplerObject::Close>("close"),
                     });
}

SamplerObject::SamplerObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SamplerObject>(info) {
  if (!info[0].IsNumber() || !info[1].IsNumber() || !info[2].IsBoolean() || !info[3].IsNumber() ||
      !info[4].IsNumber()) {
    Napi::TypeError::New(info.Env(), "new Sampler(event, rate, byPeriod, pid, ringBytes)")
        .ThrowAsJavaScriptException();
    return;
  }
  SamplerOptions options;
  options.event = info[0].As<Napi::Number>().Uint32Value();
  options.rate = info[1].As<Napi::Number>().Uint32Value();
  options.by_period = info[2].As<Napi::Boolean>();
  options.pid = info[3].As<Napi::Number>().Int32Value();
  options.ring_bytes = info[4].As<Napi::Number>().Uint32Value();
  sampler_ = Sampler::Open(options, weir_possible_cpus(), &error_);
}

Napi::Value SamplerObject::Errno(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), error_);
}

// drain(into: Uint8Array): number of bytes of whole records; 0 once closed
Napi::Value SamplerObject::Drain(const Napi::CallbackInfo& info) {
  size_t bytes = 0;
  if (info[0].IsTypedArray() && info[0].As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array) {
    auto into = info[0].As<Napi::Uint8Array>();
    if (sampler_) bytes = sampler_->Drain({into.Data(), into.ElementLength()});
  } else {
    Napi::TypeError::New(info.Env(), "drain: into is no Uint8Array").ThrowAsJavaScriptException();
  }
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

// counts(): [produced, drained, lost]
Napi::Value SamplerObject::Counts(const Napi::CallbackInfo& info) {
  const SamplerCounts counts = sampler_ ? sampler_->Counts() : SamplerCounts{};
  Napi::Array result = Napi::Array::New(info.Env(), 3);
  uint32_t at = 0;
  for (const uint64_t count : {counts.produced, counts.drained, counts.lost})
    result[at++] = Napi::Number::New(info.Env(), static_cast<double>(count));
  return result;
}

void SamplerObject::Close(const Napi::CallbackInfo&) { sampler_.reset(); }

Napi::Value Demangle(const Napi::CallbackInfo& info) {
  const std::string name = info[0].ToString();
  if (name.size() > kLongestMangled || name.rfind("_Z", 0) != 0) return info[0];
  int status = 0;
  char* plain = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  const Napi::Value result = plain ? Napi::String::New(info.Env(), plain) : info[0];
  std::free(plain);
  return result;
}

}  // namespace weir
