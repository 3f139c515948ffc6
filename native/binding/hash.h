// The hashes as JavaScript calls them (src/addon/hash.ts). Keys are BigUint64Array(2), low word first.
#ifndef WEIR_BINDING_HASH_H_
#define WEIR_BINDING_HASH_H_

#include <napi.h>

#include "../hash/hash.h"

namespace weir {

// openHash(kind: number, key: BigUint64Array): {
//   of(bytes: Uint8Array): bigint
//   slices(bytes: Uint8Array, starts: Uint32Array, into: BigUint64Array): boolean
// }
Napi::Value OpenHash(const Napi::CallbackInfo& info);

// new HashStream(kind: number, key: BigUint64Array), update(bytes: Uint8Array), digest(): bigint
class HashStreamObject : public Napi::ObjectWrap<HashStreamObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit HashStreamObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value Update(const Napi::CallbackInfo& info);
  Napi::Value Digest(const Napi::CallbackInfo& info);

  HashKind kind_ = HashKind::kXxh3;
  HashStream stream_{HashKind::kXxh3, {}};
};

}  // namespace weir

#endif  // WEIR_BINDING_HASH_H_
