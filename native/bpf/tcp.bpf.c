// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* TCP latency: histogram 0 is the time a connect() took (SYN_SENT to ESTABLISHED), histogram 1 the
 * smoothed round-trip time at segments received on an established connection: its first eight, then
 * one in each jiffy that has any. Slots: labels of endpoint.bpf.h; value 0 sum of connect times, 1
 * their number, 2 and 3 the same of round trips.
 *
 * A socket's start time is kept in its own storage and goes with it: nothing to bound or to clean.
 * Both programs may interrupt one another on a CPU, so they add atomically.
 */
#include "endpoint.bpf.h"

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT	2
#define IPPROTO_TCP	6
#define SLOTS		128
#define FIRST_SEGMENTS	8

struct sock_common {
	__u32 skc_daddr;
	__u16 skc_dport; /* network byte order */
	__u16 skc_num;
	__u16 skc_family;
	struct {
		unsigned char bytes[16];
	} skc_v6_daddr;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	__u32 sk_max_ack_backlog;
} __attribute__((preserve_access_index));

struct inet_connection_sock {
	struct {
		__u32 lrcvtime; /* jiffies at the last segment with data before this one */
	} icsk_ack;
} __attribute__((preserve_access_index));

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 srtt_us;	  /* eight times the smoothed value */
	__u32 rcv_tstamp; /* jiffies at the last acknowledgement before this segment */
	__u32 segs_in;
} __attribute__((preserve_access_index));

struct tcp_cpu {
	struct weir_head head;
	struct weir_hist connect;
	struct weir_hist rtt;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct tcp_cpu);

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} started SEC(".maps");

static __always_inline struct weir_slot *slot_for(struct tcp_cpu *cpu, struct sock *sk)
{
	struct endpoint end = {};
	__u32 v4 = 0;

	if (sk->__sk_common.skc_family == AF_INET6) {
		const __u64 *v6 = (const __u64 *)&sk->__sk_common.skc_v6_daddr;

		end.address[0] = v6[0];
		end.address[1] = v6[1];
	} else {
		v4 = sk->__sk_common.skc_daddr;
	}
	label_endpoint(&end, v4, sk->__sk_common.skc_num, sk->__sk_common.skc_dport,
		       sk->sk_max_ack_backlog);
	return slot_of(cpu->slots, SLOTS, end.address[0], end.address[1], end.ports);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, int before, int after)
{
	struct tcp_cpu *counters = this_cpu(&cpus);
	struct weir_slot *slot;
	__u64 ns, *start;

	if (!counters || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (after == TCP_SYN_SENT) {
		start = bpf_sk_storage_get(&started, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (start) {
			*start = bpf_ktime_get_ns();
		} else {
			add(&counters->head.produced, 1);
			add(&counters->head.lost, 1);
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
		add(&counters->head.produced, 1);
		add(&counters->head.sum_ns[0], ns);
		add(&counters->connect.bucket[bucket_of(ns)], 1);
		slot = slot_for(counters, sk);
		add(&slot->value[0], ns);
		add(&slot->value[1], 1);
	}
	bpf_sk_storage_delete(&started, sk);
	return 0;
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(on_segment, struct sock *sk)
{
	struct tcp_cpu *counters = this_cpu(&cpus);
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct weir_slot *slot;
	__u32 jiffy = bpf_jiffies64();
	__u64 ns;

	if (!counters || !tcp)
		return 0;
	if ((tcp->rcv_tstamp == jiffy || tcp->inet_conn.icsk_ack.lrcvtime == jiffy) &&
	    tcp->segs_in > FIRST_SEGMENTS)
		return 0;
	ns = (__u64)tcp->srtt_us * 125; /* an eighth, in nanoseconds */
	if (!ns)
		return 0;
	add(&counters->head.produced, 1);
	add(&counters->head.sum_ns[1], ns);
	add(&counters->rtt.bucket[bucket_of(ns)], 1);
	slot = slot_for(counters, sk);
	add(&slot->value[2], ns);
	add(&slot->value[3], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
