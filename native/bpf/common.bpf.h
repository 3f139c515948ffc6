/* Helpers every probe uses. SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#ifndef WEIR_COMMON_BPF_H
#define WEIR_COMMON_BPF_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "layout.h"

/* Programs are attached with types (tp_btf), so that fields are read directly. Where the kernel has
 * a tracepoint but not its type, or the verifier refuses to follow an argument, the same source
 * built with WEIR_RAW takes the arguments as numbers (raw_tp) and copies each field: sources that
 * use TP and READ are built both ways (scripts/gen-skeletons.mjs). */
#ifdef WEIR_RAW
#define TP	       "raw_tp/"
#define READ(p, field) BPF_CORE_READ(p, field)
#else
#define TP	       "tp_btf/"
#define READ(p, field) ((p)->field)
#endif

/* Keeps the compiler from proving a bound that the verifier then can't see. */
#define OPAQUE(x) asm volatile("" : "+r"(x))

/* Adds 2^SHIFT to `b` and takes as many bits from `v` where v needs more than these. No branches:
 * each would double what the verifier has to look at. */
#define HALVE(b, v, shift)                                                                         \
	do {                                                                                       \
		__u64 step = (((1ULL << (1 << (shift))) - 1 - (v)) >> 63) << (shift);              \
		(b) += step;                                                                       \
		(v) >>= step;                                                                      \
	} while (0)

/* Smallest b with ns <= 2^b: the bucket of layout.h. BPF has no count-leading-zeros. */
static __always_inline __u32 bucket_of(__u64 ns)
{
	__u64 v = ns - 1 + ((ns - 1) >> 63); /* 0 of 0, too */
	__u64 b = (0x7fffffffULL - (v >> 1)) >> 63 << 5;

	v >>= b;
	HALVE(b, v, 4);
	HALVE(b, v, 3);
	HALVE(b, v, 2);
	HALVE(b, v, 1);
	HALVE(b, v, 0);
	b += v;
	OPAQUE(b);
	return b & (WEIR_BUCKETS - 1);
}

/* What every probe has: `cpus`, as layout.h says. */
#define WEIR_CPUS(type_name)                                                                       \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                  \
		__uint(map_flags, BPF_F_MMAPABLE);                                                 \
		__uint(max_entries, 1); /* user space: the number of possible CPUs */              \
		__type(key, __u32);                                                                \
		__type(value, type_name);                                                          \
	} cpus SEC(".maps")

static __always_inline void *this_cpu(void *map)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(map, &cpu);
}

static __always_inline void add(__u64 *to, __u64 value)
{
	__sync_fetch_and_add(to, value);
}

#define SLOT_TRIES 6
#define MIX	   0x9e3779b97f4a7c15ULL

/* The slot of these labels in this CPU's table of `count` (a power of two) and one; the last one
 * when there is no place within SLOT_TRIES. label[2] must leave its highest bit free. */
static __always_inline struct weir_slot *slot_of(struct weir_slot *slots, __u32 count, __u64 a,
						 __u64 b, __u64 c)
{
	__u64 id = ((a * MIX ^ b) * MIX ^ (b >> 29) ^ c) * MIX, found;
	__u32 at = id >> 57;		    /* the bits that all of the labels' bits lead to */
	__u32 step = (__u32)(id >> 32) | 1; /* so that no rows fill up */

	id |= 1;
#pragma unroll
	for (int i = 0; i < SLOT_TRIES; i++) {
		__u32 place = (at + i * step) & (count - 1);
		struct weir_slot *slot;

		OPAQUE(place);
		place &= count - 1;
		slot = &slots[place];
		found = slot->id;
		if (found == id)
			return slot;
		if (found)
			continue;
		/* An interrupt of this CPU may want it, too. */
		found = __sync_val_compare_and_swap(&slot->id, 0, id);
		if (!found) {
			slot->label[0] = a;
			slot->label[1] = b;
			__sync_val_compare_and_swap(&slot->label[2], 0, c | WEIR_SLOT_READY);
			return slot;
		}
		if (found == id)
			return slot;
	}
	return &slots[count];
}

/* `name`: two zeros, which become the name of the running process; a thread may have one of its
 * own. For whoever has declared struct task_struct with these. */
#define READ_PROCESS_NAME(name)                                                                    \
	BPF_CORE_READ_STR_INTO((char(*)[WEIR_COMM_LEN])(name),                                     \
			       (struct task_struct *)bpf_get_current_task(), group_leader, comm)

#endif
