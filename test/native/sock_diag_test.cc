// Answers of sock_diag: as the kernel gives them, cut off, and made up.
#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "../../native/net/connections.h"
#include "../../native/net/listeners.h"
#include "check.h"

namespace {

using weir::Answer;
using weir::ConnectionTable;
using weir::Listener;
using weir::ReadConnections;
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

// An established connection of IPv4, 10.0.0.1:443 to 10.0.0.2:50000.
std::vector<uint8_t> Connection(size_t info_bytes) {
  std::vector<uint8_t> all;
  inet_diag_msg head = {};
  head.idiag_family = AF_INET;
  head.idiag_state = 1;
  head.id.idiag_sport = htons(443);
  head.id.idiag_dport = htons(50000);
  head.id.idiag_src[0] = htonl(0x0a000001);
  head.id.idiag_dst[0] = htonl(0x0a000002);
  head.idiag_rqueue = 5;
  head.idiag_wqueue = 6;
  head.idiag_uid = 1000;
  tcp_info info = {};
  info.tcpi_rtt = 1234;
  info.tcpi_total_retrans = 7;
  const rtattr attribute = {static_cast<uint16_t>(sizeof(rtattr) + info_bytes), INET_DIAG_INFO};
  nlmsghdr header = {};
  header.nlmsg_len = sizeof(header) + sizeof(head) + attribute.rta_len;
  header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  Append(&all, &header, sizeof(header));
  Append(&all, &head, sizeof(head));
  Append(&all, &attribute, sizeof(attribute));
  Append(&all, &info, std::min(info_bytes, sizeof(info)));
  all.resize(header.nlmsg_len);
  return all;
}

void a_connection_is_read_whatever_the_size_of_tcp_info() {
  for (const size_t info_bytes : {size_t{0}, size_t{104}, sizeof(tcp_info), sizeof(tcp_info) + 64}) {
    weir_connection row = {};
    ConnectionTable table = {{&row, 1}};
    CHECK_EQ(ReadConnections(Connection(info_bytes), &table) == Answer::kMore, true);
    CHECK_EQ(table.seen, 1);
    CHECK_EQ(row.local[0], 0);
    CHECK_EQ(row.local[1], 0x0100000affff0000);
    CHECK_EQ(row.peer[1], 0x0200000affff0000);
    CHECK_EQ(row.local_port, 443);
    CHECK_EQ(row.peer_port, 50000);
    CHECK_EQ(row.receive_queue, 5);
    CHECK_EQ(row.send_queue, 6);
    CHECK_EQ(row.uid, 1000);
    CHECK_EQ(row.rtt_us, info_bytes == 0 ? 0 : 1234);
    CHECK_EQ(row.retransmits, info_bytes == 0 ? 0 : 7);
  }
}

void what_has_no_room_in_the_table_is_counted() {
  weir_connection rows[2] = {};
  ConnectionTable table = {{rows, 2}};
  for (int i = 0; i < 5; ++i) ReadConnections(Connection(104), &table);
  CHECK_EQ(table.seen, 5);
  CHECK_EQ(rows[1].local_port, 443);
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
    weir_connection row = {};
    ConnectionTable table = {{&row, 1}};
    ReadConnections(bytes, &table);
  }
}

}  // namespace

int main() {
  RUN(a_listener_is_read_with_its_queue_and_drops);
  RUN(a_connection_is_read_whatever_the_size_of_tcp_info);
  RUN(what_has_no_room_in_the_table_is_counted);
  RUN(an_answer_cut_off_anywhere_is_no_whole_one);
  RUN(any_bytes_are_read_safely);
}
