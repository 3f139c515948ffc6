#define _GNU_SOURCE
#include "probes.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block.lskel.h"
#include "block.raw.lskel.h"
#include "coldstart.lskel.h"
#include "coldstart.raw.lskel.h"
#include "connections.h"
#include "dns.lskel.h"
#include "drops.lskel.h"
#include "drops.raw.lskel.h"
#include "exec.lskel.h"
#include "exec.raw.lskel.h"
#include "fserror.lskel.h"
#include "fserror.raw.lskel.h"
#include "layout.h"
#include "oom.lskel.h"
#include "oom.raw.lskel.h"
#include "opens.lskel.h"
#include "sched.lskel.h"
#include "sched.raw.lskel.h"
#include "signals.lskel.h"
#include "sockcalls.lskel.h"
#include "softirq.lskel.h"
#include "softirq.raw.lskel.h"
#include "tcp.lskel.h"
#include "tcploss.lskel.h"
#include "tcploss.raw.lskel.h"
#include "thermal.lskel.h"
#include "thermal.raw.lskel.h"
#include "writeerror.lskel.h"
#include "writeerror.raw.lskel.h"
#include "../perf/counters.h"
#include "../ring/size.h"
#ifdef WEIR_BENCH
#include "flood.lskel.h"
#endif

/* What the kernel charges for a map or program. */
static uint64_t memory_of(int fd)
{
	char path[64], line[128];
	unsigned long long bytes = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "memlock: %llu", &bytes) == 1)
			break;
	fclose(file);
	return bytes;
}

/* One loader per skeleton: the generated functions have the same shape and different names. */
#define WEIR_RING_SIZE(skel, probe)    ((skel)->maps.ring.max_entries = (probe)->ring_bytes)
#define WEIR_RING_FD(skel)	       ((skel)->maps.ring.map_fd)
#define WEIR_NO_RING_SIZE(skel, probe) ((void)0)
#define WEIR_NO_RING_FD(skel)	       (-1)

#define WEIR_LOADER(probe_name, ring_size, ring_fd_of)                                             \
	static int load_##probe_name(struct weir_probe *probe, char *log, size_t log_size,         \
				     const char **step)                                            \
	{                                                                                          \
		struct weir_##probe_name *skel = weir_##probe_name##__open();                      \
		int err = -ENOMEM;                                                                 \
                                                                                                   \
		*step = "allocate the skeleton";                                                   \
		if (!skel)                                                                         \
			return err;                                                                \
		skel->maps.cpus.max_entries = probe->cpu_count;                                    \
		ring_size(skel, probe);                                                            \
		skel->ctx.log_level = log_size ? 1 : 0;                                            \
		skel->ctx.log_buf = (unsigned long)log;                                            \
		skel->ctx.log_size = log_size;                                                     \
		err = weir_##probe_name##__load(skel);                                             \
		if (!err)                                                                          \
			err = weir_##probe_name##__attach(skel);                                   \
		if (err) {                                                                         \
			*step = weir_skel_step;                                                    \
			weir_##probe_name##__destroy(skel);                                        \
			return err;                                                                \
		}                                                                                  \
		probe->skeleton = skel;                                                            \
		probe->cpus_fd = skel->maps.cpus.map_fd;                                           \
		probe->ring_fd = ring_fd_of(skel);                                                 \
		_Static_assert(sizeof(skel->progs) / sizeof(int) <= WEIR_MAX_PROGRAMS, "");        \
		probe->program_count = sizeof(skel->progs) / sizeof(int);                          \
		memcpy(probe->program_fds, &skel->progs, sizeof(skel->progs));                     \
		for (size_t i = 0; i < sizeof(skel->maps) / sizeof(struct bpf_map_desc); i++)      \
			probe->memory_bytes +=                                                     \
			    memory_of(((struct bpf_map_desc *)&skel->maps)[i].map_fd);             \
		return 0;                                                                          \
	}                                                                                          \
	static void destroy_##probe_name(void *skel)                                               \
	{                                                                                          \
		weir_##probe_name##__destroy(skel);                                                \
	}

WEIR_LOADER(block, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(block_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(coldstart, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(coldstart_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(drops, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(drops_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(fserror, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(fserror_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(oom, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(oom_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(writeerror, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(writeerror_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(sched, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(sched_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(softirq, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(softirq_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(tcp, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(tcploss, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(tcploss_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(thermal, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(thermal_raw, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(exec, WEIR_RING_SIZE, WEIR_RING_FD)
WEIR_LOADER(exec_raw, WEIR_RING_SIZE, WEIR_RING_FD)
WEIR_LOADER(dns, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(signals, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(sockcalls, WEIR_NO_RING_SIZE, WEIR_NO_RING_FD)
WEIR_LOADER(opens, WEIR_RING_SIZE, WEIR_RING_FD)
#ifdef WEIR_BENCH
WEIR_LOADER(flood, WEIR_RING_SIZE, WEIR_RING_FD)
#endif

/* The kernel's own counters, one in each bucket of what would be a histogram. */
static int load_perf(struct weir_probe *probe, uint32_t type, const uint64_t *configs,
		     unsigned int count, const char **step)
{
	int err = 0;

	*step = "open the counters";
	probe->skeleton = weir_counters_open(type, configs, count, probe->cpu_count, &err);
	return probe->skeleton ? 0 : err;
}

static int load_counters(struct weir_probe *probe, char *log, size_t log_size, const char **step)
{
	/* Not context switches and page faults: counting them costs each 70 to 100 ns, and the
	 * kernel has them anyway (/proc/stat, /proc/vmstat). Migrations it doesn't, and they are
	 * rare. */
	static const uint64_t config = PERF_COUNT_SW_CPU_MIGRATIONS;

	(void)log, (void)log_size;
	return load_perf(probe, PERF_TYPE_SOFTWARE, &config, 1, step);
}

static int load_hardware(struct weir_probe *probe, char *log, size_t log_size, const char **step)
{
	static const uint64_t configs[] = {
	    PERF_COUNT_HW_INSTRUCTIONS,
	    PERF_COUNT_HW_CPU_CYCLES,
	    PERF_COUNT_HW_CACHE_REFERENCES,
	    PERF_COUNT_HW_CACHE_MISSES,
	};

	(void)log, (void)log_size;
	return load_perf(probe, PERF_TYPE_HARDWARE, configs, 4, step);
}

static void destroy_perf(void *counters)
{
	weir_counters_close(counters);
}

static void read_perf(const void *counters, uint64_t *words)
{
	weir_counters_read(counters, words + sizeof(struct weir_head) / sizeof(*words));
}

const struct weir_probe_kind weir_probe_kinds[] = {
    {"sched", 1, 128, false, load_sched, destroy_sched, NULL, load_sched_raw, destroy_sched_raw},
    {"softirq", 1, 0, false, load_softirq, destroy_softirq, NULL, load_softirq_raw,
     destroy_softirq_raw},
    {"block", 16, 8, false, load_block, destroy_block, NULL, load_block_raw, destroy_block_raw},
    {"tcp", 2, 128, false, load_tcp, destroy_tcp, NULL},
    {"tcploss", 0, 128, false, load_tcploss, destroy_tcploss, NULL, load_tcploss_raw,
     destroy_tcploss_raw},
    {"drops", 0, 128, false, load_drops, destroy_drops, NULL, load_drops_raw, destroy_drops_raw},
    {"exec", 0, 128, true, load_exec, destroy_exec, NULL, load_exec_raw, destroy_exec_raw},
    {"coldstart", 0, 64, false, load_coldstart, destroy_coldstart, NULL, load_coldstart_raw,
     destroy_coldstart_raw},
    {"oom", 0, 32, false, load_oom, destroy_oom, NULL, load_oom_raw, destroy_oom_raw},
    {"fserror", 0, 16, false, load_fserror, destroy_fserror, NULL, load_fserror_raw,
     destroy_fserror_raw},
    {"writeerror", 0, 16, false, load_writeerror, destroy_writeerror, NULL, load_writeerror_raw,
     destroy_writeerror_raw},
    {"thermal", 0, 32, false, load_thermal, destroy_thermal, NULL, load_thermal_raw,
     destroy_thermal_raw},
    {"sockcalls", 4, 128, false, load_sockcalls, destroy_sockcalls, NULL},
    {"opens", 0, 128, true, load_opens, destroy_opens, NULL},
    {"signals", 0, 128, false, load_signals, destroy_signals, NULL},
    {"dns", 1, 32, false, load_dns, destroy_dns, NULL},
    {"connections", 0, 0, false, weir_load_connections, weir_destroy_connections,
     weir_count_connections},
    {"counters", 1, 0, false, load_counters, destroy_perf, read_perf},
    {"hardware", 1, 0, false, load_hardware, destroy_perf, read_perf},
#ifdef WEIR_BENCH
    {"flood", 0, 0, true, load_flood, destroy_flood, NULL},
#endif
};
const size_t weir_probe_kind_count = sizeof(weir_probe_kinds) / sizeof(weir_probe_kinds[0]);

size_t weir_probe_words(const struct weir_probe_kind *kind)
{
	size_t bytes = sizeof(struct weir_head) + kind->histograms * sizeof(struct weir_hist);

	if (kind->slots)
		bytes += (kind->slots + 1) * sizeof(struct weir_slot);
	return bytes / sizeof(uint64_t);
}

typedef int loader(struct weir_probe *probe, char *log, size_t log_size, const char **step);

/* The verifier gives up with EAGAIN when a signal arrives for the thread, as they do in Node. */
static int load_patiently(loader *load, struct weir_probe *probe, const char **step)
{
	int attempts = 10, err;

	do
		err = load(probe, NULL, 0, step);
	while (err == -EAGAIN && --attempts > 0);
	return err;
}

/* The last whole lines of the verifier's log that fit. */
static void keep_log_end(const char *log, char *into, size_t size)
{
	size_t length = strlen(log);
	const char *from = log;

	if (length >= size) {
		from = log + length - (size - 1);
		if (strchr(from, '\n'))
			from = strchr(from, '\n') + 1;
	}
	memcpy(into, from, strlen(from) + 1);
}

static int load(struct weir_probe *probe, struct weir_failure *failure)
{
	const size_t log_size = (size_t)256 * 1024;
	const char *step;
	char *log;
	int err;

	err = load_patiently(probe->kind->load, probe, &failure->step);
	failure->error = -err;
	if (err && probe->kind->load_raw && !load_patiently(probe->kind->load_raw, probe, &step)) {
		probe->raw = true;
		return 0;
	}

	/* Asked for only now: a log that doesn't fit would make a good program fail with ENOSPC. */
	if (err == -EINVAL || err == -EACCES) {
		log = calloc(1, log_size);
		if (log) {
			err = probe->kind->load(probe, log, log_size, &failure->step);
			keep_log_end(log, failure->log, sizeof(failure->log));
			free(log);
		}
	}
	return err;
}

static int map_memory(struct weir_probe *probe, const char **step)
{
	const size_t element = weir_probe_words(probe->kind) * sizeof(uint64_t);
	const size_t page = probe->page_bytes;
	void *at;

	*step = "map the counters";
	probe->cpus_mapped = weir_whole_pages(probe->cpu_count * element, page);
	at = mmap(NULL, probe->cpus_mapped, PROT_READ, MAP_SHARED, probe->cpus_fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	probe->cpus = at;
	if (!probe->kind->has_ring)
		return 0;

	*step = "map the ring";
	at = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, probe->ring_fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	probe->consumer = at;
	probe->ring_mapped = page + 2 * (size_t)probe->ring_bytes;
	at = mmap(NULL, probe->ring_mapped, PROT_READ, MAP_SHARED, probe->ring_fd, (off_t)page);
	if (at == MAP_FAILED)
		return -errno;
	probe->producer = at;
	probe->ring = (const uint8_t *)at + page;
	return 0;
}

bool weir_probe_open(const struct weir_probe_kind *kind, uint32_t cpu_count, uint32_t ring_bytes,
		     struct weir_probe *probe, struct weir_failure *failure)
{
	const char *step;
	int err;

	memset(probe, 0, sizeof(*probe));
	memset(failure, 0, sizeof(*failure));
	probe->kind = kind;
	probe->cpu_count = cpu_count;
	probe->page_bytes = sysconf(_SC_PAGESIZE);
	probe->ring_bytes = weir_ring_bytes(ring_bytes, probe->page_bytes, 1u << 30);

	err = load(probe, failure);
	for (unsigned int i = 0; i < probe->program_count; i++)
		probe->memory_bytes += memory_of(probe->program_fds[i]);
	step = failure->step; /* why the typed ones failed, if they did */
	if (!err && !kind->read)
		err = map_memory(probe, &step);
	if (!err) {
		if (!probe->raw)
			failure->error = 0;
		return true;
	}
	failure->step = step;
	failure->error = -err;
	weir_probe_close(probe);
	return false;
}

void weir_probe_close(struct weir_probe *probe)
{
	if (probe->cpus)
		munmap((void *)probe->cpus, probe->cpus_mapped);
	if (probe->consumer)
		munmap(probe->consumer, probe->page_bytes);
	if (probe->producer)
		munmap((void *)probe->producer, probe->ring_mapped);
	if (probe->skeleton)
		(probe->raw ? probe->kind->destroy_raw : probe->kind->destroy)(probe->skeleton);
	memset(probe, 0, sizeof(*probe));
}

/* Zeros where the kernel says nothing of the program. */
static void ask_program(int program_fd, struct bpf_prog_info *info)
{
	union bpf_attr attr = {};

	memset(info, 0, sizeof(*info));
	attr.info.bpf_fd = program_fd;
	attr.info.info_len = sizeof(*info);
	attr.info.info = (unsigned long)info;
	if (skel_sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, WEIR_ATTR_SIZE(info)) < 0)
		memset(info, 0, sizeof(*info));
}

static uint64_t skipped_runs(int program_fd)
{
	struct bpf_prog_info info;

	ask_program(program_fd, &info);
	return info.recursion_misses;
}

void weir_probe_cost(const struct weir_probe *probe, uint64_t *run_ns, uint64_t *runs)
{
	struct bpf_prog_info info;

	*run_ns = *runs = 0;
	for (unsigned int i = 0; i < probe->program_count; i++) {
		ask_program(probe->program_fds[i], &info);
		*run_ns += info.run_time_ns;
		*runs += info.run_cnt;
	}
}

int weir_count_runs(void)
{
	union bpf_attr attr = {};

	attr.enable_stats.type = BPF_STATS_RUN_TIME;
	return skel_sys_bpf(BPF_ENABLE_STATS, &attr, WEIR_ATTR_SIZE(enable_stats));
}

/* Adds one CPU's slots to `into`. What finds no place there joins the others in the last one; since
 * places are kept from one reading to the next, it then does so for good. */
static void add_slots(const struct weir_slot *from, struct weir_slot *into, unsigned int slots)
{
	for (unsigned int i = 0; i <= slots; i++) {
		struct weir_slot *to = &into[slots];
		const uint64_t id = __atomic_load_n(&from[i].id, __ATOMIC_RELAXED);
		const uint64_t last = __atomic_load_n(&from[i].label[2], __ATOMIC_ACQUIRE);

		if (i < slots && !(last & WEIR_SLOT_READY))
			continue;
		for (unsigned int n = 0; i < slots && n < slots; n++) {
			struct weir_slot *one = &into[(id + n) % slots];

			if (one->id && one->id != id)
				continue;
			one->id = id;
			one->label[0] = __atomic_load_n(&from[i].label[0], __ATOMIC_RELAXED);
			one->label[1] = __atomic_load_n(&from[i].label[1], __ATOMIC_RELAXED);
			one->label[2] = last & ~WEIR_SLOT_READY;
			to = one;
			break;
		}
		for (unsigned int v = 0; v < 4; v++)
			to->value[v] += __atomic_load_n(&from[i].value[v], __ATOMIC_RELAXED);
	}
}

void weir_probe_read(const struct weir_probe *probe, uint64_t *words)
{
	const size_t count = weir_probe_words(probe->kind);
	const unsigned int slots = probe->kind->slots;
	const size_t plain =
	    count - (slots ? (slots + 1) * sizeof(struct weir_slot) / sizeof(*words) : 0);
	const uint64_t *from = probe->cpus;
	uint64_t skipped = 0;

	memset(words, 0, plain * sizeof(*words));
	for (unsigned int i = 0; slots && i <= slots; i++)
		memset(((struct weir_slot *)(words + plain))[i].value, 0,
		       sizeof(struct weir_slot) / 2);
	if (probe->kind->read) {
		probe->kind->read(probe->skeleton, words);
		return;
	}
	for (uint32_t cpu = 0; cpu < probe->cpu_count; cpu++, from += count) {
		for (size_t i = 0; i < plain; i++)
			words[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
		if (slots)
			add_slots((const struct weir_slot *)(from + plain),
				  (struct weir_slot *)(words + plain), slots);
	}
	for (unsigned int i = 0; i < probe->program_count; i++)
		skipped += skipped_runs(probe->program_fds[i]);
	words[0] += skipped;
	words[1] += skipped;
}

uint32_t weir_possible_cpus(void)
{
	/* "0-3" or "0,2-5": the last number is the highest. */
	char text[256] = "";
	FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
	const char *last = text;
	long configured = sysconf(_SC_NPROCESSORS_CONF);

	if (file) {
		if (fgets(text, sizeof(text), file))
			for (const char *c = text; *c; c++)
				if (*c == '-' || *c == ',')
					last = c + 1;
		fclose(file);
		if (*last >= '0' && *last <= '9')
			return strtoul(last, NULL, 10) + 1;
	}
	return configured > 0 ? configured : 1;
}
