// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* On demand: signals, by the process that is to get them. Slots: label: name, name, number; value 0
 * signals, 1 those that another process sent.
 */
#include "common.bpf.h"

#define SLOTS 128

struct task_struct {
	int tgid;
	char comm[16];
	struct task_struct *group_leader;
} __attribute__((preserve_access_index));

struct signals_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct signals_cpu);

SEC("tp_btf/signal_generate")
int on_signal(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[2];
	struct signals_cpu *cpu = this_cpu(&cpus);
	struct weir_slot *slot;
	__u64 *name;

	if (!cpu)
		return 0;
	name = (__u64 *)task->group_leader->comm;
	add(&cpu->head.produced, 1);
	slot = slot_of(cpu->slots, SLOTS, name[0], name[1], (__u32)ctx[0]);
	add(&slot->value[0], 1);
	if (bpf_get_current_pid_tgid() >> 32 != task->tgid)
		add(&slot->value[1], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
