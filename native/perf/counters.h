/* Counting events of perf_event_open(2), over all CPUs. C, no N-API. */
#ifndef WEIR_PERF_COUNTERS_H
#define WEIR_PERF_COUNTERS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEIR_MOST_COUNTERS 4

struct weir_counters;

/* Opens one event of each of `configs` (PERF_COUNT_* of `type`) on each CPU that is there. Null on
 * failure, with `*err` -errno. */
struct weir_counters *weir_counters_open(uint32_t type, const uint64_t *configs, unsigned int count,
                                         uint32_t cpu_count, int *err);

/* Totals since the opening, by place in `configs`. An event that had to share a counter with others
 * is scaled up by the time it had none. */
void weir_counters_read(const struct weir_counters *counters, uint64_t *totals);

/* Safe on null. */
void weir_counters_close(struct weir_counters *counters);

#ifdef __cplusplus
}
#endif

#endif
