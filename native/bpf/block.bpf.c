// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Block I/O: how long requests took, from the moment the kernel made them to completion, and how
 * large they were. The kernel keeps the start in the request itself, so one tracepoint and no map
 * of requests do. Histograms: of disk n (its slot's place; 7 is all others, without a name) 2n is
 * time in nanoseconds and 2n + 1 size in bytes. Slots: label: disk name, name; value 0 sum of
 * nanoseconds, 1 sum of bytes, 2 errors.
 */
#include "common.bpf.h"

#define DISKS 7
#define SLOTS 8 /* a power of two: with the one for the other disks */

struct gendisk {
	char disk_name[32];
} __attribute__((preserve_access_index));

struct request_queue {
	struct gendisk *disk;
} __attribute__((preserve_access_index));

struct request {
	struct request_queue *q;
	unsigned int __data_len;
	__u64 start_time_ns;
} __attribute__((preserve_access_index));

struct block_cpu {
	struct weir_head head;
	struct weir_hist hist[2 * SLOTS];
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct block_cpu);

/* Places must be the same on every CPU, as the histograms go by place: they are given out here. */
struct disks {
	__u64 id[DISKS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct disks);
} disks SEC(".maps");

static __always_inline __u32 place_of(struct disks *known, __u64 id)
{
#pragma unroll
	for (__u32 i = 0; i < DISKS; i++) {
		__u64 found = known->id[i];

		if (!found)
			found = __sync_val_compare_and_swap(&known->id[i], 0, id);
		if (!found || found == id)
			return i;
	}
	return DISKS;
}

SEC(TP "block_rq_complete")
int on_complete(__u64 *ctx)
{
	struct request *rq = (void *)ctx[0];
	__u32 bytes = ctx[2];
	struct block_cpu *cpu = this_cpu(&cpus);
	struct gendisk *disk;
	struct weir_slot *slot;
	struct weir_hist *hist;
	struct disks *known;
	__u64 name[2] = {}, start, ns, place;
	__u32 zero = 0;

	/* Parts of a request complete one by one: the last one counts. */
	if (!cpu || bytes != READ(rq, __data_len))
		return 0;
	disk = BPF_CORE_READ(rq, q, disk);
	known = bpf_map_lookup_elem(&disks, &zero);
	if (!disk || !known)
		return 0;
	bpf_core_read(name, sizeof(name), &disk->disk_name);
	place = place_of(known, (name[0] * MIX ^ name[1]) * MIX | 1);
	/* Always 0, which the verifier can't know: else it follows what comes for each place. */
	place = (place + cpu->head.sum_ns[0]) & (SLOTS - 1);
	hist = &cpu->hist[2 * place];
	slot = &cpu->slots[place];
	if (!slot->id) {
		slot->label[0] = place < DISKS ? name[0] : 0;
		slot->label[1] = place < DISKS ? name[1] : 0;
		slot->label[2] = WEIR_SLOT_READY;
		slot->id = SLOTS + place; /* so that the reader's table has it at its place */
	}
	add(&cpu->head.produced, 1);
	if ((__u8)ctx[1]) /* blk_status_t */
		add(&slot->value[2], 1);
	start = READ(rq, start_time_ns);
	if (!start) { /* queue/iostats is off */
		add(&cpu->head.lost, 1);
		return 0;
	}
	ns = bpf_ktime_get_ns() - start;
	add(&slot->value[0], ns);
	add(&slot->value[1], bytes);
	add(&hist[0].bucket[bucket_of(ns)], 1);
	add(&hist[1].bucket[bucket_of(bytes)], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
