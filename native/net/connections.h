// The TCP connections of this network namespace from sock_diag(7): what the iterator of bpf/connections.bpf.c
// gives, for whoever may not load it.
#ifndef WEIR_NET_CONNECTIONS_H_
#define WEIR_NET_CONNECTIONS_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "../bpf/layout.h"
#include "sock_diag.h"

namespace weir {

// A table with room for so many; `seen` counts on when it is full.
struct ConnectionTable {
  std::span<weir_connection> rows;
  size_t seen = 0;
};

// Reads one datagram of the kernel's answer. Pure.
Answer ReadConnections(std::span<const uint8_t> datagram, ConnectionTable* into);

// Asks the kernel; needs no privilege. Returns 0 or a positive errno.
int AskConnections(ConnectionTable* into);

}  // namespace weir

#endif  // WEIR_NET_CONNECTIONS_H_
