// What only the hash tracker has: a memory of what was sent, and no log.
#include <cstring>
#include <utility>
#include <vector>

#include "guest/dirty_tracker.h"
#include "guest_fixture.h"

namespace {

using namespace multifd;
using fixture::Kind;
using fixture::make_mapping;

struct Hashed {
  std::shared_ptr<GuestMemory> memory;
  std::unique_ptr<DirtyTracker> tracker;
  DirtyBitmap found;

  // The dirty pages now.
  std::vector<uint64_t> collect(const DirtyBitmap* except = nullptr) {
    found.clear();
    const auto added = tracker->collect(0, {0, found.page_count()}, found, except);
    CHECK_OK(added);
    std::vector<uint64_t> pages;
    for (uint64_t page = 0; page < found.page_count(); ++page) {
      if (found.test(page)) pages.push_back(page);
    }
    return pages;
  }
  void send(uint64_t page) {
    const uint8_t* const from = memory->blocks()[0].host() + page * kPageSize;
    std::vector<uint8_t> copy(from, from + kPageSize);
    tracker->sent(0, page, copy.data());
  }
  uint8_t* host(uint64_t page) { return memory->blocks()[0].host() + page * kPageSize; }
};

Hashed make(Kind kind) {
  auto memory = fixture::one_block(make_mapping(kind, 200 * kPageSize));
  auto tracker = make_hash_tracker(memory);
  CHECK_OK(tracker);
  auto found = DirtyBitmap::create(200);
  CHECK_OK(found);
  CHECK_OK((*tracker)->start());
  return {std::move(memory), std::move(*tracker), std::move(*found)};
}

using Pages = std::vector<uint64_t>;

TEST("a page stays dirty until what it holds was sent") {
  Hashed hashed = make(Kind::kAnonymous);
  fixture::poke(hashed.host(3), 1);
  CHECK(hashed.collect() == Pages{3});
  CHECK(hashed.collect() == Pages{3});
  hashed.send(3);
  CHECK(hashed.collect().empty());
  fixture::poke(hashed.host(3), 2);
  CHECK(hashed.collect() == Pages{3});
  fixture::poke(hashed.host(3), 1);  // what the destination has
  CHECK(hashed.collect().empty());
}

TEST("a populated page of zeros travels once, and an absent page that had content again") {
  Hashed hashed = make(Kind::kMemfd);
  fixture::poke(hashed.host(70), 0);
  fixture::poke(hashed.host(71), 5);
  CHECK(hashed.collect() == (Pages{70, 71}));
  hashed.send(70);
  hashed.send(71);
  CHECK(hashed.collect().empty());
  CHECK_OK(hashed.memory->blocks()[0].mapping->discard({70, 2}));
  CHECK(hashed.collect() == Pages{71});
  hashed.tracker->sent(0, 71, nullptr);
  CHECK(hashed.collect().empty());
  fixture::poke(hashed.host(71), 0);  // populated, still zero
  CHECK(hashed.collect().empty());
  fixture::poke(hashed.host(71), 5);
  CHECK(hashed.collect() == Pages{71});
}

TEST("a late collect finds nothing, and the next round's finds it all") {
  Hashed hashed = make(Kind::kAnonymous);
  auto round = DirtyBitmap::create(200);
  CHECK_OK(round);
  round->set(10);
  fixture::poke(hashed.host(10), 1);
  fixture::poke(hashed.host(11), 1);
  CHECK(hashed.collect(&*round).empty());
  hashed.send(10);
  CHECK(hashed.collect() == Pages{11});
}

}  // namespace
