// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Writes that failed after the program that asked for them had gone on: whatever the file system,
 * the kernel notes the error with the file (mm/filemap.c, __filemap_set_wb_err). Slots: label: the
 * file system's device, or its kind where it has none, name; value 0 errors.
 */
#include "common.bpf.h"

#define SLOTS 16

struct super_block {
	char s_id[32];
} __attribute__((preserve_access_index));

struct inode {
	struct super_block *i_sb;
} __attribute__((preserve_access_index));

struct address_space {
	struct inode *host;
} __attribute__((preserve_access_index));

struct writeerror_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct writeerror_cpu);

SEC(TP "filemap_set_wb_err")
int on_error(__u64 *ctx)
{
	struct writeerror_cpu *cpu = this_cpu(&cpus);
	struct address_space *mapping = (void *)ctx[0];
	struct super_block *sb;
	__u64 name[2] = {};

	if (!cpu)
		return 0;
	sb = BPF_CORE_READ(mapping, host, i_sb);
	bpf_core_read(name, sizeof(name), &sb->s_id);
	add(&cpu->head.produced, 1);
	add(&slot_of(cpu->slots, SLOTS, name[0], name[1], 0)->value[0], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
