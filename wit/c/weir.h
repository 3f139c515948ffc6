// Canonical-ABI glue for Weir plugins in C, by hand and freestanding: no libc, no binding generator.
//
//   clang --target=wasm32 -O3 -ffreestanding -mbulk-memory -c plugin.c
//   wasm-ld --no-entry -o core.wasm plugin.o
//
// then jco's `componentEmbed` and `componentNew` with a world of weir.wit: scripts/build-plugins.mjs does
// all.
//
// The records of weir.wit lie in memory exactly as the structs below (the component model's canonical ABI for
// a 32-bit memory: a list or string is {pointer, length}, a result is {u8 tag, payload}), so a frame costs no
// conversion: the host writes it into our memory, and reads the result from it. The asserts pin the layout.
//
// Memory. Everything that the host hands over, and everything from weir_alloc, lives in one arena that
// WEIR_POST_RETURN empties after each call: nothing of it may be kept. What must outlive a call belongs in
// static storage (lost with the instance) or in weir_state_set (kept).
#ifndef WEIR_H_
#define WEIR_H_

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  const char *at;  // UTF-8, not terminated
  uint32_t len;
} weir_string;

typedef struct {
  weir_string *at;
  uint32_t len;
} weir_strings;

typedef struct {
  uint8_t *at;
  uint32_t len;
} weir_u8s;

typedef struct {
  weir_u8s *at;
  uint32_t len;
} weir_blobs;

typedef struct {
  uint32_t *at;
  uint32_t len;
} weir_u32s;

typedef struct {
  double *at;
  uint32_t len;
} weir_f64s;

enum { WEIR_NUMBER, WEIR_INTEGER, WEIR_BOOLEAN, WEIR_TEXT, WEIR_BYTES, WEIR_NULL };
enum { WEIR_STATUS_QUALITY = 3, WEIR_STATUS_GATEWAY_TIME = 16 };

typedef struct {
  weir_strings devices, metrics, units, texts;
  weir_blobs blobs;
  weir_u32s device, metric;
  weir_f64s time;
  weir_u8s kind, status;
  weir_f64s value;
} weir_frame;

typedef struct {
  weir_strings devices, channels, topics;
  weir_u32s device, channel, topic;
  weir_f64s time;
  weir_u32s end;
  weir_u8s payload;
} weir_messages;

typedef struct {
  uint32_t index;
  weir_string reason;
} weir_rejection;

typedef struct {
  weir_frame frame;
  struct {
    weir_rejection *at;
    uint32_t len;
  } rejected;
} weir_decoded;

typedef struct {
  uint8_t is_err;
  union {
    weir_frame ok;
    weir_string err;
  };
} weir_frame_result;

typedef struct {
  uint8_t is_err;
  union {
    weir_decoded ok;
    weir_string err;
  };
} weir_decoded_result;

typedef struct {
  uint8_t is_err;
  weir_string err;
} weir_unit_result;

_Static_assert(sizeof(void *) == 4, "a 32-bit memory");
_Static_assert(sizeof(weir_frame) == 88 && sizeof(weir_messages) == 72 && sizeof(weir_decoded) == 96,
               "records");
_Static_assert(sizeof(weir_frame_result) == 92 && offsetof(weir_frame_result, ok) == 4,
               "result<frame, string>");
_Static_assert(sizeof(weir_decoded_result) == 100 && sizeof(weir_unit_result) == 12, "results");

// A literal as a weir_string.
#define WEIR_STRING(literal) ((weir_string){(literal), sizeof(literal) - 1})

static inline bool weir_same(weir_string a, weir_string b) {
  if (a.len != b.len) return false;
  for (uint32_t i = 0; i < a.len; i++) {
    if (a.at[i] != b.at[i]) return false;
  }
  return true;
}

// ---- exports ----
// Records of more than 16 flat values arrive behind a pointer; results of more than one leave behind one.

#define WEIR_EXPORT(name) __attribute__((export_name(name)))
#define WEIR_CONFIGURE                                 \
  WEIR_EXPORT("weir:plugin/lifecycle@0.1.0#configure") \
  weir_unit_result *weir_configure(const char *config_json, uint32_t len)
#define WEIR_TRANSFORM                                 \
  WEIR_EXPORT("weir:plugin/transform@0.1.0#transform") \
  weir_frame_result *weir_transform(weir_frame *batch)
#define WEIR_DECODE                               \
  WEIR_EXPORT("weir:plugin/decoder@0.1.0#decode") \
  weir_decoded_result *weir_decode(weir_messages *batch)
#define WEIR_TICK                             \
  WEIR_EXPORT("weir:plugin/timer@0.1.0#tick") \
  weir_frame_result *weir_tick(double now)

// Empties the arena once the host has read a call's result: state one for each export.
#define WEIR_POST_RETURN(interface, function)                          \
  WEIR_EXPORT("cabi_post_weir:plugin/" #interface "@0.1.0#" #function) \
  void weir_post_##function(void *result) {                            \
    (void)result;                                                      \
    weir_top = (uintptr_t)&__heap_base;                                \
  }

// ---- the arena ----

extern unsigned char __heap_base;
static uintptr_t weir_top = (uintptr_t)&__heap_base;

// Traps when the memory's limit is reached: the host counts that as a failure of the plugin, and starts it
// afresh.
static void *weir_alloc(size_t size, size_t align) {
  uintptr_t start = (weir_top + align - 1) & ~(uintptr_t)(align - 1);
  if (size > UINTPTR_MAX - start) __builtin_trap();
  uintptr_t end = start + size;
  uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) << 16;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + 0xffff) >> 16) == SIZE_MAX) __builtin_trap();
  weir_top = end;
  return (void *)start;
}

// How the host allocates in our memory. The last block grows and shrinks in place (strings are encoded that
// way).
WEIR_EXPORT("cabi_realloc") void *weir_realloc(void *old, size_t old_size, size_t align, size_t size) {
  if (old != NULL && (uintptr_t)old + old_size == weir_top) {
    weir_top = (uintptr_t)old;
    return weir_alloc(size, align);
  }
  void *fresh = weir_alloc(size, align);
  if (old != NULL) __builtin_memcpy(fresh, old, old_size < size ? old_size : size);
  return fresh;
}

// ---- imports ----

#define WEIR_IMPORT(interface, function) \
  __attribute__((import_module("weir:plugin/" interface "@0.1.0"), import_name(function)))

enum { WEIR_DEBUG, WEIR_INFO, WEIR_WARN, WEIR_ERROR };
enum { WEIR_NOT_GRANTED, WEIR_LIMIT, WEIR_INVALID };

// {is_err, denied}
typedef struct {
  uint8_t is_err, denied;
} weir_denied_result;

typedef struct {
  uint8_t is_err;
  union {
    uint8_t denied;
    struct {
      uint8_t is_some;
      weir_u8s bytes;
    } ok;
  };
} weir_get_result;
_Static_assert(sizeof(weir_get_result) == 16, "result<option<list<u8>>, denied>");

WEIR_IMPORT("log", "write") void weir_import_log(uint32_t level, const char *text, uint32_t len);
WEIR_IMPORT("state", "get")
void weir_import_get(const char *scope, uint32_t scope_len, const char *key, uint32_t key_len,
                     weir_get_result *out);
WEIR_IMPORT("state", "set")
void weir_import_set(const char *scope, uint32_t scope_len, const char *key, uint32_t key_len,
                     const void *bytes, uint32_t len, weir_denied_result *out);
WEIR_IMPORT("state", "delete")
void weir_import_delete(const char *scope, uint32_t scope_len, const char *key, uint32_t key_len,
                        weir_denied_result *out);
WEIR_IMPORT("effects", "publish")
void weir_import_publish(const char *topic, uint32_t topic_len, const void *bytes, uint32_t len, uint32_t qos,
                         uint32_t retain, weir_denied_result *out);
WEIR_IMPORT("effects", "alarm")
void weir_import_alarm(const char *device, uint32_t device_len, const char *code, uint32_t code_len,
                       uint32_t active, uint32_t severity, const char *message, uint32_t message_len,
                       weir_denied_result *out);

static inline void weir_log(uint32_t level, weir_string text) { weir_import_log(level, text.at, text.len); }

static inline weir_get_result weir_state_get(weir_string scope, weir_string key) {
  weir_get_result out;
  weir_import_get(scope.at, scope.len, key.at, key.len, &out);
  return out;
}

static inline weir_denied_result weir_state_set(weir_string scope, weir_string key, const void *bytes,
                                                uint32_t len) {
  weir_denied_result out;
  weir_import_set(scope.at, scope.len, key.at, key.len, bytes, len, &out);
  return out;
}

static inline weir_denied_result weir_state_delete(weir_string scope, weir_string key) {
  weir_denied_result out;
  weir_import_delete(scope.at, scope.len, key.at, key.len, &out);
  return out;
}

static inline weir_denied_result weir_publish(weir_string topic, const void *bytes, uint32_t len,
                                              uint32_t qos, bool retain) {
  weir_denied_result out;
  weir_import_publish(topic.at, topic.len, bytes, len, qos, retain, &out);
  return out;
}

// severity: 0 info, 1 warning, 2 critical
static inline weir_denied_result weir_alarm(weir_string device, weir_string code, bool active,
                                            uint32_t severity, weir_string message) {
  weir_denied_result out;
  weir_import_alarm(device.at, device.len, code.at, code.len, active, severity, message.at, message.len,
                    &out);
  return out;
}

// ---- results ----

static inline weir_unit_result *weir_configured(void) {
  static weir_unit_result result;
  result.is_err = 0;
  return &result;
}

static inline weir_unit_result *weir_misconfigured(weir_string why) {
  static weir_unit_result result;
  result.is_err = 1;
  result.err = why;
  return &result;
}

static inline weir_frame_result *weir_frame_ok(const weir_frame *frame) {
  static weir_frame_result result;
  result.is_err = 0;
  result.ok = *frame;
  return &result;
}

static inline weir_frame_result *weir_frame_err(weir_string why) {
  static weir_frame_result result;
  result.is_err = 1;
  result.err = why;
  return &result;
}

#endif  // WEIR_H_
