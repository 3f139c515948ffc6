/* The table of TCP connections, read through an iterator (connections.bpf.c). C, no libbpf, no
 * N-API. */
#ifndef WEIR_BPF_CONNECTIONS_H
#define WEIR_BPF_CONNECTIONS_H

#include "layout.h"
#include "probes.h"

#ifdef __cplusplus
extern "C" {
#endif

int weir_load_connections(struct weir_probe *probe, char *log, size_t log_size, const char **step);
void weir_destroy_connections(void *table);
/* Words 0 and 1: connections seen so far in all readings, and those that had no room. */
void weir_count_connections(const void *table, uint64_t *words);

/* Reads the table once: up to `room` connections into `into`; `*seen` is how many there are.
 * Returns how many were kept, or -errno. */
int64_t weir_read_connections(const struct weir_probe *probe, struct weir_connection *into,
			      size_t room, size_t *seen);

#ifdef __cplusplus
}
#endif

#endif
