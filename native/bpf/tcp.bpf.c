// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* TCP latency: histogram 0 is the time a connect() took (SYN_SENT to ESTABLISHED), histogram 1 the
 * smoothed round-trip time at each segment received on an established connection.
 *
 * A socket's start time is kept in its own storage and goes with it: nothing to bound or to clean.
 * Both programs may interrupt one another on a CPU, so they add atomically.
 */
#include "common.bpf.h"

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT	2
#define IPPROTO_TCP	6

struct sock {
	__u16 sk_protocol;
} __attribute__((preserve_access_index));

struct tcp_sock {
	__u32 srtt_us; /* eight times the smoothed value */
} __attribute__((preserve_access_index));

struct tcp_cpu {
	struct weir_head head;
	struct weir_hist connect;
	struct weir_hist rtt;
};

WEIR_CPUS(struct tcp_cpu);

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} started SEC(".maps");

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, int before, int after)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct tcp_cpu *counters = bpf_map_lookup_elem(&cpus, &cpu);
	__u64 ns, *start;

	if (!counters || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (after == TCP_SYN_SENT) {
		start = bpf_sk_storage_get(&started, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (start) {
			*start = bpf_ktime_get_ns();
		} else {
			__sync_fetch_and_add(&counters->head.produced, 1);
			__sync_fetch_and_add(&counters->head.lost, 1);
		}
		return 0;
	}
	if (before != TCP_SYN_SENT)
		return 0;
	start = bpf_sk_storage_get(&started, sk, 0, 0);
	if (!start)
		return 0;
	if (after == TCP_ESTABLISHED) {
		ns = bpf_ktime_get_ns() - *start;
		__sync_fetch_and_add(&counters->head.produced, 1);
		__sync_fetch_and_add(&counters->head.sum_ns[0], ns);
		__sync_fetch_and_add(&counters->connect.bucket[bucket_of(ns)], 1);
	}
	bpf_sk_storage_delete(&started, sk);
	return 0;
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(on_segment, struct sock *sk)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct tcp_cpu *counters = bpf_map_lookup_elem(&cpus, &cpu);
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	__u64 ns;

	if (!counters || !tcp)
		return 0;
	ns = (__u64)tcp->srtt_us * 125; /* an eighth, in nanoseconds */
	if (!ns)
		return 0;
	__sync_fetch_and_add(&counters->head.produced, 1);
	__sync_fetch_and_add(&counters->head.sum_ns[1], ns);
	__sync_fetch_and_add(&counters->rtt.bucket[bucket_of(ns)], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
