// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Where the threads of each program spend their time: on a CPU, preempted, blocked
 * (uninterruptible: disk, locks of the kernel), asleep. By the name of the process; kernel threads
 * are one.
 *
 * When a thread leaves the CPU its time, state and pid go into one word of an array, by the low
 * bits of the pid; when it comes back the word says how long it was away. Each CPU adds to its own
 * slots, in sched_switch alone, with interrupts off: plain additions are exact. Slots: value 0 on
 * the CPU, 1 preempted, 2 blocked, 3 asleep, in nanoseconds; label: name, name.
 */
#include "common.bpf.h"

#define PLACES		65536
#define PID_BITS	22
#define STATE_BITS	2
#define UNIT_BITS	6 /* of 64 ns: 40 bits wrap after 19 hours */
#define PID_MASK	((1ULL << PID_BITS) - 1)
#define TIME_SHIFT	(PID_BITS + STATE_BITS)
#define TIME_MASK	((1ULL << (64 - TIME_SHIFT)) - 1)
#define UNINTERRUPTIBLE 2
#define NOLOAD		0x400
#define PF_KTHREAD	0x00200000
#define SLOTS		128

struct task_struct {
	unsigned int __state;
	unsigned int flags;
	int pid;
	char comm[16];
	struct task_struct *group_leader;
} __attribute__((preserve_access_index));

struct offcpu_cpu {
	struct weir_head head; /* sum_ns[5]: when this CPU last switched */
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct offcpu_cpu);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, __u64);
} left SEC(".maps");

static __always_inline struct weir_slot *slot_for(struct offcpu_cpu *cpu, struct task_struct *task)
{
	struct task_struct *leader;
	__u64 *name;

	if (task->flags & PF_KTHREAD)
		return slot_of(cpu->slots, SLOTS, 0x6c656e72656bULL /* "kernel" */, 0, 0);
	leader = task->group_leader;
	name = (__u64 *)leader->comm;
	return slot_of(cpu->slots, SLOTS, name[0], name[1], 0);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct offcpu_cpu *cpu = this_cpu(&cpus);
	__u32 before = prev->pid, after = next->pid, key, state;
	__u64 now = bpf_ktime_get_ns(), units = now >> UNIT_BITS, since, word, *place;

	if (!cpu)
		return 0;
	since = cpu->head.sum_ns[5];
	cpu->head.sum_ns[5] = now;
	if (before) {
		__u32 raw = prev->__state;

		if (preempt || raw == 0)
			state = 0;
		else
			state = (raw & (UNINTERRUPTIBLE | NOLOAD)) == UNINTERRUPTIBLE ? 1 : 2;
		key = before & (PLACES - 1);
		place = bpf_map_lookup_elem(&left, &key);
		if (place)
			*place = units << TIME_SHIFT | (__u64)state << PID_BITS | before;
		if (since && now > since)
			slot_for(cpu, prev)->value[0] += now - since;
	}
	if (!after)
		return 0;
	key = after & (PLACES - 1);
	place = bpf_map_lookup_elem(&left, &key);
	if (!place)
		return 0;
	word = *place;
	if (!word) /* a new thread, or one that left before the probe was attached */
		return 0;
	cpu->head.produced++;
	if ((word & PID_MASK) != after) {
		cpu->head.lost++;
		return 0;
	}
	units = (units - (word >> TIME_SHIFT)) & TIME_MASK;
	if (units >> (63 - TIME_SHIFT)) /* two CPUs' clocks disagree */
		units = 0;
	state = word >> PID_BITS & 3;
	if (state == 0)
		slot_for(cpu, next)->value[1] += units << UNIT_BITS;
	else if (state == 1)
		slot_for(cpu, next)->value[2] += units << UNIT_BITS;
	else
		slot_for(cpu, next)->value[3] += units << UNIT_BITS;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
