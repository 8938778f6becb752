// Tests of the book of unreleased sends against a plain model, around the wrap and with
// notifications that no honest kernel would send.
#include <map>
#include <vector>

#include "check.h"
#include "engine/release_ledger.h"

namespace {

using multifd::Notification;
using multifd::ReleaseLedger;

std::vector<uint32_t> release(ReleaseLedger& ledger, uint32_t first, uint32_t last,
                              ReleaseLedger::Released* out = nullptr) {
  std::vector<uint32_t> records;
  const auto released = ledger.release(Notification{first, last, false},
                                       [&](uint32_t record) { records.push_back(record); });
  if (out != nullptr) *out = released;
  return records;
}

using Records = std::vector<uint32_t>;

TEST("sends are released one by one, coalesced and out of order, across the wrap of the ids") {
  for (const uint32_t first_id : {0U, 1000U, 0xFFFFFFFDU, 0xFFFFFFFFU}) {
    ReleaseLedger ledger(8, first_id);
    for (uint32_t i = 0; i < 6; ++i) ledger.sent(10 + i, 100);
    CHECK_EQ(ledger.unreleased_bytes(), 600U);
    CHECK(release(ledger, first_id + 4, first_id + 4) == Records{14});
    CHECK(release(ledger, first_id, first_id + 2) == (Records{10, 11, 12}));
    CHECK_EQ(ledger.unreleased_sends(), 2U);
    CHECK(release(ledger, first_id + 3, first_id + 5) == (Records{13, 15}));
    CHECK_EQ(ledger.unreleased_bytes(), 0U);
  }
}

TEST("an id that is repeated, not yet given or long gone is counted and releases nothing") {
  ReleaseLedger ledger(8, 5);
  ledger.sent(1, 100);
  ReleaseLedger::Released released;
  CHECK(release(ledger, 6, 6, &released).empty());  // not yet given
  CHECK_EQ(released.unknown, 1U);
  CHECK(release(ledger, 4, 4, &released).empty());  // before the first
  CHECK_EQ(released.unknown, 1U);
  CHECK(release(ledger, 5, 5) == Records{1});
  CHECK(release(ledger, 5, 5, &released).empty());  // again
  CHECK_EQ(released.unknown, 1U);
  CHECK_EQ(ledger.unreleased_bytes(), 0U);
}

TEST("a range that covers more than is outstanding releases what is, once") {
  ReleaseLedger ledger(8, 0xFFFFFFFE);
  for (uint32_t i = 0; i < 4; ++i) ledger.sent(i, 10);
  ReleaseLedger::Released released;
  CHECK(release(ledger, 0xFFFFFFF0, 0x10, &released) == (Records{0, 1, 2, 3}));
  CHECK_EQ(released.bytes, 40U);
  CHECK_EQ(released.unknown, 33U - 4U);
  ledger.sent(9, 1);
  CHECK(release(ledger, 0, 0xFFFFFFFF) == Records{9});  // everything there is
  CHECK_EQ(ledger.unreleased_sends(), 0U);
}

TEST("the ledger is full by its oldest unreleased send, and has room again behind it") {
  ReleaseLedger ledger(4, 0xFFFFFFFF);
  for (uint32_t i = 0; i < 4; ++i) {
    CHECK(!ledger.full());
    ledger.sent(i, 10);
  }
  CHECK(ledger.full());
  release(ledger, 0, 2);  // all but the oldest, whose slot would be the next
  CHECK(ledger.full());
  release(ledger, 0xFFFFFFFF, 0xFFFFFFFF);
  CHECK(!ledger.full());
  for (uint32_t i = 0; i < 4; ++i) ledger.sent(i, 10);
  CHECK_EQ(ledger.unreleased_bytes(), 40U);
}

TEST("random sends and notifications agree with a plain model") {
  check::Random random(check::seed());
  for (int run = 0; run < 200; ++run) {
    uint32_t next_id = static_cast<uint32_t>(random.next());
    if (run % 2 == 0) next_id = static_cast<uint32_t>(0 - random.below(20));
    ReleaseLedger ledger(16, next_id);
    std::map<uint32_t, std::pair<uint32_t, size_t>> outstanding;  // id -> record, bytes
    size_t bytes = 0;
    for (int step = 0; step < 200; ++step) {
      if (random.below(2) == 0 && !ledger.full()) {
        const uint32_t record = static_cast<uint32_t>(random.below(64));
        const size_t size = random.below(1 << 20);
        ledger.sent(record, size);
        outstanding[next_id++] = {record, size};
        bytes += size;
        continue;
      }
      const uint32_t first = next_id - static_cast<uint32_t>(random.below(24));
      const uint32_t last = first + static_cast<uint32_t>(random.below(6));
      std::vector<uint32_t> expected;
      for (uint32_t id = first; id != last + 1; ++id) {
        const auto found = outstanding.find(id);
        if (found == outstanding.end()) continue;
        expected.push_back(found->second.first);
        bytes -= found->second.second;
        outstanding.erase(found);
      }
      ReleaseLedger::Released released;
      CHECK(release(ledger, first, last, &released) == expected);
      CHECK_EQ(released.unknown, last - first + 1 - expected.size());
      CHECK_EQ(ledger.unreleased_bytes(), bytes);
      CHECK_EQ(size_t{ledger.unreleased_sends()}, outstanding.size());
    }
  }
}

}  // namespace
