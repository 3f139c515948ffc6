// Rows of process events on memory that may hold anything.
#include "../../native/ring/process_rows.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"

namespace {

using weir::kEndRows;
using weir::kMostProcessEvents;
using weir::kRowBytes;
using weir::kStartRows;
using weir::ProcessMemory;
using weir::ProcessRows;

weir_event Event(uint32_t kind, const char* name) {
  weir_event event = {};
  event.time_ns = 5'000'000'499;
  event.lifetime_ns = 1'500'000'000;
  event.kind = kind;
  event.pid = 42;
  event.ppid = 0xffffffff;
  event.uid = 1000;
  std::memcpy(event.comm, name, std::strlen(name));
  return event;
}

// A block that is just long enough, so that a byte before or after it is seen by the sanitizer.
struct Block {
  explicit Block(size_t rows) : rows(rows), words((rows * kRowBytes + 7) / 8) {}
  // Columns begin at a multiple of eight bytes.
  std::span<uint8_t> bytes() { return {reinterpret_cast<uint8_t*>(words.data()), rows * kRowBytes}; }
  double time(size_t row) { return At<double>(row); }
  double value(size_t row) { return At<double>(rows + row); }
  uint32_t device(size_t row) { return At<uint32_t>(4 * rows + row); }
  uint32_t metric(size_t row) { return At<uint32_t>(5 * rows + row); }
  uint8_t kind(size_t row) { return At<uint8_t>(24 * rows + row); }
  uint8_t status(size_t row) { return At<uint8_t>(25 * rows + row); }

  template <typename T>
  T At(size_t index) {
    T value;
    std::memcpy(&value, bytes().data() + index * sizeof(T), sizeof(T));
    return value;
  }

  size_t rows;
  std::vector<uint64_t> words;
};

void an_event_is_the_rows_of_its_kind() {
  auto memory = std::make_unique<ProcessMemory>();
  memory->records[0].event = Event(WEIR_EVENT_EXIT, "sh");
  memory->records[0].event.status = 7 << 8;
  memory->records[1].event = Event(WEIR_EVENT_EXIT, "a name of 16 by.");
  memory->records[1].event.status = 0x80 | 11;
  memory->records[2].event = Event(WEIR_EVENT_EXEC, "sh");
  memory->count = 3;
  memory->offset_us = 1'000'000;
  ProcessRows rows;
  rows.Survey(*memory);
  CHECK_EQ(memory->starts, 1);
  CHECK_EQ(memory->ends, 2);
  CHECK_EQ(memory->names, 2);
  CHECK_EQ(memory->name_record[0], 0);
  CHECK_EQ(memory->name_record[1], 1);
  CHECK_EQ(rows.rows(), 2 * kEndRows + kStartRows);
  memory->name_text[0] = 7;
  memory->name_text[1] = 8;
  Block block(rows.rows());
  CHECK_EQ(rows.Write(*memory, block.bytes()), true);
  const unsigned expected[][3] = {
      {0, 3, 1}, {1, 1, 42}, {2, 1, 0xffffffff}, {3, 3, 7}, {4, 1, 1000}, {5, 1, 7},  {6, 0, 1},
      {0, 3, 1}, {1, 1, 42}, {2, 1, 0xffffffff}, {3, 3, 8}, {4, 1, 1000}, {7, 1, 11}, {6, 0, 1},
      {0, 3, 0}, {1, 1, 42}, {2, 1, 0xffffffff}, {3, 3, 7}, {4, 1, 1000}};
  for (size_t row = 0; row < rows.rows(); ++row) {
    CHECK_EQ(block.time(row), 6'000'000);
    CHECK_EQ(block.device(row), 0);
    CHECK_EQ(block.metric(row), expected[row][0]);
    CHECK_EQ(block.kind(row), expected[row][1]);
    CHECK_EQ(block.value(row), expected[row][2]);
    CHECK_EQ(block.status(row), 0);
  }
  CHECK_EQ(block.value(6) == 1.5, true);
}

void no_events_are_no_rows() {
  auto memory = std::make_unique<ProcessMemory>();
  ProcessRows rows;
  CHECK_EQ(rows.Write(*memory, {}), true);
  rows.Survey(*memory);
  CHECK_EQ(rows.rows(), 0);
  CHECK_EQ(rows.Write(*memory, {}), true);
}

void columns_that_do_not_fit_are_not_begun() {
  auto memory = std::make_unique<ProcessMemory>();
  memory->count = 1;
  ProcessRows rows;
  rows.Survey(*memory);
  std::vector<uint64_t> words(64, ~uint64_t{0});
  auto* const bytes = reinterpret_cast<uint8_t*>(words.data());
  CHECK_EQ(rows.Write(*memory, {bytes, kStartRows * kRowBytes - 1}), false);
  CHECK_EQ(rows.Write(*memory, {bytes, kStartRows * kRowBytes + 4}), false);
  CHECK_EQ(rows.Write(*memory, {}), false);
  for (const uint64_t word : words) CHECK_EQ(word, ~uint64_t{0});
  CHECK_EQ(rows.Write(*memory, {bytes, kStartRows * kRowBytes + 8}), true);
  CHECK_EQ(words[0], ~uint64_t{0});
}

void more_records_than_there_is_room_for_are_not_looked_at() {
  auto memory = std::make_unique<ProcessMemory>();
  memory->count = ~uint32_t{0};
  ProcessRows rows;
  rows.Survey(*memory);
  CHECK_EQ(rows.rows(), kMostProcessEvents * kStartRows);
}

// Any bytes, that change after they were looked at: every byte of the columns is written, none beside them,
// and metrics and kinds are always such as there are.
void any_memory_makes_whole_columns() {
  std::mt19937_64 random(20261121);
  auto memory = std::make_unique<ProcessMemory>();
  ProcessRows rows;
  for (int round = 0; round < 2000; ++round) {
    const auto fill = [&] {
      auto* const words = reinterpret_cast<uint64_t*>(memory.get());
      for (size_t i = 0; i < sizeof(ProcessMemory) / 8; ++i) words[i] = random();
    };
    fill();
    memory->count = static_cast<uint32_t>(random() % (kMostProcessEvents + 2));
    for (auto& record : memory->records) {
      record.event.kind = static_cast<uint32_t>(random() % 4);
      if (random() % 2) std::memcpy(record.event.comm, &memory->records[0].event.comm, WEIR_COMM_LEN);
    }
    rows.Survey(*memory);
    CHECK_EQ(rows.rows(), memory->starts * kStartRows + memory->ends * kEndRows);
    CHECK_EQ(memory->names <= std::min<size_t>(memory->count, kMostProcessEvents), true);
    for (size_t i = 0; i < memory->names; ++i) CHECK_EQ(memory->name_record[i] < kMostProcessEvents, true);
    fill();
    Block block(rows.rows());
    std::fill(block.words.begin(), block.words.end(), 0xeeeeeeeeeeeeeeee);
    const size_t unaligned = rows.rows() * kRowBytes % 8;
    CHECK_EQ(rows.Write(*memory, block.bytes()), true);
    for (size_t row = 0; row < rows.rows(); ++row) {
      CHECK_EQ(block.time(row) == block.time(row), true);
      CHECK_EQ(block.value(row) >= 0, true);
      CHECK_EQ(block.device(row), 0);
      CHECK_EQ(block.metric(row) < 8, true);
      CHECK_EQ(block.kind(row) == 0 || block.kind(row) == 1 || block.kind(row) == 3, true);
      CHECK_EQ(block.status(row), 0);
    }
    if (unaligned) CHECK_EQ(reinterpret_cast<uint8_t*>(block.words.data())[rows.rows() * kRowBytes], 0xee);
  }
}

}  // namespace

int main() {
  RUN(an_event_is_the_rows_of_its_kind);
  RUN(no_events_are_no_rows);
  RUN(columns_that_do_not_fit_are_not_begun);
  RUN(more_records_than_there_is_room_for_are_not_looked_at);
  RUN(any_memory_makes_whole_columns);
}
