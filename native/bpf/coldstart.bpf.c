// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* How long a service takes to be of use: from exec to its first listening TCP socket, and to the
 * first connection that is established on that port.
 *
 * `started` has the time of exec by the low bits of the pid, until the process listens; `ports` has
 * it by the low bits of the port, until somebody connects. What collides is overwritten: the
 * earlier one is not reported. Slots: label: name, name, port; value 0 sum of nanoseconds until
 * listening, 1 how often, 2 and 3 the same until the first connection.
 */
#include "common.bpf.h"

#define IPPROTO_TCP	6
#define TCP_ESTABLISHED 1
#define TCP_SYN_RECV	3
#define TCP_LISTEN	10
#define PIDS		16384
#define PORTS		1024
#define SLOTS		64

struct sock_common {
	__u16 skc_num;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} __attribute__((preserve_access_index));

struct task_struct {
	int tgid;
	char comm[WEIR_COMM_LEN];
	struct task_struct *group_leader;
} __attribute__((preserve_access_index));

struct start {
	__u64 ns; /* 0: none */
	__u64 owner;
	__u64 name[2];
};

struct coldstart_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct coldstart_cpu);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PIDS);
	__type(key, __u32);
	__type(value, __u64[2]); /* when, pid */
} started SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, __u32);
	__type(value, struct start);
} ports SEC(".maps");

SEC(TP "sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
	__u32 pid = READ(task, tgid), key = pid & (PIDS - 1);
	__u64 *entry = bpf_map_lookup_elem(&started, &key);

	if (entry) {
		entry[0] = bpf_ktime_get_ns();
		entry[1] = pid;
	}
	return 0;
}

SEC(TP "inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, int before, int after)
{
	__u32 pid, key, port;
	struct coldstart_cpu *cpu;
	struct weir_slot *slot;
	struct start *entry;
	__u64 *exec, ns;

	if (after == TCP_LISTEN) {
		if (READ(sk, sk_protocol) != IPPROTO_TCP)
			return 0;
		pid = bpf_get_current_pid_tgid() >> 32;
		key = pid & (PIDS - 1);
		exec = bpf_map_lookup_elem(&started, &key);
		cpu = this_cpu(&cpus);
		port = READ(sk, __sk_common.skc_num);
		key = port & (PORTS - 1);
		entry = bpf_map_lookup_elem(&ports, &key);
		if (!exec || !entry || !cpu || !exec[0] || exec[1] != pid)
			return 0;
		ns = exec[0];
		exec[0] = 0;
		entry->name[0] = entry->name[1] = 0;
		READ_PROCESS_NAME(entry->name);
		entry->owner = port;
		entry->ns = ns;
		slot = slot_of(cpu->slots, SLOTS, entry->name[0], entry->name[1], port);
		add(&cpu->head.produced, 1);
		add(&slot->value[0], bpf_ktime_get_ns() - ns);
		add(&slot->value[1], 1);
	} else if (before == TCP_SYN_RECV && after == TCP_ESTABLISHED) {
		port = READ(sk, __sk_common.skc_num);
		key = port & (PORTS - 1);
		entry = bpf_map_lookup_elem(&ports, &key);
		if (!entry || !entry->ns || entry->owner != port)
			return 0;
		ns = __sync_lock_test_and_set(&entry->ns, 0);
		cpu = this_cpu(&cpus);
		if (!ns || !cpu)
			return 0;
		slot = slot_of(cpu->slots, SLOTS, entry->name[0], entry->name[1], port);
		add(&cpu->head.produced, 1);
		add(&slot->value[2], bpf_ktime_get_ns() - ns);
		add(&slot->value[3], 1);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
