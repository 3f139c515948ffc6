#include "connections.h"

#include <linux/inet_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

namespace weir {
namespace {

constexpr int kListen = 10;              // TCP_LISTEN
constexpr uint32_t kAllStates = 0x1fff;  // 1 (TCP_ESTABLISHED) to 12 (TCP_NEW_SYN_RECV)

// IPv4 mapped into IPv6.
void CopyAddress(uint8_t family, const uint32_t (&from)[4], __u64 (&to)[2]) {
  if (family == AF_INET6)
    std::memcpy(to, from, sizeof(to));
  else
    to[1] = __u64{from[0]} << 32 | 0xffff0000;
}

void Take(std::span<const uint8_t> message, ConnectionTable* into) {
  inet_diag_msg head;
  if (message.size() < sizeof(head)) return;
  if (into->seen++ >= into->rows.size()) return;
  std::memcpy(&head, message.data(), sizeof(head));
  weir_connection& row = into->rows[into->seen - 1];
  row = {};
  CopyAddress(head.idiag_family, head.id.idiag_src, row.local);
  CopyAddress(head.idiag_family, head.id.idiag_dst, row.peer);
  row.local_port = ntohs(head.id.idiag_sport);
  row.peer_port = ntohs(head.id.idiag_dport);
  row.state = head.idiag_state;
  row.receive_queue = head.idiag_rqueue;
  row.send_queue = head.idiag_wqueue;
  row.uid = head.idiag_uid;
  if (row.state == kListen) return;
  tcp_info info = {};
  const std::span<const uint8_t> said = SockDiagAttribute(message, INET_DIAG_INFO);
  if (!said.empty()) std::memcpy(&info, said.data(), std::min(said.size(), sizeof(info)));
  row.retransmits = info.tcpi_total_retrans;
  row.rtt_us = info.tcpi_rtt;
}

}  // namespace

Answer ReadConnections(std::span<const uint8_t> datagram, ConnectionTable* into) {
  return ReadSockDiag(datagram, [into](std::span<const uint8_t> message) { Take(message, into); });
}

int AskConnections(ConnectionTable* into) {
  return AskSockDiag(kAllStates, 1u << (INET_DIAG_INFO - 1),
                     [into](std::span<const uint8_t> message) { Take(message, into); });
}

}  // namespace weir
