// Rows of process events (native/ring/process_rows.h) as JavaScript asks for them.
#ifndef WEIR_BINDING_PROCESS_ROWS_H_
#define WEIR_BINDING_PROCESS_ROWS_H_

#include <napi.h>

#include "../ring/process_rows.h"

namespace weir {

// new ProcessRows(memory: Uint8Array), which is a ProcessMemory in a SharedArrayBuffer.
class ProcessRowsObject : public Napi::ObjectWrap<ProcessRowsObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit ProcessRowsObject(const Napi::CallbackInfo& info);

 private:
  void Survey(const Napi::CallbackInfo& info);
  Napi::Value Write(const Napi::CallbackInfo& info);

  ProcessRows rows_;
  ProcessMemory* memory_ = nullptr;
  // Keeps the memory.
  Napi::Reference<Napi::Value> owner_;
};

}  // namespace weir

#endif  // WEIR_BINDING_PROCESS_ROWS_H_
