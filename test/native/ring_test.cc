// The ring reader on fake memory: a ring without a kernel, and a model of what a kernel may have left in it.
#include "../../native/ring/ring.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "../../native/ring/size.h"
#include "check.h"

namespace {

using weir::DrainRing;
using weir::kRecordStride;
using weir::kRingBusy;
using weir::kRingDiscarded;
using weir::kRingHeaderBytes;
using weir::kSampleBytes;

// Machines' pages.
constexpr size_t kPages[] = {4096, 16384, 65536};

// One page of ring, mapped twice in a row like the kernel's; the memory after it is not mapped, so reading
// past it crashes.
class FakeRing {
 public:
  explicit FakeRing(uint64_t position = 0, uint64_t bytes = static_cast<uint64_t>(getpagesize()))
      : size(bytes), consumer(position), producer(position) {
    const int fd = memfd_create("ring", 0);
    if (ftruncate(fd, static_cast<off_t>(size)) != 0) std::abort();
    bytes_ = static_cast<uint8_t*>(mmap(nullptr, 3 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (int i = 0; i < 2; ++i) {
      mmap(bytes_ + i * size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    }
    close(fd);
  }
  ~FakeRing() { munmap(bytes_, 3 * size); }
  FakeRing(const FakeRing&) = delete;
  FakeRing& operator=(const FakeRing&) = delete;

  // Reserves a record as the kernel does and returns where its header lies.
  uint64_t Put(uint32_t length, uint32_t flags, uint8_t fill) {
    const uint64_t at = producer;
    SetHeader(at, length | flags);
    std::memset(bytes_ + (at & (size - 1)) + kRingHeaderBytes, fill, length <= size ? length : 0);
    producer += (kRingHeaderBytes + length + 7) & ~uint64_t{7};
    return at;
  }
  void SetHeader(uint64_t at, uint32_t header) {
    std::memcpy(bytes_ + (at & (size - 1)), &header, sizeof(header));
  }
  weir::Drained Drain(std::span<uint8_t> out) {
    return DrainRing({{bytes_, 2 * size}, &producer, &consumer}, out);
  }

  const uint64_t size;
  uint64_t consumer;
  uint64_t producer;

 private:
  uint8_t* bytes_;
};

void an_empty_ring_gives_nothing_and_leaves_the_consumer_position() {
  FakeRing ring(4096 * 7);
  std::vector<uint8_t> out(1024);
  CHECK_EQ(ring.Drain(out).records, 0);
  CHECK_EQ(ring.consumer, 4096 * 7);
}

void records_come_out_whole_and_in_order() {
  FakeRing ring;
  for (uint8_t i = 1; i <= 5; ++i) ring.Put(kSampleBytes, 0, i);
  std::vector<uint8_t> out(1024);
  CHECK_EQ(ring.Drain(out).records, 5);
  for (size_t i = 0; i < 5; ++i) {
    CHECK_EQ(out[i * kRecordStride], kSampleBytes);
    CHECK_EQ(out[i * kRecordStride + kRingHeaderBytes], i + 1);
    CHECK_EQ(out[i * kRecordStride + kRecordStride - 1], i + 1);
  }
  CHECK_EQ(ring.consumer, ring.producer);
}

void a_full_ring_comes_out_in_one_call() {
  FakeRing ring;
  const size_t records = ring.size / kRecordStride;
  for (size_t i = 0; i < records; ++i) ring.Put(kSampleBytes, 0, static_cast<uint8_t>(i));
  std::vector<uint8_t> out(ring.size);
  CHECK_EQ(ring.Drain(out).records, records);
}

void a_ring_has_room_for_what_is_wanted_in_whole_pages_and_not_twice_as_much() {
  for (const size_t page : kPages) {
    for (size_t wanted = 1; wanted < size_t{1} << 22; wanted += wanted / 3 + 1) {
      const size_t bytes = weir_ring_bytes(wanted, page, size_t{1} << 30);
      CHECK_EQ(bytes % page, 0);
      CHECK_EQ(bytes & (bytes - 1), 0);
      CHECK_EQ(bytes >= wanted, true);
      CHECK_EQ(bytes == page || bytes / 2 < wanted, true);
    }
    CHECK_EQ(weir_ring_bytes(0, page, size_t{1} << 30), page);
    CHECK_EQ(weir_ring_bytes(SIZE_MAX, page, size_t{1} << 30), size_t{1} << 30);
    CHECK_EQ(weir_whole_pages(1, page), page);
    CHECK_EQ(weir_whole_pages(3 * page, page), 3 * page);
    CHECK_EQ(weir_whole_pages(3 * page + 64, page), 4 * page);
  }
}

void a_record_across_the_end_is_read_through_the_second_mapping() {
  for (const size_t page : kPages) {
    FakeRing large(page - 24, page);
    for (uint8_t i = 0; i < 3; ++i) large.Put(kSampleBytes, 0, i);
    std::vector<uint8_t> three(3 * kRecordStride);
    CHECK_EQ(large.Drain(three).records, 3);
    for (uint8_t i = 0; i < 3; ++i) CHECK_EQ(three[i * kRecordStride + kRecordStride - 1], i);
  }
  FakeRing ring;
  ring.consumer = ring.producer = ring.size - 24;
  ring.Put(kSampleBytes, 0, 7);
  std::vector<uint8_t> out(kRecordStride);
  CHECK_EQ(ring.Drain(out).records, 1);
  for (size_t i = kRingHeaderBytes; i < kRecordStride; ++i) CHECK_EQ(out[i], 7);
}

void reading_stops_at_a_record_that_is_still_being_written() {
  FakeRing ring;
  ring.Put(kSampleBytes, 0, 1);
  const uint64_t busy = ring.Put(kSampleBytes, kRingBusy, 2);
  ring.Put(kSampleBytes, 0, 3);
  std::vector<uint8_t> out(1024);
  CHECK_EQ(ring.Drain(out).records, 1);
  CHECK_EQ(ring.consumer, busy);
  ring.SetHeader(busy, kSampleBytes);
  CHECK_EQ(ring.Drain(out).records, 2);
  CHECK_EQ(out[kRingHeaderBytes], 2);
}

void discarded_records_are_skipped_without_being_a_loss() {
  FakeRing ring;
  ring.Put(kSampleBytes, kRingDiscarded, 1);
  ring.Put(24, kRingDiscarded, 2);
  ring.Put(kSampleBytes, 0, 3);
  std::vector<uint8_t> out(1024);
  const weir::Drained drained = ring.Drain(out);
  CHECK_EQ(drained.records, 1);
  CHECK_EQ(drained.malformed, 0);
  CHECK_EQ(out[kRingHeaderBytes], 3);
}

void the_output_bounds_a_call_and_nothing_is_written_past_it() {
  FakeRing ring;
  for (uint8_t i = 0; i < 10; ++i) ring.Put(kSampleBytes, 0, i);
  std::vector<uint8_t> out(3 * kRecordStride + 17, 0xee);
  CHECK_EQ(ring.Drain(out).records, 3);
  for (size_t i = 3 * kRecordStride; i < out.size(); ++i) CHECK_EQ(out[i], 0xee);
  CHECK_EQ(ring.consumer, 3 * kRecordStride);
  CHECK_EQ(ring.Drain({}).records, 0);
  CHECK_EQ(ring.Drain(out).records, 3);
  CHECK_EQ(out[kRingHeaderBytes], 3);
}

void records_of_another_size_are_counted_and_skipped() {
  FakeRing ring;
  ring.Put(0, 0, 0);
  ring.Put(kSampleBytes, 0, 1);
  ring.Put(57, 0, 0);
  ring.Put(1000, 0, 0);
  ring.Put(kSampleBytes, 0, 2);
  std::vector<uint8_t> out(1024);
  const weir::Drained drained = ring.Drain(out);
  CHECK_EQ(drained.records, 2);
  CHECK_EQ(drained.malformed, 3);
  CHECK_EQ(ring.consumer, ring.producer);
}

void the_largest_length_does_not_overflow() {
  FakeRing ring;
  ring.Put(kSampleBytes, 0, 0);
  ring.SetHeader(0, (1u << 30) - 1);
  std::vector<uint8_t> out(1024);
  CHECK_EQ(ring.Drain(out).malformed, 1);
  CHECK_EQ(ring.consumer, ring.producer);
}

void a_torn_record_is_given_up_with_what_follows() {
  FakeRing ring;
  ring.Put(kSampleBytes, 0, 0);
  ring.producer -= 16;
  std::vector<uint8_t> out(1024);
  const weir::Drained drained = ring.Drain(out);
  CHECK_EQ(drained.records, 0);
  CHECK_EQ(drained.malformed, 1);
  CHECK_EQ(ring.consumer, ring.producer);
}

void positions_further_apart_than_the_ring_are_given_up() {
  FakeRing ring;
  ring.producer = 2 * ring.size;
  std::vector<uint8_t> out(1024);
  const weir::Drained drained = ring.Drain(out);
  CHECK_EQ(drained.records, 0);
  CHECK_EQ(drained.malformed, 1);
  CHECK_EQ(ring.consumer, ring.producer);
  ring.Put(kSampleBytes, 0, 5);
  CHECK_EQ(ring.Drain(out).records, 1);
}

void positions_wrap_at_64_bits() {
  FakeRing ring(~uint64_t{0} - 127);
  for (uint8_t i = 0; i < 4; ++i) ring.Put(kSampleBytes, 0, i);
  std::vector<uint8_t> out(1024);
  CHECK_EQ(ring.Drain(out).records, 4);
  CHECK_EQ(ring.consumer, 128);
}

void a_model_of_the_ring_agrees(size_t page, size_t records_wanted);

// Any order of good, discarded, wrongly sized and unfinished records, drained in any portions, against a
// queue.
void a_model_of_the_ring_agrees_over_a_million_records() {
  for (const size_t page : kPages) a_model_of_the_ring_agrees(page, 350'000);
}

void a_model_of_the_ring_agrees(size_t page, size_t records_wanted) {
  std::mt19937_64 random(20261121);
  FakeRing ring(0, page);
  struct Expected {
    uint32_t length;
    uint32_t flags;
    uint8_t fill;
    uint64_t at;
  };
  std::deque<Expected> queue;
  uint8_t fill = 0;
  for (size_t put = 0; put < records_wanted;) {
    for (uint64_t n = random() % (page / 100); n > 0; --n) {
      const uint32_t length = random() % 16 == 0 ? static_cast<uint32_t>(random() % 200) : kSampleBytes;
      const uint32_t flags = random() % 16 == 0 ? kRingDiscarded : 0;
      const uint32_t busy = random() % 32 == 0 ? kRingBusy : 0;
      if (ring.producer + kRingHeaderBytes + length + 8 - ring.consumer > ring.size) break;
      const uint64_t at = ring.Put(length, flags | busy, ++fill);
      queue.push_back({length, flags | busy, fill, at});
      ++put;
    }
    std::vector<uint8_t> out(random() % (page / 80) * kRecordStride + random() % kRecordStride, 0xee);
    const weir::Drained drained = ring.Drain(out);
    size_t records = 0;
    size_t malformed = 0;
    while (!queue.empty() && records < out.size() / kRecordStride) {
      const Expected next = queue.front();
      if (next.flags & kRingBusy) break;
      queue.pop_front();
      if (next.flags & kRingDiscarded) continue;
      if (next.length != kSampleBytes) {
        ++malformed;
        continue;
      }
      CHECK_EQ(out[records * kRecordStride + kRingHeaderBytes], next.fill);
      CHECK_EQ(out[records * kRecordStride + kRecordStride - 1], next.fill);
      ++records;
    }
    CHECK_EQ(drained.records, records);
    CHECK_EQ(drained.malformed, malformed);
    CHECK_EQ(ring.consumer, queue.empty() ? ring.producer : queue.front().at);
    for (Expected& left : queue) {
      left.flags &= ~kRingBusy;
      ring.SetHeader(left.at, left.length | left.flags);
    }
  }
}

}  // namespace

int main() {
  RUN(an_empty_ring_gives_nothing_and_leaves_the_consumer_position);
  RUN(records_come_out_whole_and_in_order);
  RUN(a_full_ring_comes_out_in_one_call);
  RUN(a_ring_has_room_for_what_is_wanted_in_whole_pages_and_not_twice_as_much);
  RUN(a_record_across_the_end_is_read_through_the_second_mapping);
  RUN(reading_stops_at_a_record_that_is_still_being_written);
  RUN(discarded_records_are_skipped_without_being_a_loss);
  RUN(the_output_bounds_a_call_and_nothing_is_written_past_it);
  RUN(records_of_another_size_are_counted_and_skipped);
  RUN(the_largest_length_does_not_overflow);
  RUN(a_torn_record_is_given_up_with_what_follows);
  RUN(positions_further_apart_than_the_ring_are_given_up);
  RUN(positions_wrap_at_64_bits);
  RUN(a_model_of_the_ring_agrees_over_a_million_records);
}
