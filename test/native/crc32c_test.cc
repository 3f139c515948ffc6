// CRC-32C against published vectors, and the instruction against the table.
#include "../../native/hash/crc32c.h"

#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "check.h"

namespace {

using weir::Crc32c;
using weir::Crc32cTable;

struct Vector {
  std::vector<uint8_t> bytes;
  uint32_t crc;
};

// RFC 3720, appendix B.4; its table lists the checksum's bytes as sent, least significant first. The last is
// the check value of the CRC catalogue (CRC-32/ISCSI).
std::vector<Vector> Published() {
  std::vector<Vector> vectors;
  vectors.push_back({std::vector<uint8_t>(32, 0x00), 0x8a9136aa});
  vectors.push_back({std::vector<uint8_t>(32, 0xff), 0x62a8ab43});
  std::vector<uint8_t> up(32);
  std::vector<uint8_t> down(32);
  for (uint8_t i = 0; i < 32; ++i) {
    up[i] = i;
    down[i] = static_cast<uint8_t>(31 - i);
  }
  vectors.push_back({up, 0x46dd794e});
  vectors.push_back({down, 0x113fdb5c});
  vectors.push_back(
      {{0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 4, 0,
        0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 2,    0, 0, 0, 0, 0, 0, 0},
       0xd9963a56});
  const std::string_view digits = "123456789";
  vectors.push_back({std::vector<uint8_t>(digits.begin(), digits.end()), 0xe3069283});
  return vectors;
}

void published_vectors_hold_for_both_ways() {
  for (const Vector& vector : Published()) {
    CHECK_EQ(Crc32c(vector.bytes), vector.crc);
    CHECK_EQ(Crc32cTable(vector.bytes), vector.crc);
  }
}

void nothing_has_checksum_zero_and_leaves_a_seed() {
  CHECK_EQ(Crc32c({}), 0);
  CHECK_EQ(Crc32c({}, 0x12345678), 0x12345678);
  CHECK_EQ(Crc32cTable({}, 0x12345678), 0x12345678);
}

void both_ways_agree_at_every_length_alignment_and_cut() {
  std::mt19937_64 random(3720);
  std::vector<uint8_t> bytes(600);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  for (size_t length = 0; length < 512; ++length) {
    const std::span<const uint8_t> part(bytes.data() + random() % 64, length);
    const uint32_t crc = Crc32c(part);
    CHECK_EQ(Crc32cTable(part), crc);
    const size_t cut = length == 0 ? 0 : random() % length;
    CHECK_EQ(Crc32c(part.subspan(cut), Crc32c(part.first(cut))), crc);
    CHECK_EQ(Crc32cTable(part.subspan(cut), Crc32cTable(part.first(cut))), crc);
  }
}

}  // namespace

int main() {
  RUN(published_vectors_hold_for_both_ways);
  RUN(nothing_has_checksum_zero_and_leaves_a_seed);
  RUN(both_ways_agree_at_every_length_alignment_and_cut);
}
