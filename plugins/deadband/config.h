// Deadband's configuration: {"band": 0.2 | "5%", "maxAge": "5m", "metrics": {"temp_*": 0.5, "vib": "2%"}}.
// A reader for just this JSON; anything else is refused with what was expected.
#ifndef DEADBAND_CONFIG_H_
#define DEADBAND_CONFIG_H_

#include "weir.h"

enum { MAX_PATTERNS = 64, MAX_NAME_BYTES = 256 };

typedef struct {
  double size;
  bool percent;  // of the last passed value
} band;

typedef struct {
  char name[MAX_NAME_BYTES];
  uint32_t len;
  uint32_t star;  // where `*` is, which stands for any characters
  bool has_star;
  band band;
} pattern;

typedef struct {
  band band;
  double max_age_us;
  pattern patterns[MAX_PATTERNS];
  uint32_t pattern_count;
} configuration;

typedef struct {
  const char *at, *end;
} reader;

static void skip_space(reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t')) r->at++;
}

static bool next_is(reader *r, char c) {
  skip_space(r);
  if (r->at == r->end || *r->at != c) return false;
  r->at++;
  return true;
}

static bool read_string(reader *r, weir_string *out) {
  if (!next_is(r, '"')) return false;
  out->at = r->at;
  for (; r->at < r->end && *r->at != '"'; r->at++) {
    if (*r->at == '\\') return false;
  }
  out->len = (uint32_t)(r->at - out->at);
  return next_is(r, '"');
}

static bool is_digit(const reader *r) { return r->at < r->end && *r->at >= '0' && *r->at <= '9'; }

// A number >= 0. Exact while the digits fit 2^53, as those of a band do.
static bool read_number(reader *r, double *out) {
  skip_space(r);
  if (!is_digit(r)) return false;
  double digits = 0;
  int32_t exponent = 0;
  for (; is_digit(r); r->at++) digits = digits * 10 + (*r->at - '0');
  if (r->at < r->end && *r->at == '.') {
    r->at++;
    for (; is_digit(r); r->at++, exponent--) digits = digits * 10 + (*r->at - '0');
  }
  if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
    r->at++;
    bool minus = r->at < r->end && *r->at == '-';
    if (r->at < r->end && (*r->at == '-' || *r->at == '+')) r->at++;
    int32_t value = 0;
    for (; is_digit(r) && value < 400; r->at++) value = value * 10 + (*r->at - '0');
    exponent += minus ? -value : value;
  }
  double power = 1;
  for (int32_t i = exponent < 0 ? -exponent : exponent; i > 0; i--) power *= 10;
  *out = exponent < 0 ? digits / power : digits * power;
  return *out <= 1.7976931348623157e308;
}

static bool read_band(reader *r, band *out) {
  weir_string text;
  reader probe = *r;
  if (!read_string(&probe, &text)) {
    out->percent = false;
    return read_number(r, &out->size);
  }
  *r = probe;
  reader inner = {text.at, text.at + text.len};
  out->percent = true;
  return read_number(&inner, &out->size) && next_is(&inner, '%') && inner.at == inner.end;
}

static bool read_duration(reader *r, double *us) {
  weir_string text;
  if (!read_string(r, &text)) return false;
  reader inner = {text.at, text.at + text.len};
  if (!read_number(&inner, us)) return false;
  if (inner.end - inner.at == 2 && inner.at[0] == 'm' && inner.at[1] == 's') {
    *us *= 1e3;
    return true;
  }
  if (inner.end - inner.at != 1) return false;
  switch (*inner.at) {
    case 's':
      *us *= 1e6;
      return true;
    case 'm':
      *us *= 60e6;
      return true;
    case 'h':
      *us *= 3600e6;
      return true;
    case 'd':
      *us *= 86400e6;
      return true;
    default:
      return false;
  }
}

static bool read_patterns(reader *r, configuration *out) {
  if (!next_is(r, '{')) return false;
  if (next_is(r, '}')) return true;
  do {
    weir_string name;
    if (out->pattern_count == MAX_PATTERNS || !read_string(r, &name) || name.len > MAX_NAME_BYTES)
      return false;
    pattern *p = &out->patterns[out->pattern_count++];
    __builtin_memcpy(p->name, name.at, name.len);
    p->len = name.len;
    for (uint32_t i = 0; i < name.len; i++) {
      if (name.at[i] != '*') continue;
      if (p->has_star) return false;
      p->has_star = true;
      p->star = i;
    }
    if (!next_is(r, ':') || !read_band(r, &p->band)) return false;
  } while (next_is(r, ','));
  return next_is(r, '}');
}

// Fills `out`; on an error says what was expected, else returns an empty string.
static weir_string read_configuration(weir_string json, configuration *out) {
  reader r = {json.at, json.at + json.len};
  *out = (configuration){.max_age_us = 300e6};
  if (!next_is(&r, '{')) return WEIR_STRING("the configuration is an object");
  if (next_is(&r, '}')) return (weir_string){"", 0};
  do {
    weir_string key;
    if (!read_string(&r, &key) || !next_is(&r, ':')) return WEIR_STRING("the configuration is not JSON");
    if (weir_same(key, WEIR_STRING("band"))) {
      if (!read_band(&r, &out->band))
        return WEIR_STRING("band: a number >= 0, or a percentage such as \"5%\"");
    } else if (weir_same(key, WEIR_STRING("maxAge"))) {
      if (!read_duration(&r, &out->max_age_us))
        return WEIR_STRING("maxAge: a duration such as \"5m\" (ms, s, m, h, d)");
    } else if (weir_same(key, WEIR_STRING("metrics"))) {
      if (!read_patterns(&r, out)) {
        return WEIR_STRING("metrics: up to 64 names, each with at most one * and its band");
      }
    } else {
      return WEIR_STRING("known keys: band, maxAge, metrics");
    }
  } while (next_is(&r, ','));
  if (!next_is(&r, '}')) return WEIR_STRING("the configuration is not JSON");
  return (weir_string){"", 0};
}

static bool matches(const pattern *p, weir_string name) {
  if (!p->has_star) return weir_same((weir_string){p->name, p->len}, name);
  uint32_t head = p->star, tail = p->len - p->star - 1;
  return name.len >= head + tail && weir_same((weir_string){p->name, head}, (weir_string){name.at, head}) &&
         weir_same((weir_string){p->name + head + 1, tail}, (weir_string){name.at + name.len - tail, tail});
}

static band band_of(const configuration *c, weir_string metric) {
  for (uint32_t i = 0; i < c->pattern_count; i++) {
    if (matches(&c->patterns[i], metric)) return c->patterns[i].band;
  }
  return c->band;
}

#endif  // DEADBAND_CONFIG_H_
