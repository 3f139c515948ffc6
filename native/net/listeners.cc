#include "listeners.h"

#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>

#include <cstring>

namespace weir {
namespace {

constexpr int kListen = 10;  // TCP_LISTEN
constexpr size_t kMost = 4096;

void Take(std::span<const uint8_t> message, std::vector<Listener>* into) {
  inet_diag_msg head;
  if (message.size() < sizeof(head) || into->size() >= kMost) return;
  std::memcpy(&head, message.data(), sizeof(head));
  if (head.idiag_state != kListen) return;
  Listener listener = {ntohs(head.id.idiag_sport), head.idiag_rqueue, head.idiag_wqueue, 0};
  const std::span<const uint8_t> memory = SockDiagAttribute(message, INET_DIAG_SKMEMINFO);
  const size_t at = SK_MEMINFO_DROPS * sizeof(uint32_t);
  if (memory.size() >= at + sizeof(uint32_t))
    std::memcpy(&listener.drops, memory.data() + at, sizeof(uint32_t));
  into->push_back(listener);
}

}  // namespace

Answer ReadListeners(std::span<const uint8_t> datagram, std::vector<Listener>* into) {
  return ReadSockDiag(datagram, [into](std::span<const uint8_t> message) { Take(message, into); });
}

int AskListeners(std::vector<Listener>* into) {
  return AskSockDiag(1u << kListen, 1u << (INET_DIAG_SKMEMINFO - 1),
                     [into](std::span<const uint8_t> message) { Take(message, into); });
}

}  // namespace weir
