#include "counters.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct weir_counters {
  unsigned int count;
  uint32_t cpu_count;
  int fds[]; /* count for each CPU; -1: a CPU that is not there */
};

struct weir_counters *weir_counters_open(uint32_t type, const uint64_t *configs, unsigned int count,
                                         uint32_t cpu_count, int *err) {
  const size_t total = (size_t)count * cpu_count;
  struct weir_counters *counters = malloc(sizeof(*counters) + total * sizeof(int));
  struct perf_event_attr attr = {};
  size_t opened = 0;

  *err = -ENOMEM;
  if (!counters) return NULL;
  counters->count = count;
  counters->cpu_count = cpu_count;
  memset(counters->fds, -1, total * sizeof(int));
  attr.size = sizeof(attr);
  attr.type = type;
  attr.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
  for (size_t i = 0; i < total; i++) {
    int fd;

    attr.config = configs[i % count];
    fd = (int)syscall(__NR_perf_event_open, &attr, -1, (int)(i / count), -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0 && errno == ENODEV) /* an offline CPU */
      continue;
    if (fd < 0) {
      *err = -errno;
      weir_counters_close(counters);
      return NULL;
    }
    counters->fds[i] = fd;
    opened++;
  }
  if (opened) return counters;
  *err = -ENODEV;
  weir_counters_close(counters);
  return NULL;
}

void weir_counters_read(const struct weir_counters *counters, uint64_t *totals) {
  memset(totals, 0, counters->count * sizeof(*totals));
  for (size_t i = 0; i < (size_t)counters->count * counters->cpu_count; i++) {
    uint64_t value[3]; /* count, time enabled, time running */

    if (counters->fds[i] < 0 || read(counters->fds[i], value, sizeof(value)) != sizeof(value)) continue;
    if (value[2] && value[2] < value[1]) value[0] = (unsigned __int128)value[0] * value[1] / value[2];
    totals[i % counters->count] += value[0];
  }
}

void weir_counters_close(struct weir_counters *counters) {
  if (!counters) return;
  for (size_t i = 0; i < (size_t)counters->count * counters->cpu_count; i++)
    if (counters->fds[i] >= 0) close(counters->fds[i]);
  free(counters);
}
