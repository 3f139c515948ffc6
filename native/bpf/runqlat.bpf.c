// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Run-queue latency: how long a task that could run waited for a CPU.
 *
 * A task's enqueue time lives in an array indexed by the low bits of its pid: one inlined lookup
 * and one 8-byte store, where a hash map or task storage would cost several times more in the
 * scheduler's hottest paths. The word carries the pid too, so a collision is seen and counted as
 * lost instead of giving a wrong latency.
 *
 * sched_switch is the only writer of `cpus`, and runs with interrupts off: plain additions are
 * exact.
 */
#include "common.bpf.h"

#define SLOTS	  65536
#define PID_BITS  22 /* PID_MAX_LIMIT on 64-bit kernels */
#define PID_MASK  ((1ULL << PID_BITS) - 1)
#define TIME_BITS (64 - PID_BITS) /* wraps after 73 minutes in a run queue */

struct task_struct {
	unsigned int __state;
	int pid;
} __attribute__((preserve_access_index));

struct runqlat_cpu {
	struct weir_head head;
	struct weir_hist latency;
};

WEIR_CPUS(struct runqlat_cpu);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} enqueued SEC(".maps");

static __always_inline void stamp(__u32 pid, __u64 now)
{
	__u32 key = pid & (SLOTS - 1);
	__u64 *slot = bpf_map_lookup_elem(&enqueued, &key);

	if (slot)
		*slot = now << PID_BITS | pid;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *task)
{
	stamp(task->pid, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new, struct task_struct *task)
{
	stamp(task->pid, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 prev_pid = prev->pid, pid = next->pid, key, cpu;
	bool requeued = prev_pid && (preempt || prev->__state == 0 /* TASK_RUNNING */);
	struct runqlat_cpu *counters;
	__u64 now, word, ns, *slot;

	if (!requeued && !pid)
		return 0;
	now = bpf_ktime_get_ns();
	if (requeued)
		stamp(prev_pid, now);
	if (!pid)
		return 0;

	key = pid & (SLOTS - 1);
	slot = bpf_map_lookup_elem(&enqueued, &key);
	cpu = bpf_get_smp_processor_id();
	counters = bpf_map_lookup_elem(&cpus, &cpu);
	if (!slot || !counters)
		return 0;
	word = *slot;
	if (!word) /* became runnable before the probe was attached */
		return 0;
	counters->head.produced++;
	if ((word & PID_MASK) != pid) {
		counters->head.lost++;
		return 0;
	}
	/* The low TIME_BITS of the difference; negative when two CPUs' clocks disagree. */
	ns = ((now << PID_BITS) - (word & ~PID_MASK)) >> PID_BITS;
	if (ns >> (TIME_BITS - 1))
		ns = 0;
	counters->head.sum_ns[0] += ns;
	counters->latency.bucket[bucket_of(ns)]++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
