// Deadband: report by exception.
//
// A number passes when it differs from the last one that passed, of the same device and metric, by more than
// the band, or when `maxAge` has gone by since. Other kinds pass on change, and so does any row whose kind or
// quality changed.
//
// What it remembers is a cache in static storage: after a restart every series reports once. It is bounded:
// when names or series find no place, their rows pass, and all is forgotten once the call is done, so that
// series which went away for ever can't fill it up. A series is found by its names themselves, never by their
// hash alone: a device can't silence another.
#include "config.h"

enum {
  MAX_NAMES = 1 << 14,
  NAME_SLOTS = 2 * MAX_NAMES,
  NAME_BYTES = 1 << 20,
  SERIES_SLOTS = 1 << 17,
  MAX_SERIES = SERIES_SLOTS / 4 * 3,
  MAX_PROBES = 64,
};
static const uint32_t NONE = UINT32_MAX;

typedef struct {
  uint32_t count, used;
  uint32_t slots[NAME_SLOTS];  // id + 1, 0 free
  struct {
    uint32_t hash, at, len;
  } names[MAX_NAMES];
  char bytes[NAME_BYTES];
} dictionary;

typedef struct {
  uint32_t device;  // id + 1, 0 free
  uint32_t metric;
  uint32_t shape;  // kind and quality
  double time;
  union {
    double number;
    uint64_t content;
  } last;
} series;

static configuration config;
static dictionary devices, metrics;
static band bands[MAX_NAMES];  // of each metric
static series table[SERIES_SLOTS];
static uint32_t series_count;
static bool full;

static uint64_t hash(const void *at, uint32_t len) {  // FNV-1a
  const uint8_t *bytes = at;
  uint64_t h = 0xcbf29ce484222325;
  for (uint32_t i = 0; i < len; i++) h = (h ^ bytes[i]) * 0x100000001b3;
  return h;
}

static void forget_all(void) {
  devices.count = devices.used = metrics.count = metrics.used = series_count = 0;
  __builtin_memset(devices.slots, 0, sizeof devices.slots);
  __builtin_memset(metrics.slots, 0, sizeof metrics.slots);
  __builtin_memset(table, 0, sizeof table);
  full = false;
}

// The name's id, NONE when there is no room for it.
static uint32_t intern(dictionary *d, weir_string name) {
  uint64_t wide = hash(name.at, name.len);
  uint32_t h = (uint32_t)(wide ^ wide >> 32);
  for (uint32_t probe = 0; probe < MAX_PROBES; probe++) {
    uint32_t *slot = &d->slots[(h + probe) % NAME_SLOTS];
    if (*slot == 0) {
      if (d->count == MAX_NAMES || name.len > NAME_BYTES - d->used) break;
      uint32_t id = d->count++;
      d->names[id].hash = h;
      d->names[id].at = d->used;
      d->names[id].len = name.len;
      __builtin_memcpy(d->bytes + d->used, name.at, name.len);
      d->used += name.len;
      *slot = id + 1;
      if (d == &metrics) bands[id] = band_of(&config, name);
      return id;
    }
    uint32_t id = *slot - 1;
    if (d->names[id].hash == h &&
        weir_same((weir_string){d->bytes + d->names[id].at, d->names[id].len}, name))
      return id;
  }
  full = true;
  return NONE;
}

static uint32_t *intern_all(dictionary *d, weir_strings names) {
  uint32_t *ids = weir_alloc(names.len * sizeof *ids, alignof(uint32_t));
  for (uint32_t i = 0; i < names.len; i++) ids[i] = intern(d, names.at[i]);
  return ids;
}

// The slot of a series, or a free one (device 0); NULL when there is no room.
static series *find(uint32_t device, uint32_t metric) {
  uint32_t start = (device * 0x9e3779b1u) ^ (metric * 0x85ebca77u);
  start ^= start >> 15;
  for (uint32_t probe = 0; probe < MAX_PROBES; probe++) {
    series *s = &table[(start + probe) % SERIES_SLOTS];
    if (s->device == device + 1 && s->metric == metric) return s;
    if (s->device == 0) {
      if (series_count == MAX_SERIES) break;
      return s;
    }
  }
  full = true;
  return NULL;
}

static double distance(double a, double b) { return __builtin_fabs(a - b); }

WEIR_CONFIGURE {
  weir_string wrong = read_configuration((weir_string){config_json, len}, &config);
  return wrong.len == 0 ? weir_configured() : weir_misconfigured(wrong);
}

WEIR_TRANSFORM {
  uint32_t *device_ids = intern_all(&devices, batch->devices),
           *metric_ids = intern_all(&metrics, batch->metrics);
  uint64_t *texts = weir_alloc(batch->texts.len * sizeof *texts, alignof(uint64_t));
  for (uint32_t i = 0; i < batch->texts.len; i++)
    texts[i] = hash(batch->texts.at[i].at, batch->texts.at[i].len);
  uint64_t *blobs = weir_alloc(batch->blobs.len * sizeof *blobs, alignof(uint64_t));
  for (uint32_t i = 0; i < batch->blobs.len; i++)
    blobs[i] = hash(batch->blobs.at[i].at, batch->blobs.at[i].len);

  uint32_t *device = batch->device.at, *metric = batch->metric.at;
  double *time = batch->time.at, *value = batch->value.at;
  uint8_t *kind = batch->kind.at, *status = batch->status.at;
  uint32_t rows = batch->device.len, kept = 0;
  for (uint32_t i = 0; i < rows; i++) {
    uint32_t d = device_ids[device[i]], m = metric_ids[metric[i]];
    series *s = d == NONE || m == NONE ? NULL : find(d, m);
    if (s != NULL) {
      bool is_number = kind[i] <= WEIR_INTEGER;
      uint32_t shape = kind[i] | (uint32_t)(status[i] & WEIR_STATUS_QUALITY) << 8;
      uint64_t content = 0;
      if (kind[i] == WEIR_TEXT) {
        content = texts[(uint32_t)value[i]];
      } else if (kind[i] == WEIR_BYTES) {
        content = blobs[(uint32_t)value[i]];
      } else if (kind[i] == WEIR_BOOLEAN) {
        content = value[i] != 0;
      }
      // A clock set back must not silence a device: age counts in both directions.
      if (s->device != 0 && s->shape == shape && distance(time[i], s->time) < config.max_age_us) {
        double limit =
            bands[m].percent ? __builtin_fabs(s->last.number) * bands[m].size / 100 : bands[m].size;
        if (is_number ? distance(value[i], s->last.number) <= limit : s->last.content == content) continue;
      }
      if (s->device == 0) series_count++;
      *s = (series){.device = d + 1, .metric = m, .shape = shape, .time = time[i]};
      if (is_number) {
        s->last.number = value[i];
      } else {
        s->last.content = content;
      }
    }
    device[kept] = device[i];
    metric[kept] = metric[i];
    time[kept] = time[i];
    kind[kept] = kind[i];
    status[kept] = status[i];
    value[kept] = value[i];
    kept++;
  }
  if (full) {
    weir_log(WEIR_WARN, WEIR_STRING("no room for more series: all are forgotten, each reports once again"));
    forget_all();
  }
  if (kept == 0) return weir_frame_ok(&(weir_frame){0});
  batch->device.len = batch->metric.len = batch->time.len = kept;
  batch->kind.len = batch->status.len = batch->value.len = kept;
  return weir_frame_ok(batch);
}

WEIR_POST_RETURN(lifecycle, configure)
WEIR_POST_RETURN(transform, transform)
