// Any bytes as the records of processes: every row is whole, and nothing is written beside the columns.
//
//   byte 0      how many records, and how many more bytes there are before the columns
//   the rest    the shared memory's bytes, again and again; the second half of them after the look
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../../native/ring/process_rows.h"

namespace {

void Check(bool held) {
  if (!held) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const uint32_t count = data[0];
  ++data;
  --size;
  const auto memory = std::make_unique<weir::ProcessMemory>();
  const auto fill = [&](const uint8_t* from, size_t bytes) {
    auto* const to = reinterpret_cast<uint8_t*>(memory.get());
    for (size_t at = 0; at < sizeof(weir::ProcessMemory); at += bytes)
      std::memcpy(to + at, from, std::min(bytes, sizeof(weir::ProcessMemory) - at));
  };
  weir::ProcessRows rows;
  for (int call = 0; call < 2; ++call) {
    fill(data, size);
    memory->count = count * 2;
    rows.Survey(*memory);
    Check(rows.rows() == memory->starts * weir::kStartRows + memory->ends * weir::kEndRows);
    Check(memory->names <= weir::kMostProcessEvents);
    fill(data + size / 2, size - size / 2);

    const size_t head = 8 * (count % 8);
    const size_t bytes = rows.rows() * weir::kRowBytes;
    std::vector<uint64_t> block((head + bytes + 7) / 8, ~uint64_t{0});
    auto* const start = reinterpret_cast<uint8_t*>(block.data());
    Check(rows.Write(*memory, {start, head + bytes}));
    for (size_t i = 0; i < head / 8; ++i) Check(block[i] == ~uint64_t{0});
    const uint8_t* const metric = start + head + 20 * rows.rows();
    for (size_t row = 0; row < rows.rows(); ++row) {
      uint32_t index;
      std::memcpy(&index, metric + 4 * row, 4);
      Check(index < 8);
      Check(start[head + 24 * rows.rows() + row] <= 3);
      Check(start[head + 25 * rows.rows() + row] == 0);
    }
  }
  return 0;
}
