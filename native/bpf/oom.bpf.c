// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Processes that the kernel killed for want of memory. Slots: label: name, name; value 0 kills. */
#include "common.bpf.h"

#define SLOTS 32

struct task_struct {
	char comm[16];
} __attribute__((preserve_access_index));

struct oom_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct oom_cpu);

SEC(TP "mark_victim")
int on_kill(__u64 *ctx)
{
	struct oom_cpu *cpu = this_cpu(&cpus);
	struct task_struct *task = (void *)ctx[0];
	__u64 name[2] = {};

	if (!cpu)
		return 0;
	add(&cpu->head.produced, 1);
	/* Before 6.8 the argument is the pid, and the name can't be had: the read fails. */
	if (bpf_probe_read_kernel(name, sizeof(name), &task->comm))
		name[0] = name[1] = 0;
	add(&slot_of(cpu->slots, SLOTS, name[0], name[1], 0)->value[0], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
