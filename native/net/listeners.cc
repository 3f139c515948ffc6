#include "listeners.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace weir {
namespace {

constexpr int kListen = 10;  // TCP_LISTEN
constexpr size_t kMost = 4096;

size_t Aligned(size_t length) { return (length + 3) & ~size_t{3}; }

// One message of SOCK_DIAG_BY_FAMILY, without its netlink header.
void ReadOne(std::span<const uint8_t> message, std::vector<Listener>* into) {
  inet_diag_msg head;
  if (message.size() < sizeof(head) || into->size() >= kMost) return;
  std::memcpy(&head, message.data(), sizeof(head));
  if (head.idiag_state != kListen) return;
  Listener listener = {ntohs(head.id.idiag_sport), head.idiag_rqueue, head.idiag_wqueue, 0};
  for (std::span<const uint8_t> rest = message.subspan(Aligned(sizeof(head)));
       rest.size() >= sizeof(rtattr);) {
    rtattr attribute;
    std::memcpy(&attribute, rest.data(), sizeof(attribute));
    if (attribute.rta_len < sizeof(attribute) || attribute.rta_len > rest.size()) break;
    const size_t at = sizeof(attribute) + SK_MEMINFO_DROPS * sizeof(uint32_t);
    if (attribute.rta_type == INET_DIAG_SKMEMINFO && attribute.rta_len >= at + sizeof(uint32_t))
      std::memcpy(&listener.drops, rest.data() + at, sizeof(uint32_t));
    rest = rest.subspan(std::min(rest.size(), Aligned(attribute.rta_len)));
  }
  into->push_back(listener);
}

int AskFamily(int socket, uint8_t family, std::vector<Listener>* into) {
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } question = {};
  question.header.nlmsg_len = sizeof(question);
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  question.request.sdiag_family = family;
  question.request.sdiag_protocol = IPPROTO_TCP;
  question.request.idiag_states = 1u << kListen;
  question.request.idiag_ext = 1u << (INET_DIAG_SKMEMINFO - 1);
  if (send(socket, &question, sizeof(question), 0) != static_cast<ssize_t>(sizeof(question))) return errno;
  std::vector<uint8_t> buffer(32768);
  for (;;) {
    const ssize_t length = recv(socket, buffer.data(), buffer.size(), 0);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) return errno;
    switch (ReadListeners({buffer.data(), static_cast<size_t>(length)}, into)) {
      case Answer::kMore:
        continue;
      case Answer::kDone:
        return 0;
      case Answer::kFailed:
        return EPROTO;
    }
  }
}

}  // namespace

Answer ReadListeners(std::span<const uint8_t> datagram, std::vector<Listener>* into) {
  while (datagram.size() >= sizeof(nlmsghdr)) {
    nlmsghdr header;
    std::memcpy(&header, datagram.data(), sizeof(header));
    if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > datagram.size()) return Answer::kFailed;
    if (header.nlmsg_type == NLMSG_DONE) return Answer::kDone;
    if (header.nlmsg_type == NLMSG_ERROR) return Answer::kFailed;
    if (header.nlmsg_type == SOCK_DIAG_BY_FAMILY)
      ReadOne(datagram.subspan(sizeof(header), header.nlmsg_len - sizeof(header)), into);
    datagram = datagram.subspan(std::min(datagram.size(), Aligned(header.nlmsg_len)));
  }
  return datagram.empty() ? Answer::kMore : Answer::kFailed;
}

int AskListeners(std::vector<Listener>* into) {
  const int diag = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (diag < 0) return errno;
  const timeval patience = {1, 0};
  setsockopt(diag, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  int error = AskFamily(diag, AF_INET, into);
  if (error == 0) error = AskFamily(diag, AF_INET6, into);
  close(diag);
  return error;
}

}  // namespace weir
