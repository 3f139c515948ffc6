// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Process starts (exec) and exits, one fixed-size record each, through one ring. The reader polls,
 * so nobody is woken. produced counts before the reservation and lost when it fails: once the ring
 * is empty, produced = drained + lost.
 */
#include "common.bpf.h"

#define SIGNAL_GROUP_EXIT 0x4

struct signal_struct {
	unsigned int flags;
	int group_exit_code;
} __attribute__((preserve_access_index));

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
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
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* user space: the number of possible CPUs */
	__type(key, __u32);
	__type(value, struct exec_cpu);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* user space: bytes, a power of two of whole pages */
} ring SEC(".maps");

static __always_inline struct weir_event *reserve(struct task_struct *task, __u32 kind)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct exec_cpu *counters = bpf_map_lookup_elem(&cpus, &cpu);
	struct weir_event *event;

	if (!counters)
		return NULL;
	__sync_fetch_and_add(&counters->head.produced, 1);
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&counters->head.lost, 1);
		return NULL;
	}
	event->time_ns = bpf_ktime_get_boot_ns();
	event->lifetime_ns = 0;
	event->kind = kind;
	event->pid = task->tgid;
	event->ppid = task->real_parent->tgid;
	event->status = 0;
	event->uid = bpf_get_current_uid_gid();
	event->zero = 0;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	return event;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
	struct weir_event *event = reserve(task, WEIR_EVENT_EXEC);

	if (event)
		bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct weir_event *event;
	bool ends;

	/* Without the argument, the leader stands for the process: threads that end together cannot
	 * be told apart from the last one. */
	if (bpf_core_field_exists(struct trace_event_raw_sched_process_exit, group_dead))
		ends = ctx[1];
	else
		ends = task->pid == task->tgid;
	if (!ends)
		return 0;
	event = reserve(task, WEIR_EVENT_EXIT);
	if (!event)
		return 0;
	event->lifetime_ns = event->time_ns - task->group_leader->start_boottime;
	/* The rule of wait(2), kernel/exit.c wait_task_zombie(). */
	if (task->signal->flags & SIGNAL_GROUP_EXIT)
		event->status = task->signal->group_exit_code;
	else
		event->status = task->group_leader->exit_code;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
