// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* The scheduler: how long threads that could run waited for a CPU, and where the threads of each
 * program spend their time: on a CPU, preempted, blocked (uninterruptible: disk, locks of the
 * kernel), asleep. By the name of the process; kernel threads are one.
 *
 * One program at one tracepoint. The wait for a CPU is what the kernel itself measures (sched_info,
 * behind /proc/<pid>/schedstat): what it has added since the thread last left a CPU, so wake-ups
 * cost nothing and a wait counts when the thread's turn ends. When a thread leaves the CPU, its
 * time, state and pid go into one word of an array, by the low bits of the pid, and the waits so
 * far into the next; when it comes back the word says how long it was away.
 *
 * sched_switch runs with interrupts off and each CPU has elements of its own: plain additions are
 * exact. Histogram 0: waits, in nanoseconds. Slots: value 0 on the CPU, 1 preempted, 2 blocked, 3
 * asleep, in nanoseconds; label: name, name. head.sum_ns[5] is when this CPU last switched, [4] the
 * place of its thread's slot.
 */
#include "common.bpf.h"

#define PLACES		65536
#define PID_BITS	22 /* PID_MAX_LIMIT on 64-bit kernels */
#define STATE_BITS	2
#define UNIT_BITS	6 /* of 64 ns: 40 bits wrap after 19 hours */
#define PID_MASK	((1ULL << PID_BITS) - 1)
#define TIME_SHIFT	(PID_BITS + STATE_BITS)
#define TIME_MASK	((1ULL << (64 - TIME_SHIFT)) - 1)
#define UNINTERRUPTIBLE 2
#define DEAD		0x80
#define NOLOAD		0x400
#define PF_KTHREAD	0x00200000
#define SLOTS		128

struct sched_info {
	unsigned long pcount;
	unsigned long long run_delay;
} __attribute__((preserve_access_index));

struct rq {
	__u64 clock;
} __attribute__((preserve_access_index));

struct cfs_rq {
	struct rq *rq;
} __attribute__((preserve_access_index));

struct sched_entity {
	struct cfs_rq *cfs_rq;
} __attribute__((preserve_access_index));

struct task_struct {
	unsigned int __state;
	unsigned int flags;
	int pid;
	char comm[16];
	struct task_struct *group_leader;
	struct sched_entity se;
	struct sched_info sched_info;
} __attribute__((preserve_access_index));

struct sched_cpu {
	struct weir_head head;
	struct weir_hist wait;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct sched_cpu);

struct thread {
	__u64 left; /* when, state, pid; 0: nothing known */
	__u64 waited;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

/* What takes more than one step, without types and with them. */
#ifdef WEIR_RAW
#define RQ_CLOCK(task) BPF_CORE_READ(task, se.cfs_rq, rq, clock)
#else
#define RQ_CLOCK(task) ((task)->se.cfs_rq->rq->clock)
#endif

static __always_inline void read_name(__u64 *to, struct task_struct *task)
{
#ifdef WEIR_RAW
	BPF_CORE_READ_INTO((char(*)[16])to, task, group_leader, comm);
#else
	const __u64 *name = (__u64 *)task->group_leader->comm;

	to[0] = name[0];
	to[1] = name[1];
#endif
}

static __always_inline void count_wait(struct sched_cpu *cpu, struct task_struct *task,
				       struct thread *thread)
{
	__u64 waited = READ(task, sched_info.run_delay), ns;

	/* Its first turn, or one whose start was seen; else it waited before the probe was there.
	 */
	if ((thread->left & PID_MASK) == (__u32)READ(task, pid)) {
		ns = waited - thread->waited;
	} else if (READ(task, sched_info.pcount) == 1) {
		ns = waited;
	} else {
		if (thread->left) {
			cpu->head.produced++;
			cpu->head.lost++;
		}
		return;
	}
	cpu->head.produced++;
	cpu->head.sum_ns[0] += ns;
	cpu->wait.bucket[bucket_of(ns)]++;
}

/* The scheduler has just read the clock for this CPU's run queue: its value is there for the
 * taking, where groups of the scheduler (CONFIG_FAIR_GROUP_SCHED) lead to it. */
static __always_inline __u64 now_ns(struct task_struct *prev)
{
	if (bpf_core_field_exists(prev->se.cfs_rq) && bpf_core_field_exists(struct cfs_rq, rq))
		return RQ_CLOCK(prev);
	return bpf_ktime_get_ns();
}

SEC(TP "sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct sched_cpu *cpu = this_cpu(&cpus);
	__u32 before = READ(prev, pid), after = READ(next, pid), key, state;
	__u64 now = now_ns(prev), since, place, word, away;
	struct weir_slot *slot;
	struct thread *thread;

	if (!cpu)
		return 0;
	since = cpu->head.sum_ns[5];
	cpu->head.sum_ns[5] = now;
	if (before) {
		__u32 raw = READ(prev, __state);

		if (preempt || raw == 0)
			state = 0;
		else
			state = (raw & (UNINTERRUPTIBLE | NOLOAD)) == UNINTERRUPTIBLE ? 1 : 2;
		key = before & (PLACES - 1);
		thread = bpf_map_lookup_elem(&threads, &key);
		if (thread) {
			if (bpf_core_field_exists(prev->sched_info.run_delay)) {
				count_wait(cpu, prev, thread);
				thread->waited = READ(prev, sched_info.run_delay);
			}
			/* Its pid may be given out again. */
			thread->left = !preempt && raw & DEAD
					   ? 0
					   : (now >> UNIT_BITS) << TIME_SHIFT |
						 (__u64)state << PID_BITS | before;
		}
		place = cpu->head.sum_ns[4];
		OPAQUE(place);
		if (since && now > since && place <= SLOTS)
			cpu->slots[place].value[0] += now - since;
	}
	if (!after)
		return 0;
	if (READ(next, flags) & PF_KTHREAD) {
		slot = slot_of(cpu->slots, SLOTS, 0x6c656e72656bULL /* "kernel" */, 0, 0);
	} else {
		__u64 name[2] = {};

		read_name(name, next);
		slot = slot_of(cpu->slots, SLOTS, name[0], name[1], 0);
	}
	cpu->head.sum_ns[4] = slot - cpu->slots;
	key = after & (PLACES - 1);
	thread = bpf_map_lookup_elem(&threads, &key);
	if (!thread)
		return 0;
	word = thread->left;
	if ((word & PID_MASK) != after) /* new, or one that was away before the probe came */
		return 0;
	away = ((now >> UNIT_BITS) - (word >> TIME_SHIFT)) & TIME_MASK;
	if (away >> (63 - TIME_SHIFT)) /* two CPUs' clocks disagree */
		away = 0;
	state = word >> PID_BITS & 3;
	if (state == 0)
		slot->value[1] += away << UNIT_BITS;
	else if (state == 1)
		slot->value[2] += away << UNIT_BITS;
	else
		slot->value[3] += away << UNIT_BITS;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
