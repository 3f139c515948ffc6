/* Loads, attaches and maps the probes of this folder. C, no libbpf, no N-API. */
#ifndef WEIR_BPF_PROBES_H
#define WEIR_BPF_PROBES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEIR_MAX_PROGRAMS 4

struct weir_probe;

/* One kind of probe; the table is `weir_probe_kinds`. */
struct weir_probe_kind {
	const char *name;
	unsigned int histograms;
	unsigned int slots; /* a power of two; one more follows for all others. 0: none */
	bool has_ring;
	/* Loads, attaches; fills fds and `skeleton`, returns 0 or -errno and sets `*step`. */
	int (*load)(struct weir_probe *probe, char *log, size_t log_size, const char **step);
	void (*destroy)(void *skeleton);
	/* A kind without a map `cpus`: it counts elsewhere, and these are its words. Else null. */
	void (*read)(const void *skeleton, uint64_t *words);
	/* The same over raw tracepoints, for where the typed ones can't be had. Null: there is
	 * none. */
	int (*load_raw)(struct weir_probe *probe, char *log, size_t log_size, const char **step);
	void (*destroy_raw)(void *skeleton);
};

extern const struct weir_probe_kind weir_probe_kinds[];
extern const size_t weir_probe_kind_count;

/* A loaded probe. Everything in it is owned by it and ends with weir_probe_close(). */
struct weir_probe {
	const struct weir_probe_kind *kind;
	void *skeleton;
	bool raw; /* over raw tracepoints */
	uint32_t cpu_count;
	uint32_t ring_bytes;
	int cpus_fd, ring_fd;
	int program_fds[WEIR_MAX_PROGRAMS];
	unsigned int program_count;
	uint64_t memory_bytes; /* the kernel's for maps and programs; 0 when it can't be known */

	/* read-only mapping: cpu_count elements of weir_probe_words() words */
	const uint64_t *cpus;
	size_t cpus_mapped;

	const uint8_t *ring;	  /* read-only, ring_bytes mapped twice in a row */
	const uint64_t *producer; /* read-only: first byte not yet reserved */
	uint64_t *consumer;	  /* first byte not yet drained; we are the only writer */
	size_t ring_mapped;
	size_t page_bytes;
};

struct weir_failure {
	int error; /* errno, positive */
	const char *step;
	char log[512]; /* end of the verifier's log, or "" */
};

/* 64-bit words of one CPU's element (layout.h). */
size_t weir_probe_words(const struct weir_probe_kind *kind);

/* Loads and attaches one probe. `cpu_count`: possible CPUs. `ring_bytes`: at least what is wanted;
 * rounded up to a power of two of whole pages; ignored without a ring.
 * On failure returns false, fills `failure` and leaves nothing behind; where raw tracepoints did,
 * `failure` says why the typed ones didn't. */
bool weir_probe_open(const struct weir_probe_kind *kind, uint32_t cpu_count, uint32_t ring_bytes,
		     struct weir_probe *probe, struct weir_failure *failure);

/* Detaches, unmaps, closes. Safe on a zeroed probe and twice. */
void weir_probe_close(struct weir_probe *probe);

/* Adds the CPUs up into `words` (weir_probe_words() of them), slots by their id. `words`: zeros, or
 * what the probe's last reading left there: all CPUs together may have more labels than there are
 * slots, and one that once had a slot of its own must not join the others later, whose count would
 * leap by all that it ever was. Runs that the
 * kernel skipped because a program would have interrupted itself are added to both produced and
 * lost. */
void weir_probe_read(const struct weir_probe *probe, uint64_t *words);

/* How long the programs have run and how often, while somebody had the kernel count that
 * (bpf_stats). Nanoseconds and runs, over all programs and CPUs. */
void weir_probe_cost(const struct weir_probe *probe, uint64_t *run_ns, uint64_t *runs);

/* Has the kernel count runs until the descriptor is closed. It, or -errno: it takes CAP_SYS_ADMIN.
 */
int weir_count_runs(void);

/* CPUs the kernel could ever bring up, the bound of its CPU numbers. */
uint32_t weir_possible_cpus(void);

#ifdef __cplusplus
}
#endif

#endif
