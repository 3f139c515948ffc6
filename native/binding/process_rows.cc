#include "process_rows.h"

#include "shared.h"

namespace weir {

Napi::Function ProcessRowsObject::Define(Napi::Env env) {
  return DefineClass(env, "ProcessRows",
                     {
                         InstanceMethod<&ProcessRowsObject::Survey>("survey"),
                         InstanceMethod<&ProcessRowsObject::Write>("write"),
                     });
}

ProcessRowsObject::ProcessRowsObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<ProcessRowsObject>(info), memory_(SharedAs<ProcessMemory>(info.Env(), info[0])) {
  if (memory_) {
    owner_ = Napi::Persistent(info[0]);
  } else {
    Napi::TypeError::New(info.Env(), "new ProcessRows(memory)").ThrowAsJavaScriptException();
  }
}

// survey(): void
void ProcessRowsObject::Survey(const Napi::CallbackInfo&) { rows_.Survey(*memory_); }

// write(block: ArrayBuffer): boolean, false when the columns don't fit at its end
Napi::Value ProcessRowsObject::Write(const Napi::CallbackInfo& info) {
  void* data = nullptr;
  size_t bytes = 0;
  const bool written = napi_get_arraybuffer_info(info.Env(), info[0], &data, &bytes) == napi_ok &&
                       rows_.Write(*memory_, {static_cast<uint8_t*>(data), bytes});
  return Napi::Boolean::New(info.Env(), written);
}

}  // namespace weir
