// Any bytes as a datagram of sock_diag(7): read within its bounds, and no more rows than there is room for.
//
//   byte 0      rows of the table: byte % 8
//   the rest    the datagram
#include <cstdlib>
#include <vector>

#include "../../native/net/connections.h"
#include "../../native/net/listeners.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::vector<weir_connection> rows(data[0] % 8);
  // A copy of its own, so that reading past the end is seen.
  const std::vector<uint8_t> datagram(data + 1, data + size);
  weir::ConnectionTable table = {rows};
  const weir::Answer answer = weir::ReadConnections(datagram, &table);
  // A message has at least a header of 16 bytes.
  if (table.seen > datagram.size() / 16) std::abort();
  std::vector<weir::Listener> listeners;
  if (weir::ReadListeners(datagram, &listeners) != answer) std::abort();
  if (listeners.size() > table.seen) std::abort();
  return 0;
}
