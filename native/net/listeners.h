// The TCP sockets that listen, as sock_diag(7) tells them: what waits to be accepted, and what was turned
// away.
#ifndef WEIR_NET_LISTENERS_H_
#define WEIR_NET_LISTENERS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sock_diag.h"

namespace weir {

struct Listener {
  uint32_t port = 0;
  // Connections that wait to be accepted, and how many may.
  uint32_t queued = 0;
  uint32_t limit = 0;
  // Segments that were dropped here: connections for which there was no room, for the most part.
  uint32_t drops = 0;
};

// Reads one datagram of the kernel's answer, and adds what it tells to `into`. Pure.
Answer ReadListeners(std::span<const uint8_t> datagram, std::vector<Listener>* into);

// Asks the kernel, for this network namespace; needs no privilege. Returns 0 or a positive errno.
int AskListeners(std::vector<Listener>* into);

}  // namespace weir

#endif  // WEIR_NET_LISTENERS_H_
