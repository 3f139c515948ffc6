// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Errors that ext4 found in a file system. Slots: label: device name, name; value 0 errors. */
#include "common.bpf.h"

#define SLOTS 16

struct super_block {
	char s_id[32];
} __attribute__((preserve_access_index));

struct fserror_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct fserror_cpu);

SEC(TP "ext4_error")
int on_error(__u64 *ctx)
{
	struct fserror_cpu *cpu = this_cpu(&cpus);
	struct super_block *sb = (void *)ctx[0];
	__u64 name[2] = {};

	if (!cpu)
		return 0;
	bpf_core_read(name, sizeof(name), &sb->s_id);
	add(&cpu->head.produced, 1);
	add(&slot_of(cpu->slots, SLOTS, name[0], name[1], 0)->value[0], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
