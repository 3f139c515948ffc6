// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Process starts (exec) and exits, counted by name and also one fixed-size record each, through one
 * ring. The reader polls, so nobody is woken. produced counts before the reservation and lost when
 * it fails: once the ring is empty, produced = drained + lost. Slots: label: name, name; value 0
 * starts, 1 exits with code 0, 2 with another, 3 by a signal. Kernel threads, which never start by
 * exec, are left out.
 */
#include "common.bpf.h"

#define SIGNAL_GROUP_EXIT 0x4
#define PF_KTHREAD	  0x00200000
#define SLOTS		  128

struct signal_struct {
	unsigned int flags;
	int group_exit_code;
} __attribute__((preserve_access_index));

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	int exit_code;
	char comm[WEIR_COMM_LEN];
	__u64 start_boottime;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct signal_struct *signal;
} __attribute__((preserve_access_index));

/* Kernels whose sched_process_exit says whether the whole process ends have this field (6.16). */
struct trace_event_raw_sched_process_exit {
	bool group_dead;
} __attribute__((preserve_access_index));

struct exec_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct exec_cpu);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* user space: bytes, a power of two of whole pages */
} ring SEC(".maps");

/* Counts, in any case, and gives the place for a record, if there is one. */
static __always_inline struct weir_event *reserve(struct task_struct *task, __u32 kind,
						  __u32 status)
{
	struct exec_cpu *counters = this_cpu(&cpus);
	struct weir_event *event;
	struct weir_slot *slot;
	__u64 name[2] = {};

	if (!counters)
		return NULL;
	READ_PROCESS_NAME(name); /* any of its threads may be the last */
	slot = slot_of(counters->slots, SLOTS, name[0], name[1], 0);
	if (kind == WEIR_EVENT_EXEC)
		add(&slot->value[0], 1);
	else if (status & 0x7f)
		add(&slot->value[3], 1);
	else if (status)
		add(&slot->value[2], 1);
	else
		add(&slot->value[1], 1);
	add(&counters->head.produced, 1);
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		add(&counters->head.lost, 1);
		return NULL;
	}
	event->time_ns = bpf_ktime_get_boot_ns();
	event->lifetime_ns = 0;
	event->kind = kind;
	event->pid = READ(task, tgid);
	event->ppid = BPF_CORE_READ(task, real_parent, tgid);
	event->status = status;
	event->uid = bpf_get_current_uid_gid();
	event->zero = 0;
	__builtin_memcpy(event->comm, name, sizeof(name));
	return event;
}

SEC(TP "sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
	struct weir_event *event = reserve(task, WEIR_EVENT_EXEC, 0);

	if (event)
		bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC(TP "sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct weir_event *event;
	__u32 status;
	bool ends;

	/* Without the argument, the leader stands for the process: threads that end together cannot
	 * be told apart from the last one. */
	if (bpf_core_field_exists(struct trace_event_raw_sched_process_exit, group_dead))
		ends = ctx[1];
	else
		ends = READ(task, pid) == READ(task, tgid);
	if (!ends || READ(task, flags) & PF_KTHREAD)
		return 0;
	/* The rule of wait(2), kernel/exit.c wait_task_zombie(). */
	if (BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT)
		status = BPF_CORE_READ(task, signal, group_exit_code);
	else
		status = BPF_CORE_READ(task, group_leader, exit_code);
	event = reserve(task, WEIR_EVENT_EXIT, status);
	if (!event)
		return 0;
	event->lifetime_ns = event->time_ns - BPF_CORE_READ(task, group_leader, start_boottime);
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
