// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* For bench/ring alone, never in the installed addon: puts as many records into a ring as it is
 * asked for. */
#include "common.bpf.h"

#define MOST_PER_RUN 65536

struct flood_cpu {
	struct weir_head head;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* user space: the number of possible CPUs */
	__type(key, __u32);
	__type(value, struct flood_cpu);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* user space: bytes, a power of two of whole pages */
} ring SEC(".maps");

struct flood_args {
	__u32 records;
};

static long put(__u32 index, void *unused)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct flood_cpu *counters = bpf_map_lookup_elem(&cpus, &cpu);
	struct weir_event *event;

	if (!counters)
		return 1;
	__sync_fetch_and_add(&counters->head.produced, 1);
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&counters->head.lost, 1);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_boot_ns();
	event->kind = WEIR_EVENT_EXEC;
	event->pid = index;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("syscall")
int flood(struct flood_args *args)
{
	__u32 records = args->records;

	bpf_loop(records < MOST_PER_RUN ? records : MOST_PER_RUN, put, NULL, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
