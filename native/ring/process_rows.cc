#include "process_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace weir {
namespace {

// Kinds of values in docs/specs/frame.md.
constexpr uint8_t kNumber = 0;
constexpr uint8_t kInteger = 1;
constexpr uint8_t kText = 3;

// An event's rows: event.name, pid, parent, name, user; of an end also code or signal, and uptime.
constexpr uint8_t kKinds[] = {kText, kInteger, kInteger, kText, kInteger, kInteger, kNumber};
constexpr uint32_t kMetricsWithCode[] = {0, 1, 2, 3, 4, 5, 6};
constexpr uint32_t kMetricsWithSignal[] = {0, 1, 2, 3, 4, 7, 6};
constexpr double kStartText = 0;
constexpr double kEndText = 1;
static_assert(std::size(kKinds) == kEndRows && std::size(kMetricsWithCode) == kEndRows &&
              std::size(kMetricsWithSignal) == kEndRows);

using Name = std::array<uint64_t, 2>;
static_assert(sizeof(Name) == WEIR_COMM_LEN);

Name NameOf(const ProcessRecord& record) {
  Name name;
  std::memcpy(&name, record.event.comm, sizeof(name));
  return name;
}

// Not ==, which compares bytes in a loop.
bool Same(const Name& a, const Name& b) { return a[0] == b[0] && a[1] == b[1]; }

uint8_t HashOf(const Name& name) {
  return static_cast<uint8_t>(((name[0] ^ name[1] * 0x9e3779b97f4a7c15) * 0xd6e8feb86659fd93) >> 56);
}

// Where an event's rows go.
struct Columns {
  double* time;
  double* value;
  uint32_t* metric;
  uint8_t* kind;
};

}  // namespace

void ProcessRows::Survey(ProcessMemory& memory) {
  count_ = std::min<size_t>(memory.count, kMostProcessEvents);
  size_t ends = 0;
  size_t names = 0;
  for (size_t i = 0; i < count_; ++i) {
    const ProcessRecord& record = memory.records[i];
    ends_[i] = record.event.kind == WEIR_EVENT_EXIT;
    ends += ends_[i];
    const Name name = NameOf(record);
    uint16_t& number = number_[HashOf(name)];
    // Names that share a hash take turns, and are found more than once.
    if (number >= names || !Same(NameOf(memory.records[name_record_[number]]), name)) {
      number = static_cast<uint16_t>(names);
      memory.name_record[names] = static_cast<uint32_t>(i);
      name_record_[names] = static_cast<uint16_t>(i);
      ++names;
    }
    name_[i] = number;
  }
  rows_ = (count_ - ends) * kStartRows + ends * kEndRows;
  memory.starts = static_cast<uint32_t>(count_ - ends);
  memory.ends = static_cast<uint32_t>(ends);
  memory.names = static_cast<uint32_t>(names);
}

bool ProcessRows::Write(const ProcessMemory& memory, std::span<uint8_t> block) const {
  if (count_ == 0) return true;
  if (block.size() < rows_ * kRowBytes) return false;
  uint8_t* const columns = block.data() + block.size() - rows_ * kRowBytes;
  if (reinterpret_cast<uintptr_t>(columns) % alignof(double) != 0) return false;
  auto* const times = reinterpret_cast<double*>(columns);
  double* const values = times + rows_;
  auto* const devices = reinterpret_cast<uint32_t*>(values + rows_);
  uint32_t* const metrics = devices + rows_;
  auto* const kinds = reinterpret_cast<uint8_t*>(metrics + rows_);
  std::memset(devices, 0, rows_ * sizeof(*devices));
  std::memset(kinds + rows_, 0, rows_);  // status

  const auto offset_ns = static_cast<uint64_t>(std::llround(memory.offset_us * 1000));
  // Writes the rows of an end: of a start the last two are written over by the next event's.
  const auto put = [&](size_t i, const Columns& to) {
    const weir_event& event = memory.records[i].event;
    const auto time_us = static_cast<double>(static_cast<int64_t>((event.time_ns + offset_ns + 500) / 1000));
    double* const t = to.time;
    t[0] = t[1] = t[2] = t[3] = t[4] = t[5] = t[6] = time_us;
    // As wait(2) reports it: the signal in the low seven bits, else the code in the second byte.
    const uint32_t killed = event.status & 0x7f;
    to.value[0] = ends_[i] ? kEndText : kStartText;
    to.value[1] = event.pid;
    to.value[2] = event.ppid;
    to.value[3] = memory.name_text[name_[i]];
    to.value[4] = event.uid;
    to.value[5] = killed == 0 ? (event.status >> 8) & 0xff : killed;
    to.value[6] = static_cast<double>(event.lifetime_ns) / 1e9;
    std::memcpy(to.metric, killed == 0 ? kMetricsWithCode : kMetricsWithSignal, sizeof(kMetricsWithCode));
    std::memcpy(to.kind, kKinds, sizeof(kKinds));
  };
  const size_t last = count_ - 1;
  size_t row = 0;
  for (size_t i = 0; i < last; ++i) {
    put(i, {times + row, values + row, metrics + row, kinds + row});
    row += ends_[i] ? kEndRows : kStartRows;
  }
  // Nothing comes after the last one's: if it is a start, two too many don't fit.
  double time[kEndRows];
  double value[kEndRows];
  uint32_t metric[kEndRows];
  uint8_t kind[kEndRows];
  put(last, {time, value, metric, kind});
  const size_t rows = rows_ - row;
  std::copy_n(time, rows, times + row);
  std::copy_n(value, rows, values + row);
  std::copy_n(metric, rows, metrics + row);
  std::copy_n(kind, rows, kinds + row);
  return true;
}

}  // namespace weir
