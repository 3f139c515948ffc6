// TCP sockets of this network namespace as sock_diag(7) tells them; needs no privilege. Reading is pure.
#ifndef WEIR_NET_SOCK_DIAG_H_
#define WEIR_NET_SOCK_DIAG_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace weir {

enum class Answer { kMore, kDone, kFailed };

// Takes one socket: an inet_diag_msg, then attributes. May be cut off.
using TakeSocket = std::function<void(std::span<const uint8_t> message)>;

// Hands out the sockets of one datagram of the kernel's answer.
Answer ReadSockDiag(std::span<const uint8_t> datagram, const TakeSocket& take);

// The value of the first attribute of this type behind the message's head; empty when there is none.
std::span<const uint8_t> SockDiagAttribute(std::span<const uint8_t> message, uint16_t type);

// Asks for sockets of IPv4 and IPv6 in these states (a bit each), with these INET_DIAG_ extensions (a bit
// each). Returns 0 or a positive errno.
int AskSockDiag(uint32_t states, uint8_t extensions, const TakeSocket& take);

}  // namespace weir

#endif  // WEIR_NET_SOCK_DIAG_H_
