#include "sock_diag.h"

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
#include <vector>

namespace weir {
namespace {

size_t Aligned(size_t length) { return (length + 3) & ~size_t{3}; }

int AskFamily(int socket, uint8_t family, uint32_t states, uint8_t extensions, const TakeSocket& take) {
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } question = {};
  question.header.nlmsg_len = sizeof(question);
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  question.request.sdiag_family = family;
  question.request.sdiag_protocol = IPPROTO_TCP;
  question.request.idiag_states = states;
  question.request.idiag_ext = extensions;
  if (send(socket, &question, sizeof(question), 0) != static_cast<ssize_t>(sizeof(question))) return errno;
  std::vector<uint8_t> buffer(32768);
  for (;;) {
    const ssize_t length = recv(socket, buffer.data(), buffer.size(), 0);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) return errno;
    switch (ReadSockDiag({buffer.data(), static_cast<size_t>(length)}, take)) {
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

Answer ReadSockDiag(std::span<const uint8_t> datagram, const TakeSocket& take) {
  while (datagram.size() >= sizeof(nlmsghdr)) {
    nlmsghdr header;
    std::memcpy(&header, datagram.data(), sizeof(header));
    if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > datagram.size()) return Answer::kFailed;
    if (header.nlmsg_type == NLMSG_DONE) return Answer::kDone;
    if (header.nlmsg_type == NLMSG_ERROR) return Answer::kFailed;
    if (header.nlmsg_type == SOCK_DIAG_BY_FAMILY)
      take(datagram.subspan(sizeof(header), header.nlmsg_len - sizeof(header)));
    datagram = datagram.subspan(std::min(datagram.size(), Aligned(header.nlmsg_len)));
  }
  return datagram.empty() ? Answer::kMore : Answer::kFailed;
}

std::span<const uint8_t> SockDiagAttribute(std::span<const uint8_t> message, uint16_t type) {
  std::span<const uint8_t> rest = message.subspan(std::min(message.size(), Aligned(sizeof(inet_diag_msg))));
  while (rest.size() >= sizeof(rtattr)) {
    rtattr attribute;
    std::memcpy(&attribute, rest.data(), sizeof(attribute));
    if (attribute.rta_len < sizeof(attribute) || attribute.rta_len > rest.size()) break;
    if (attribute.rta_type == type)
      return rest.subspan(sizeof(attribute), attribute.rta_len - sizeof(attribute));
    rest = rest.subspan(std::min(rest.size(), Aligned(attribute.rta_len)));
  }
  return {};
}

int AskSockDiag(uint32_t states, uint8_t extensions, const TakeSocket& take) {
  const int diag = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (diag < 0) return errno;
  const timeval patience = {1, 0};
  setsockopt(diag, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  int error = AskFamily(diag, AF_INET, states, extensions, take);
  if (error == 0) error = AskFamily(diag, AF_INET6, states, extensions, take);
  close(diag);
  return error;
}

}  // namespace weir
