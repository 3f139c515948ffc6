#include "hash.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "shared.h"

namespace weir {
namespace {

struct Method {
  HashKind kind;
  HashKey key;
};

std::optional<Method> MethodOf(napi_env env, napi_value kind, napi_value key) {
  uint32_t number = kHashKinds;
  const auto words = Elements<const uint64_t>(env, key, napi_biguint64_array);
  if (napi_get_value_uint32(env, kind, &number) != napi_ok || number >= kHashKinds || !words ||
      words->size() != 2) {
    return std::nullopt;
  }
  return Method{static_cast<HashKind>(number), {(*words)[0], (*words)[1]}};
}

constexpr size_t kStageBytes = 256;

// Memory that is shared with src/addon/hash.ts, which puts short bytes here and finds their digest.
struct Stage {
  uint64_t digest;
  uint32_t length;
  uint32_t unused;
  uint8_t bytes[kStageBytes];
};

struct StagedMethod : Method {
  Stage* stage;
  Napi::Reference<Napi::Value> owner;  // keeps the memory
};

Napi::Value ToBigInt(Napi::Env env, HashKind kind, const Digest& digest) {
  if (DigestWords(kind) == 1) return Napi::BigInt::New(env, digest.low);
  const uint64_t words[] = {digest.low, digest.high};
  return Napi::BigInt::New(env, 0, 2, words);
}

Napi::Value Throw(Napi::Env env, const char* message) {
  Napi::TypeError::New(env, message).ThrowAsJavaScriptException();
  return env.Undefined();
}

// Both functions have their Method as data: Node hands it over with the arguments, where unwrapping an object
// or looking a key up would cost as much as the hash.
napi_value One(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  void* data = nullptr;
  napi_get_cb_info(env, info, &count, &argument, nullptr, &data);
  const auto* method = static_cast<const Method*>(data);
  const auto bytes = Elements<const uint8_t>(env, argument, napi_uint8_array);
  if (!bytes) return Throw(env, "of(bytes)");
  return ToBigInt(env, method->kind, Hash(method->kind, method->key, *bytes));
}

// The same of what lies in the stage. Without an argument and without a value to return, a call into Node
// takes a third of the time.
napi_value Staged(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  const auto* method = static_cast<const StagedMethod*>(data);
  Stage* const stage = method->stage;
  const size_t length = std::min<size_t>(*const_cast<volatile uint32_t*>(&stage->length), kStageBytes);
  stage->digest = Hash(method->kind, method->key, {stage->bytes, length}).low;
  return nullptr;
}

napi_value Many(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value arguments[3];
  void* data = nullptr;
  napi_get_cb_info(env, info, &count, arguments, nullptr, &data);
  const auto* method = static_cast<const Method*>(data);
  const auto bytes = Elements<const uint8_t>(env, arguments[0], napi_uint8_array);
  const auto starts = Elements<const uint32_t>(env, arguments[1], napi_uint32_array);
  const auto into = Elements<uint64_t>(env, arguments[2], napi_biguint64_array);
  if (!bytes || !starts || !into) return Throw(env, "slices(bytes, starts, into)");
  return Napi::Boolean::New(env, HashSlices(method->kind, method->key, *bytes, *starts, *into));
}

template <typename T>
Napi::Function Bind(Napi::Env env, napi_callback call, std::unique_ptr<T> method) {
  napi_value function = nullptr;
  if (napi_create_function(env, nullptr, 0, call, method.get(), &function) != napi_ok) return {};
  Napi::Function bound(env, function);
  bound.AddFinalizer([](Napi::Env, T* ended) { delete ended; }, method.release());
  return bound;
}

}  // namespace

Napi::Value OpenHash(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto method = MethodOf(env, info[0], info[1]);
  Stage* const stage = SharedAs<Stage>(env, info[2]);
  if (!method || !stage) return Throw(env, "openHash(kind, key, stage)");
  Napi::Object hash = Napi::Object::New(env);
  hash["of"] = Bind(env, One, std::make_unique<Method>(*method));
  hash["slices"] = Bind(env, Many, std::make_unique<Method>(*method));
  auto staged = std::make_unique<StagedMethod>();
  static_cast<Method&>(*staged) = *method;
  staged->stage = stage;
  staged->owner = Napi::Persistent(info[2]);
  hash["staged"] = Bind(env, Staged, std::move(staged));
  return hash;
}

Napi::Function HashStreamObject::Define(Napi::Env env) {
  return DefineClass(env, "HashStream",
                     {
                         InstanceMethod("update", &HashStreamObject::Update),
                         InstanceMethod("digest", &HashStreamObject::Digest),
                     });
}

HashStreamObject::HashStreamObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const auto method = MethodOf(info.Env(), info[0], info[1]);
  if (!method) {
    Throw(info.Env(), "new HashStream(kind, key)");
    return;
  }
  kind_ = method->kind;
  stream_ = HashStream(kind_, method->key);
}

Napi::Value HashStreamObject::Update(const Napi::CallbackInfo& info) {
  const auto bytes = Elements<const uint8_t>(info.Env(), info[0], napi_uint8_array);
  if (!bytes) return Throw(info.Env(), "update(bytes)");
  stream_.Update(*bytes);
  return info.Env().Undefined();
}

Napi::Value HashStreamObject::Digest(const Napi::CallbackInfo& info) {
  return ToBigInt(info.Env(), kind_, stream_.Digest());
}

}  // namespace weir
