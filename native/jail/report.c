// The report: one line of JSON, {"layers":{"<name>":"on"|"off"|"partial: …"|"unavailable:
// …"},"groups":["<cgroup>"]}, or
// {"error":"…"} when the launcher gave up. It is written before Node starts, so nothing jailed can forge it.
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jail.h"

const char *const layer_names[LAYER_COUNT] = {
    "descriptors",  "environment", "oom",          "memory-cgroup", "pids-cgroup", "network", "rlimits",
    "capabilities", "uid",         "no-new-privs", "parent",        "landlock",    "seccomp",
};

enum { STATE_SIZE = 400, MAX_GROUPS = 2, GROUP_SIZE = 1024 };

static char states[LAYER_COUNT][STATE_SIZE];
static char groups[MAX_GROUPS][GROUP_SIZE];
static int group_count;

void layer_on(enum layer layer) { snprintf(states[layer], STATE_SIZE, "on"); }

void layer_off(enum layer layer) { snprintf(states[layer], STATE_SIZE, "off"); }

static void set_state(enum layer layer, const char *word, const char *format, va_list arguments) {
  int used = snprintf(states[layer], STATE_SIZE, "%s: ", word);
  vsnprintf(states[layer] + used, STATE_SIZE - (size_t)used, format, arguments);
}

void layer_partial(enum layer layer, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  set_state(layer, "partial", format, arguments);
  va_end(arguments);
}

void layer_unavailable(enum layer layer, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  set_state(layer, "unavailable", format, arguments);
  va_end(arguments);
}

// Notes a cgroup that whoever started us removes once the process is gone.
void report_group(const char *path) {
  if (group_count < MAX_GROUPS) snprintf(groups[group_count++], GROUP_SIZE, "%s", path);
}

struct buffer {
  char bytes[16384];
  size_t used;
};

static void put(struct buffer *buffer, const char *text) {
  size_t length = strlen(text);
  if (length > sizeof buffer->bytes - buffer->used) length = sizeof buffer->bytes - buffer->used;
  memcpy(buffer->bytes + buffer->used, text, length);
  buffer->used += length;
}

// Bytes that JSON forbids, and those that might not be UTF-8 (paths), become escapes or "?".
static void put_string(struct buffer *buffer, const char *text) {
  put(buffer, "\"");
  for (; *text != '\0'; text++) {
    unsigned char byte = (unsigned char)*text;
    char piece[3] = {(char)byte, '\0', '\0'};
    if (byte == '"' || byte == '\\') {
      piece[0] = '\\';
      piece[1] = (char)byte;
    } else if (byte < 0x20 || byte > 0x7e) {
      piece[0] = '?';
    }
    put(buffer, piece);
  }
  put(buffer, "\"");
}

static void send_all(int fd, const struct buffer *buffer) {
  size_t sent = 0;
  while (sent < buffer->used) {
    ssize_t count = write(fd, buffer->bytes + sent, buffer->used - sent);
    if (count < 0 && errno != EINTR) return;
    if (count > 0) sent += (size_t)count;
  }
}

void report_write(int fd) {
  struct buffer buffer = {.used = 0};
  put(&buffer, "{\"layers\":{");
  for (int layer = 0; layer < LAYER_COUNT; layer++) {
    if (layer > 0) put(&buffer, ",");
    put_string(&buffer, layer_names[layer]);
    put(&buffer, ":");
    put_string(&buffer, states[layer]);
  }
  put(&buffer, "},\"groups\":[");
  for (int group = 0; group < group_count; group++) {
    if (group > 0) put(&buffer, ",");
    put_string(&buffer, groups[group]);
  }
  put(&buffer, "]}\n");
  send_all(fd, &buffer);
}

// Says why nothing will run, on the report descriptor (stderr when there is none yet), and ends.
void fatal(int fd, const char *format, ...) {
  char text[STATE_SIZE];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  struct buffer buffer = {.used = 0};
  put(&buffer, "{\"error\":");
  put_string(&buffer, text);
  put(&buffer, "}\n");
  send_all(fd, &buffer);
  _exit(126);
}
