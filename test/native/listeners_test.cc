// Answers of sock_diag: as the kernel gives them, cut off, and made up.
#include "../../native/net/listeners.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>

#include <cstring>
#include <random>
#include <vector>

#include "check.h"

namespace {

using weir::Answer;
using weir::Listener;
using weir::ReadListeners;

void Append(std::vector<uint8_t>* to, const void* bytes, size_t count) {
  const auto* from = static_cast<const uint8_t*>(bytes);
  to->insert(to->end(), from, from + count);
}

std::vector<uint8_t> Message(uint16_t port, uint32_t drops, bool done) {
  std::vector<uint8_t> all;
  inet_diag_msg head = {};
  head.idiag_state = 10;
  head.id.idiag_sport = htons(port);
  head.idiag_rqueue = 3;
  head.idiag_wqueue = 128;
  uint32_t memory[SK_MEMINFO_VARS] = {};
  memory[SK_MEMINFO_DROPS] = drops;
  const rtattr attribute = {sizeof(rtattr) + sizeof(memory), INET_DIAG_SKMEMINFO};
  nlmsghdr header = {};
  header.nlmsg_len = sizeof(header) + sizeof(head) + attribute.rta_len;
  header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  Append(&all, &header, sizeof(header));
  Append(&all, &head, sizeof(head));
  Append(&all, &attribute, sizeof(attribute));
  Append(&all, memory, sizeof(memory));
  if (done) {
    header.nlmsg_len = sizeof(header);
    header.nlmsg_type = NLMSG_DONE;
    Append(&all, &header, sizeof(header));
  }
  return all;
}

void a_listener_is_read_with_its_queue_and_drops() {
  std::vector<Listener> found;
  CHECK_EQ(ReadListeners(Message(1883, 7, true), &found) == Answer::kDone, true);
  CHECK_EQ(ReadListeners(Message(443, 0, false), &found) == Answer::kMore, true);
  CHECK_EQ(found.size(), 2);
  CHECK_EQ(found[0].port, 1883);
  CHECK_EQ(found[0].queued, 3);
  CHECK_EQ(found[0].limit, 128);
  CHECK_EQ(found[0].drops, 7);
}

void an_answer_cut_off_anywhere_is_no_whole_one() {
  const std::vector<uint8_t> whole = Message(1883, 7, true);
  for (size_t length = 1; length < whole.size(); ++length) {
    std::vector<Listener> found;
    const std::vector<uint8_t> part(whole.begin(), whole.begin() + static_cast<long>(length));
    CHECK_EQ(ReadListeners(part, &found) == Answer::kDone, false);
  }
}

void any_bytes_are_read_safely() {
  std::mt19937_64 random(7);
  for (int round = 0; round < 50000; ++round) {
    std::vector<uint8_t> bytes = Message(1, 1, true);
    for (int change = 0; change < 4; ++change)
      bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    bytes.resize(random() % (bytes.size() + 1));
    bytes.shrink_to_fit();
    std::vector<Listener> found;
    ReadListeners(bytes, &found);
    CHECK_EQ(found.size() <= 8, true);
  }
}

}  // namespace

int main() {
  RUN(a_listener_is_read_with_its_queue_and_drops);
  RUN(an_answer_cut_off_anywhere_is_no_whole_one);
  RUN(any_bytes_are_read_safely);
}
