// GuestMemory: what makes a valid set of RAM blocks, and the lease protocol.
#include "guest/guest_memory.h"

#include <atomic>
#include <thread>

#include "guest_fixture.h"

namespace {

using namespace multifd;
using fixture::Kind;
using fixture::make_mapping;

TEST("RAM blocks are found by name, and may share a mapping but not memory") {
  const auto mapping = make_mapping(Kind::kAnonymous, 64 * kPageSize);
  const RamBlock low{"low", mapping, 0, 16 * kPageSize};
  const RamBlock high{"high", mapping, 16, 48 * kPageSize};
  const auto memory = GuestMemory::create({low, high});
  CHECK_OK(memory);
  CHECK_EQ((*memory)->find("high")->host(), mapping->base() + 16 * kPageSize);
  CHECK((*memory)->find("hig") == nullptr);
  CHECK_EQ((*memory)->total_bytes(), 64 * kPageSize);
  CHECK(!GuestMemory::create({}));
  CHECK(!GuestMemory::create({low, low}));
  CHECK(!GuestMemory::create({low, {"mid", mapping, 15, kPageSize}}));
  CHECK(!GuestMemory::create({{"", mapping, 0, kPageSize}}));
  CHECK(!GuestMemory::create({{std::string(256, 'x'), mapping, 0, kPageSize}}));
  CHECK_OK(GuestMemory::create({{std::string(255, 'x'), mapping, 0, kPageSize}}));
  CHECK(!GuestMemory::create({{"a", nullptr, 0, kPageSize}}));
  CHECK(!GuestMemory::create({{"a", mapping, 0, 0}}));
  CHECK(!GuestMemory::create({{"a", mapping, 0, kPageSize + 1}}));
  CHECK(!GuestMemory::create({{"a", mapping, 1, 64 * kPageSize}}));
  CHECK(!GuestMemory::create({{"a", mapping, ~0ULL, 2 * kPageSize}}));
}

TEST("a block reports its populated pages from its own start, and can be emptied") {
  const auto mapping = make_mapping(Kind::kMemfd, 64 * kPageSize);
  const auto memory = GuestMemory::create({{"high", mapping, 16, 32 * kPageSize}});
  CHECK_OK(memory);
  for (const uint64_t page : {3, 20, 21, 60}) fixture::poke(mapping->base() + page * kPageSize, 1);
  std::vector<PageRange> ranges{{1000, 1}};
  CHECK_OK((*memory)->blocks()[0].populated({0, 32}, ranges));
  CHECK(fixture::pages_of(ranges) == (std::vector<uint64_t>{1000, 4, 5}));
  CHECK(!(*memory)->blocks()[0].populated({0, 33}, ranges));
  CHECK_OK((*memory)->empty());
  CHECK(fixture::populated_pages(*mapping) == (std::vector<uint64_t>{3, 60}));
}

TEST("revoking stops every user, waits for the leases and refuses new ones") {
  const auto memory = fixture::one_block(make_mapping(Kind::kAnonymous, kPageSize));
  std::atomic<int> stops{0};
  std::vector<std::thread> users;
  std::atomic<int> gone{0};
  std::atomic<int> leased{0};
  for (int i = 0; i < 4; ++i) {
    users.emplace_back([&] {
      std::atomic<bool> stop{false};
      auto lease = memory->lease([&] {
        ++stops;
        stop = true;
      });
      CHECK_OK(lease);
      ++leased;
      while (!stop) std::this_thread::yield();
      ++gone;
    });
  }
  while (leased < 4) std::this_thread::yield();
  std::thread second([&] { memory->revoke(); });
  memory->revoke();
  CHECK_EQ(gone.load(), 4);
  CHECK_EQ(stops.load(), 4);
  second.join();
  for (std::thread& user : users) user.join();
  const auto late = memory->lease([] {});
  CHECK(!late);
  CHECK(late.error().code == ErrorCode::kClosed);
  memory->revoke();
}

TEST("a stop may drop its own lease, or another user's") {
  const auto memory = fixture::one_block(make_mapping(Kind::kAnonymous, kPageSize));
  GuestMemory::Lease first;
  GuestMemory::Lease second;
  int stops = 0;
  auto made_first = memory->lease([&] {
    ++stops;
    first = GuestMemory::Lease();
    second = GuestMemory::Lease();
  });
  auto made_second = memory->lease([&] { ++stops; });
  CHECK_OK(made_first);
  CHECK_OK(made_second);
  first = std::move(*made_first);
  second = std::move(*made_second);
  memory->revoke();
  CHECK_EQ(stops, 1);
}

TEST("leases dropped while the memory is revoked never run a stop after their end") {
  for (int round = 0; round < 200; ++round) {
    const auto memory = fixture::one_block(make_mapping(Kind::kAnonymous, kPageSize));
    std::atomic<int> ready{0};
    std::vector<std::thread> users;
    for (int i = 0; i < 2; ++i) {
      users.emplace_back([&] {
        // The stop refers to this thread's stack: the sanitizers watch it.
        std::atomic<bool> stop{false};
        auto lease = memory->lease([&stop] { stop = true; });
        ++ready;
      });
    }
    while (ready < 1) std::this_thread::yield();
    memory->revoke();
    for (std::thread& user : users) user.join();
  }
}

TEST("a lease keeps the memory alive") {
  const int64_t before = census(Resource::kMapping).load();
  {
    auto memory = fixture::one_block(make_mapping(Kind::kAnonymous, kPageSize));
    auto lease = memory->lease([] {});
    CHECK_OK(lease);
    memory = nullptr;
    CHECK_EQ(census(Resource::kMapping).load(), before + 1);
  }
  CHECK_EQ(census(Resource::kMapping).load(), before);
}

}  // namespace
