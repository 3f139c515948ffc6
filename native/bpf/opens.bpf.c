// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* On demand: files that are opened, by process and outcome, and each as an event with the path.
 * Slots: label: name, name; value 0 opened, 1 refused because there was none, 2 because of
 * permissions, 3 otherwise.
 *
 * An event is three records: one as of a process, whose status is the descriptor or the negative
 * error, and two WEIR_EVENT_TEXT with the path's first bytes. Each record counts as produced, and
 * as lost when there is no room.
 */
#include "syscall.bpf.h"

#define SLOTS  128
#define ENOENT 2
#define EPERM  1
#define EACCES 13

struct task_struct {
	char comm[WEIR_COMM_LEN];
	struct task_struct *group_leader;
} __attribute__((preserve_access_index));

struct opens_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct opens_cpu);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* user space: bytes, a power of two of whole pages */
} ring SEC(".maps");

/* The path of a call that opens a file, else null. */
static __always_inline const char *path_of(const void *regs)
{
	long number = syscall_number(regs);

	if (ON_ARM64) {
		if (number == 56 || number == 437) /* openat, openat2 */
			return (const char *)BPF_CORE_READ((const struct pt_regs___arm64 *)regs,
							   regs[1]);
		return NULL;
	}
	if (number == 257 || number == 437)
		return (const char *)BPF_CORE_READ((const struct pt_regs___x64 *)regs, si);
	if (number == 2 || number == 85) /* open, creat */
		return (const char *)BPF_CORE_READ((const struct pt_regs___x64 *)regs, di);
	return NULL;
}

static __always_inline void *reserve(struct opens_cpu *cpu)
{
	void *record;

	add(&cpu->head.produced, 1);
	record = bpf_ringbuf_reserve(&ring, sizeof(struct weir_event), 0);
	if (!record)
		add(&cpu->head.lost, 1);
	return record;
}

static __always_inline void put_text(struct opens_cpu *cpu, __u64 now, __u32 tid, __u32 part,
				     const char *text)
{
	struct weir_text *record = reserve(cpu);

	if (!record)
		return;
	record->time_ns = now;
	record->part = part;
	record->kind = WEIR_EVENT_TEXT;
	record->tid = tid;
	__builtin_memcpy(record->text, text, sizeof(record->text));
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

SEC("tp_btf/sys_exit")
int on_exit(__u64 *ctx)
{
	const char *path = path_of((const void *)ctx[0]);
	char text[2 * WEIR_TEXT_BYTES] = {};
	struct weir_event *event;
	struct opens_cpu *cpu;
	struct weir_slot *slot;
	long result = ctx[1];
	__u64 name[2] = {}, id, now;

	if (!path)
		return 0;
	cpu = this_cpu(&cpus);
	if (!cpu)
		return 0;
	id = bpf_get_current_pid_tgid();
	READ_PROCESS_NAME(name);
	slot = slot_of(cpu->slots, SLOTS, name[0], name[1], 0);
	if (result >= 0)
		add(&slot->value[0], 1);
	else if (result == -ENOENT)
		add(&slot->value[1], 1);
	else if (result == -EPERM || result == -EACCES)
		add(&slot->value[2], 1);
	else
		add(&slot->value[3], 1);
	bpf_probe_read_user_str(text, sizeof(text), path);
	now = bpf_ktime_get_boot_ns();
	put_text(cpu, now, id, 0, text);
	put_text(cpu, now, id, 1, text + WEIR_TEXT_BYTES);
	event = reserve(cpu);
	if (!event)
		return 0;
	event->time_ns = now;
	event->lifetime_ns = 0;
	event->kind = WEIR_EVENT_OPEN;
	event->pid = id >> 32;
	event->ppid = id;
	event->status = result;
	event->uid = bpf_get_current_uid_gid();
	event->zero = 0;
	__builtin_memcpy(event->comm, name, sizeof(name));
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
