// Memory that JavaScript and the addon share.
#ifndef WEIR_BINDING_SHARED_H_
#define WEIR_BINDING_SHARED_H_

#include <napi.h>

#include <cstdint>
#include <optional>
#include <span>

namespace weir {

// The elements of a typed array of that type; nothing for any other value. One call into Node, without
// handles for what isn't needed: a hash of 16 bytes takes 2 ns, a call 20.
template <typename T>
std::optional<std::span<T>> Elements(napi_env env, napi_value value, napi_typedarray_type expected) {
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok ||
      type != expected) {
    return std::nullopt;
  }
  return std::span<T>(static_cast<T*>(data), length);
}

// A Uint8Array as a T, or null when it isn't one of just that size. Only of a SharedArrayBuffer: memory of
// any other could be taken away from under us. A reference to `array` keeps it.
template <typename T>
T* SharedAs(napi_env env, napi_value array) {
  const auto bytes = Elements<uint8_t>(env, array, napi_uint8_array);
  napi_value buffer = nullptr;
  bool detachable = true;
  if (!bytes || bytes->size() != sizeof(T) || reinterpret_cast<uintptr_t>(bytes->data()) % alignof(T) != 0 ||
      napi_get_typedarray_info(env, array, nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok ||
      napi_is_arraybuffer(env, buffer, &detachable) != napi_ok || detachable) {
    return nullptr;
  }
  return reinterpret_cast<T*>(bytes->data());
}

}  // namespace weir

#endif  // WEIR_BINDING_SHARED_H_
