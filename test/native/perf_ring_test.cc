// The perf ring reader on memory that is laid out as the kernel does it.
#include "../../native/perf/perf_ring.h"

#include <cstring>
#include <random>
#include <vector>

#include "check.h"

namespace {

using weir::DrainPerfRing;
using weir::kPerfLargestRecord;
using weir::kPerfRecordLost;
using weir::kPerfRecordLostSamples;
using weir::kPerfRecordSample;
using weir::PerfDrained;

// A ring, and the kernel's part of writing into it.
struct Fake {
  explicit Fake(size_t size, uint64_t start = 0) : data(size, 0xee), head(start), tail(start) {}

  void Put(const void* bytes, size_t count) {
    for (size_t i = 0; i < count; ++i, ++head)
      data[head & (data.size() - 1)] = static_cast<const uint8_t*>(bytes)[i];
  }
  void Header(uint32_t type, uint16_t size) {
    const uint16_t misc = 0;
    Put(&type, 4);
    Put(&misc, 2);
    Put(&size, 2);
  }
  void Record(uint32_t type, const std::vector<uint64_t>& words) {
    Header(type, static_cast<uint16_t>(8 + 8 * words.size()));
    Put(words.data(), 8 * words.size());
  }
  PerfDrained Drain(size_t room) {
    out.assign(room, 0);
    return DrainPerfRing({data, &head, &tail}, out);
  }
  uint64_t Word(size_t at) const {
    uint64_t word = 0;
    std::memcpy(&word, out.data() + at, 8);
    return word;
  }

  std::vector<uint8_t> data;
  std::vector<uint8_t> out;
  uint64_t head;
  uint64_t tail;
};

void records_come_out_whole_and_in_order() {
  Fake ring(4096);
  for (uint64_t i = 0; i < 5; ++i) ring.Record(kPerfRecordSample, {i, i * 10});
  const PerfDrained drained = ring.Drain(1000);
  CHECK_EQ(drained.samples, 5);
  CHECK_EQ(drained.bytes, 5 * 24);
  for (uint64_t i = 0; i < 5; ++i) CHECK_EQ(ring.Word(i * 24 + 16), i * 10);
  CHECK_EQ(ring.tail, ring.head);
  CHECK_EQ(ring.Drain(1000).bytes, 0);
}

void a_record_across_the_end_is_joined_wherever_it_breaks() {
  for (uint64_t start = 4096 - 64; start < 4096 + 8; start += 8) {
    Fake ring(4096, start);
    ring.Record(kPerfRecordSample, {1, 2, 3, 4, 5, 6});
    CHECK_EQ(ring.Drain(64).samples, 1);
    for (uint64_t i = 1; i <= 6; ++i) CHECK_EQ(ring.Word(i * 8), i);
  }
}

void a_record_that_is_not_finished_is_left_for_later() {
  Fake ring(4096);
  ring.Record(kPerfRecordSample, {7});
  const uint64_t published = ring.head;
  ring.Record(kPerfRecordSample, {8});
  const uint64_t whole = ring.head;
  ring.head = published;
  CHECK_EQ(ring.Drain(1000).samples, 1);
  CHECK_EQ(ring.tail, published);
  ring.head = whole;
  CHECK_EQ(ring.Drain(1000).samples, 1);
  CHECK_EQ(ring.Word(8), 8);
}

void what_does_not_fit_waits_for_the_next_call() {
  Fake ring(4096);
  for (uint64_t i = 0; i < 3; ++i) ring.Record(kPerfRecordSample, {i});
  CHECK_EQ(ring.Drain(40).samples, 2);
  CHECK_EQ(ring.Drain(40).samples, 1);
  CHECK_EQ(ring.Word(8), 2);
}

void the_largest_record_comes_through() {
  Fake ring(1 << 17, 100 * 8);
  for (int round = 0; round < 3; ++round) {
    ring.Record(kPerfRecordSample, std::vector<uint64_t>(kPerfLargestRecord / 8 - 1, round));
    const PerfDrained drained = ring.Drain(kPerfLargestRecord);
    CHECK_EQ(drained.samples, 1);
    CHECK_EQ(drained.bytes, kPerfLargestRecord);
    CHECK_EQ(ring.Word(kPerfLargestRecord - 8), round);
  }
}

void one_larger_than_all_the_room_is_given_up_alone() {
  Fake ring(4096);
  ring.Record(kPerfRecordSample, {1, 2, 3, 4});
  ring.Record(kPerfRecordSample, {5});
  const PerfDrained drained = ring.Drain(24);
  CHECK_EQ(drained.malformed, 1);
  CHECK_EQ(drained.samples, 1);
  CHECK_EQ(ring.Word(8), 5);
}

void losses_are_added_up_and_not_handed_on() {
  Fake ring(4096, 4096 - 16);
  ring.Record(kPerfRecordLost, {99, 1000});
  ring.Record(kPerfRecordSample, {1});
  ring.Record(kPerfRecordLostSamples, {234});
  const PerfDrained drained = ring.Drain(1000);
  CHECK_EQ(drained.lost, 1234);
  CHECK_EQ(drained.samples, 1);
  CHECK_EQ(drained.bytes, 16);
  CHECK_EQ(drained.malformed, 0);
}

void a_size_that_cannot_be_gives_up_all_up_to_the_head() {
  for (const uint16_t size : {0, 4, 7, 9, 15, 40, 65535}) {
    Fake ring(4096);
    ring.Record(kPerfRecordSample, {1});
    ring.Header(kPerfRecordSample, size);
    ring.Put("12345678", 8);
    const PerfDrained drained = ring.Drain(1000);
    CHECK_EQ(drained.samples, 1);
    CHECK_EQ(drained.malformed, 1);
    CHECK_EQ(ring.tail, ring.head);
  }
}

void half_a_header_at_the_head_is_malformed() {
  Fake ring(4096);
  ring.Put("1234", 4);
  CHECK_EQ(ring.Drain(1000).malformed, 1);
  CHECK_EQ(ring.tail, ring.head);
}

void a_ring_that_was_overwritten_is_given_up() {
  Fake ring(4096);
  for (uint64_t i = 0; i < 300; ++i) ring.Record(kPerfRecordSample, {i});
  const PerfDrained drained = ring.Drain(65536);
  CHECK_EQ(drained.bytes, 0);
  CHECK_EQ(drained.malformed, 1);
  CHECK_EQ(ring.tail, ring.head);
}

void positions_may_pass_the_end_of_their_numbers() {
  Fake ring(4096, UINT64_MAX - 23);
  for (uint64_t i = 0; i < 4; ++i) ring.Record(kPerfRecordSample, {i});
  CHECK_EQ(ring.Drain(1000).samples, 4);
  CHECK_EQ(ring.Word(3 * 16 + 8), 3);
}

// A ring is a power of two of pages of 4, 16 or 64 KiB.
void rings_of_every_page_size_are_read_lap_after_lap() {
  for (const size_t page : {4096, 16384, 65536}) {
    for (const size_t pages : {1, 2, 8}) {
      Fake ring(page * pages, page - 16);
      uint64_t written = 0;
      uint64_t read = 0;
      while (written < 3 * ring.data.size() / 40) {
        // As many as there is room for.
        while (ring.head - ring.tail + 40 <= ring.data.size()) {
          ring.Record(kPerfRecordSample, {written, written, written, written});
          ++written;
        }
        const PerfDrained drained = ring.Drain(ring.data.size());
        for (size_t at = 0; at < drained.bytes; at += 40, ++read)
          for (size_t word = 8; word < 40; word += 8) CHECK_EQ(ring.Word(at + word), read);
      }
      CHECK_EQ(read, written);
    }
  }
}

void any_bytes_at_any_positions_are_read_safely_and_always_get_on() {
  std::mt19937_64 random(20261121);
  for (int round = 0; round < 20000; ++round) {
    Fake ring(4096, random());
    for (uint8_t& byte : ring.data) byte = random() % 3 ? 0 : static_cast<uint8_t>(random());
    ring.head = ring.tail + random() % 6000;
    std::vector<uint8_t> out(random() % 300);
    for (int calls = 0; ring.tail != ring.head; ++calls) {
      const uint64_t before = ring.tail;
      const PerfDrained drained = DrainPerfRing({ring.data, &ring.head, &ring.tail}, out);
      CHECK_EQ(drained.bytes <= out.size(), true);
      CHECK_EQ(ring.tail != before, true);
      CHECK_EQ(calls < 1000, true);
    }
  }
}

}  // namespace

int main() {
  RUN(records_come_out_whole_and_in_order);
  RUN(a_record_across_the_end_is_joined_wherever_it_breaks);
  RUN(a_record_that_is_not_finished_is_left_for_later);
  RUN(what_does_not_fit_waits_for_the_next_call);
  RUN(the_largest_record_comes_through);
  RUN(one_larger_than_all_the_room_is_given_up_alone);
  RUN(losses_are_added_up_and_not_handed_on);
  RUN(a_size_that_cannot_be_gives_up_all_up_to_the_head);
  RUN(half_a_header_at_the_head_is_malformed);
  RUN(a_ring_that_was_overwritten_is_given_up);
  RUN(positions_may_pass_the_end_of_their_numbers);
  RUN(rings_of_every_page_size_are_read_lap_after_lap);
  RUN(any_bytes_at_any_positions_are_read_safely_and_always_get_on);
}
