// The hashes' bounds and their parts, under the sanitizers: buffers are exactly as long as they say.
#include "../../native/hash/hash.h"

#include <random>
#include <vector>

#include "../../native/hash/siphash.h"
#include "check.h"

namespace {

using weir::Digest;
using weir::Hash;
using weir::HashKey;
using weir::HashKind;
using weir::HashSlices;
using weir::HashStream;

constexpr HashKey kKey = {0x0706050403020100, 0x0f0e0d0c0b0a0908};

std::vector<uint8_t> Bytes(size_t length) {
  std::mt19937_64 random(length);
  std::vector<uint8_t> bytes(length);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

template <typename Visitor>
void ForEachKind(Visitor visit) {
  for (uint32_t kind = 0; kind < weir::kHashKinds; ++kind) visit(static_cast<HashKind>(kind));
}

void published_values_hold() {
  CHECK_EQ(Hash(HashKind::kXxh3, {}, {}).low, 0x2d06800538d394c2);
  CHECK_EQ(Hash(HashKind::kXxh128, {}, {}).high, 0x99aa06d3014798d8);
  CHECK_EQ(Hash(HashKind::kSipHash13, kKey, {}).low, 0xabac0158050fc4dc);
}

void every_length_and_cut_gives_the_same() {
  ForEachKind([](HashKind kind) {
    for (size_t length = 0; length < 600; ++length) {
      const std::vector<uint8_t> bytes = Bytes(length);
      const Digest whole = Hash(kind, kKey, bytes);
      HashStream stream(kind, kKey);
      const size_t cut = length * 7 % (length + 1);
      stream.Update(std::span(bytes).first(cut));
      stream.Update({});
      stream.Update(std::span(bytes).subspan(cut));
      CHECK_EQ(stream.Digest().low, whole.low);
      CHECK_EQ(stream.Digest().high, whole.high);
    }
  });
}

void a_copied_stream_goes_on_by_itself() {
  const std::vector<uint8_t> bytes = Bytes(5000);
  ForEachKind([&](HashKind kind) {
    HashStream first(kind, kKey);
    first.Update(std::span(bytes).first(3000));
    HashStream second = first;
    first.Update(bytes);
    second.Update(std::span(bytes).subspan(3000));
    CHECK_EQ(second.Digest().low, Hash(kind, kKey, bytes).low);
  });
}

void slices_out_of_bounds_are_refused() {
  const std::vector<uint8_t> bytes = Bytes(10);
  const std::vector<std::vector<uint32_t>> wrong = {
      {0, 11}, {5, 4}, {11, 11}, {0, 0xffffffff}, {0xffffffff, 0}};
  ForEachKind([&](HashKind kind) {
    for (const std::vector<uint32_t>& starts : wrong) {
      std::vector<uint64_t> out(2 * (starts.size() - 1));
      CHECK_EQ(HashSlices(kind, kKey, bytes, starts, out), false);
    }
  });
}

void slices_write_only_what_there_is_room_for() {
  const std::vector<uint8_t> bytes = Bytes(10);
  const std::vector<uint32_t> starts = {0, 0, 3, 10};
  ForEachKind([&](HashKind kind) {
    std::vector<uint64_t> out(3 * weir::DigestWords(kind));
    CHECK_EQ(HashSlices(kind, kKey, bytes, starts, out), true);
    CHECK_EQ(out[weir::DigestWords(kind)], Hash(kind, kKey, std::span(bytes).first(3)).low);
    out.pop_back();
    CHECK_EQ(HashSlices(kind, kKey, bytes, starts, out), false);
    CHECK_EQ(HashSlices(kind, kKey, bytes, {}, {}), true);
  });
}

}  // namespace

int main() {
  RUN(published_values_hold);
  RUN(every_length_and_cut_gives_the_same);
  RUN(a_copied_stream_goes_on_by_itself);
  RUN(slices_out_of_bounds_are_refused);
  RUN(slices_write_only_what_there_is_room_for);
}
