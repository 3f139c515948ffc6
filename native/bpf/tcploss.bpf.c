// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* TCP going wrong: segments sent again, resets sent and received, by the local port and the peer.
 *
 * A client's local port says nothing and there is one for each connection, so from FIRST_EPHEMERAL
 * on it is left out, and the peer's port stands instead. Slots: label: peer address (IPv4 mapped
 * into IPv6), local port | peer's port << 16; value 0 sent again, 1 resets sent, 2 resets received.
 */
#include "common.bpf.h"

#define AF_INET6	10
#define FIRST_EPHEMERAL 32768
#define SLOTS		128

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
} __attribute__((preserve_access_index));

struct tcploss_cpu {
	struct weir_head head;
	struct weir_slot slots[SLOTS + 1];
};

WEIR_CPUS(struct tcploss_cpu);

static __always_inline int count(const struct sock *sk, int what)
{
	struct tcploss_cpu *cpu = this_cpu(&cpus);
	__u64 address[2] = {}, ports;
	__u32 port, v4;
	struct weir_slot *slot;

	if (!cpu)
		return 0;
	add(&cpu->head.produced, 1);
	if (!sk) { /* a reset to nobody's segment: no socket to ask */
		slot = slot_of(cpu->slots, SLOTS, 0, 0, 0);
		add(&slot->value[what], 1);
		return 0;
	}
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		bpf_core_read(address, sizeof(address), &sk->__sk_common.skc_v6_daddr);
	} else {
		v4 = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		if (v4)
			address[1] = (__u64)v4 << 32 | 0xffff0000;
	}
	port = BPF_CORE_READ(sk, __sk_common.skc_num);
	if (port < FIRST_EPHEMERAL)
		ports = port;
	else
		ports = (__u64)__builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport)) << 16;
	slot = slot_of(cpu->slots, SLOTS, address[0], address[1], ports);
	add(&slot->value[what], 1);
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int on_retransmit(__u64 *ctx)
{
	return count((const struct sock *)ctx[0], 0);
}

SEC("tp_btf/tcp_send_reset")
int on_reset_sent(__u64 *ctx)
{
	return count((const struct sock *)ctx[0], 1);
}

SEC("tp_btf/tcp_receive_reset")
int on_reset_received(__u64 *ctx)
{
	return count((const struct sock *)ctx[0], 2);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
