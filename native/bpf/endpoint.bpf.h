/* The labels of a TCP connection. SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
 *
 * label: peer address (IPv4 mapped into IPv6), local port | peer's port << 16. A client's local
 * port says nothing and there is one for each connection, so from FIRST_EPHEMERAL on it is left
 * out, and the peer's port stands instead; unless somebody listened there: a connection that was
 * accepted has the listener's limit of those that wait, a client's has none.
 */
#ifndef WEIR_ENDPOINT_BPF_H
#define WEIR_ENDPOINT_BPF_H

#include "common.bpf.h"

#define AF_INET6	10
#define FIRST_EPHEMERAL 32768

struct endpoint {
	__u64 address[2];
	__u64 ports;
};

/* `port`: the local one; `peer_port` in network byte order. The address of IPv4 alone. */
static __always_inline void label_endpoint(struct endpoint *to, __u32 v4, __u32 port,
					   __u16 peer_port, bool accepted)
{
	if (v4)
		to->address[1] = (__u64)v4 << 32 | 0xffff0000;
	if (accepted || port < FIRST_EPHEMERAL)
		to->ports = port;
	else
		to->ports = (__u64)__builtin_bswap16(peer_port) << 16;
}

#endif
