// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* On demand: how long system calls on sockets take, by process. Histograms: 0 connect, 1 accept, 2
 * send, 3 receive, in nanoseconds, waiting included. Slots: label: name, name, kind of call; value
 * 0 sum of nanoseconds, 1 calls, 2 those that failed.
 *
 * The start is kept by the low bits of the thread's id; two that share them overwrite each other,
 * which is seen and counted as lost.
 */
#include "syscall.bpf.h"

#define PLACES 16384
#define SLOTS  128
#define KINDS  4

struct task_struct {
	char comm[WEIR_COMM_LEN];
	struct task_struct *group_leader;
} __attribute__((preserve_access_index));

struct sockcalls_cpu {
	struct weir_head head;
	struct weir_hist hist[KINDS];
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct sockcalls_cpu);

struct started {
	__u64 ns;
	__u32 tid;
	__u32 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, struct started);
} calls SEC(".maps");

/* The kind of a call, or KINDS. Numbers of arch/x86/entry/syscalls/syscall_64.tbl and of
 * include/uapi/asm-generic/unistd.h. */
static __always_inline __u32 kind_of(long number)
{
	if (ON_ARM64) {
		switch (number) {
		case 203:
			return 0;
		case 202: /* accept */
		case 242: /* accept4 */
			return 1;
		case 206: /* sendto */
		case 211: /* sendmsg */
		case 269: /* sendmmsg */
			return 2;
		case 207: /* recvfrom */
		case 212: /* recvmsg */
		case 243: /* recvmmsg */
			return 3;
		}
		return KINDS;
	}
	switch (number) {
	case 42:
		return 0;
	case 43:
	case 288:
		return 1;
	case 44:
	case 46:
	case 307:
		return 2;
	case 45:
	case 47:
	case 299:
		return 3;
	}
	return KINDS;
}

SEC("tp_btf/sys_enter")
int on_enter(__u64 *ctx)
{
	__u32 kind = kind_of(ctx[1]), tid, key;
	struct started *call;

	if (kind >= KINDS)
		return 0;
	tid = bpf_get_current_pid_tgid();
	key = tid & (PLACES - 1);
	call = bpf_map_lookup_elem(&calls, &key);
	if (!call)
		return 0;
	call->tid = tid;
	call->kind = kind;
	call->ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sys_exit")
int on_exit(__u64 *ctx)
{
	__u32 tid = bpf_get_current_pid_tgid(), key = tid & (PLACES - 1), kind;
	struct sockcalls_cpu *cpu;
	struct started *call;
	struct weir_slot *slot;
	__u64 name[2] = {}, ns;

	call = bpf_map_lookup_elem(&calls, &key);
	if (!call || !call->ns)
		return 0;
	kind = kind_of(syscall_number((const void *)ctx[0]));
	if (kind >= KINDS)
		return 0;
	cpu = this_cpu(&cpus);
	if (!cpu)
		return 0;
	add(&cpu->head.produced, 1);
	if (call->tid != tid || call->kind != kind) {
		add(&cpu->head.lost, 1);
		return 0;
	}
	ns = bpf_ktime_get_ns() - call->ns;
	call->ns = 0;
	kind &= KINDS - 1;
	add(&cpu->head.sum_ns[kind], ns);
	add(&cpu->hist[kind].bucket[bucket_of(ns)], 1);
	READ_PROCESS_NAME(name);
	slot = slot_of(cpu->slots, SLOTS, name[0], name[1], kind + 1);
	add(&slot->value[0], ns);
	add(&slot->value[1], 1);
	if ((long)ctx[1] < 0)
		add(&slot->value[2], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
