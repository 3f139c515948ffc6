// Process events (bpf/layout.h) as rows of a frame (docs/specs/frame.md). First a look at all of them, which
// tells how many rows they make and which names they have; then, once the caller has made room for the rows
// and put the names into the frame's dictionary, the columns, straight into the frame.
//
// Pure: no system calls, no N-API, works on any memory of that shape.
#ifndef WEIR_RING_PROCESS_ROWS_H_
#define WEIR_RING_PROCESS_ROWS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "../bpf/layout.h"
#include "ring.h"

namespace weir {

// Room for records. As many ends make 2,044 rows.
inline constexpr size_t kMostProcessEvents = 292;
// Rows of a process that starts, and of one that ends.
inline constexpr size_t kStartRows = 5;
inline constexpr size_t kEndRows = 7;
// Bytes of a row over all columns.
inline constexpr size_t kRowBytes = 26;

// As it comes out of the ring.
struct ProcessRecord {
  uint64_t header;
  weir_event event;
};
static_assert(sizeof(ProcessRecord) == kRecordStride);

// Shared with src/addon/process-rows.ts.
struct ProcessMemory {
  // To look at: how many records.
  uint32_t count;
  // Found: starts and ends, and different names.
  uint32_t starts;
  uint32_t ends;
  uint32_t names;
  // To write: from a record's time to the Unix epoch.
  double offset_us;
  // Of each name, a record that has it, found; and its index among the frame's texts, to write.
  uint32_t name_record[kMostProcessEvents];
  uint32_t name_text[kMostProcessEvents];
  ProcessRecord records[kMostProcessEvents];
};

// The memory may be anything, and may change between the two calls: where something is read or written rests
// on nothing in it but what was looked at.
class ProcessRows {
 public:
  void Survey(ProcessMemory& memory);
  // Of what was looked at.
  size_t rows() const { return rows_; }
  // Writes every byte of the columns, which are the end of `block`. Device and status are 0 in each row;
  // metrics and texts are numbered as in the template of src/sources/kernel-process.ts. False, and nothing is
  // written, when there is no room, or not at a multiple of eight bytes.
  bool Write(const ProcessMemory& memory, std::span<uint8_t> block) const;

 private:
  size_t count_ = 0;
  size_t rows_ = 0;
  // Of each record: the number of its name, and whether a process ends.
  std::array<uint16_t, kMostProcessEvents> name_ = {};
  std::array<bool, kMostProcessEvents> ends_ = {};
  // Of each name, a record that has it.
  std::array<uint16_t, kMostProcessEvents> name_record_ = {};
  // Numbers of names by a hash of their bytes, of whichever survey: each is compared before it counts.
  std::array<uint16_t, 256> number_ = {};
};

}  // namespace weir

#endif  // WEIR_RING_PROCESS_ROWS_H_
