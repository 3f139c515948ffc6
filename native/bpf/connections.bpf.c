// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* On demand: the TCP connections of this network namespace, one `struct weir_connection` each, in
 * the order of the kernel's tables: those that listen, then those by hash. An iterator: it runs
 * when it is read, and costs nothing in between.
 *
 * What is only half there (a handshake on the server's side, a connection in TIME_WAIT) has
 * addresses and state, and zeros for the rest.
 */
#include "common.bpf.h"

#define AF_INET6   10
#define TCP_LISTEN 10

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct in6 {
	__u64 half[2];
};

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport; /* network byte order */
	__u16 skc_num;
	__u16 skc_family;
	unsigned char skc_state;
	struct in6 skc_v6_daddr;
	struct in6 skc_v6_rcv_saddr;
} __attribute__((preserve_access_index));

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
	__u32 uid;
} __attribute__((preserve_access_index));

struct sock {
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
} __attribute__((preserve_access_index));

struct tcp_sock {
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 write_seq;
	__u32 snd_una;
	__u32 total_retrans;
	__u32 srtt_us; /* eight times the smoothed value */
} __attribute__((preserve_access_index));

static __always_inline void address(__u64 *to, __u32 v4)
{
	to[1] = (__u64)v4 << 32 | 0xffff0000; /* mapped into IPv6 */
}

SEC("iter/tcp")
int on_connection(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct weir_connection row = {};
	struct tcp_sock *tcp;
	struct sock *sk;
	__s32 unread;

	if (!common) /* the end */
		return 0;
	if (common->skc_family == AF_INET6) {
		row.local[0] = common->skc_v6_rcv_saddr.half[0];
		row.local[1] = common->skc_v6_rcv_saddr.half[1];
		row.peer[0] = common->skc_v6_daddr.half[0];
		row.peer[1] = common->skc_v6_daddr.half[1];
	} else {
		address(row.local, common->skc_rcv_saddr);
		address(row.peer, common->skc_daddr);
	}
	row.local_port = common->skc_num;
	row.peer_port = __builtin_bswap16(common->skc_dport);
	row.state = common->skc_state;
	row.uid = ctx->uid;
	tcp = bpf_skc_to_tcp_sock(common);
	if (tcp && row.state == TCP_LISTEN) {
		sk = (struct sock *)tcp;
		row.receive_queue = sk->sk_ack_backlog;
		row.send_queue = sk->sk_max_ack_backlog;
	} else if (tcp) {
		/* The two are read one after the other. */
		unread = tcp->rcv_nxt - tcp->copied_seq;
		row.receive_queue = unread > 0 ? unread : 0;
		row.send_queue = tcp->write_seq - tcp->snd_una;
		row.retransmits = tcp->total_retrans;
		row.rtt_us = tcp->srtt_us >> 3;
	}
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
