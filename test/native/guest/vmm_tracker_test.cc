// The VMM's log: bytes in every alignment, marks outside the blocks, marks after the end.
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "guest/dirty_tracker.h"
#include "guest_fixture.h"

namespace {

using namespace multifd;
using fixture::Kind;
using fixture::make_mapping;

TEST("bytes of a dirty bitmap are ORed in at any page and of any length") {
  check::Random random(check::seed());
  constexpr uint64_t kPages = 1000;
  const auto memory = fixture::one_block(make_mapping(Kind::kMemfd, kPages * kPageSize));
  auto made = make_vmm_tracker(memory);
  CHECK_OK(made);
  auto into = DirtyBitmap::create(kPages);
  CHECK_OK(into);
  for (int round = 0; round < 500; ++round) {
    const uint64_t first = random.below(kPages + 10);
    std::vector<uint8_t> bytes(random.below(150));
    for (uint8_t& byte : bytes) {
      byte = random.below(3) == 0 ? static_cast<uint8_t>(random.next()) : uint8_t{0};
    }
    std::vector<bool> model(kPages);
    uint64_t expected = 0;
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      if (((bytes[bit / 8] >> (bit % 8)) & 1) == 0 || first + bit >= kPages) continue;
      model[first + bit] = true;
      ++expected;
    }
    made->log->or_bytes(0, first, bytes.data(), bytes.size());
    into->clear();
    const auto added = made->tracker->collect(0, {0, kPages}, *into, nullptr);
    CHECK_OK(added);
    CHECK_EQ(*added, expected);
    for (uint64_t page = 0; page < kPages; ++page) {
      CHECK_EQ(into->test(page), static_cast<bool>(model[page]));
    }
  }
}

TEST("marks outside the blocks are ignored") {
  const auto memory = fixture::one_block(make_mapping(Kind::kMemfd, 100 * kPageSize));
  auto made = make_vmm_tracker(memory);
  CHECK_OK(made);
  auto into = DirtyBitmap::create(100);
  CHECK_OK(into);
  const std::vector<uint8_t> ones(64, 0xff);
  made->log->mark(1, {0, 1});
  made->log->mark(0, {100, 1});
  made->log->mark(0, {~0ULL, ~0ULL});
  made->log->mark(0, {5, 0});
  made->log->or_bytes(7, 0, ones.data(), ones.size());
  made->log->or_bytes(0, 100, ones.data(), ones.size());
  made->log->or_bytes(0, ~0ULL - 3, ones.data(), ones.size());
  auto added = made->tracker->collect(0, {0, 100}, *into, nullptr);
  CHECK_OK(added);
  CHECK_EQ(*added, 0U);
  made->log->mark(0, {98, ~0ULL});
  made->log->or_bytes(0, 97, ones.data(), ones.size());
  added = made->tracker->collect(0, {0, 100}, *into, nullptr);
  CHECK_OK(added);
  CHECK_EQ(*added, 3U);
}

TEST("the log outlives its tracker and the memory") {
  const int64_t before = census(Resource::kMapping).load();
  std::shared_ptr<VmmDirtyLog> log;
  {
    const auto memory = fixture::one_block(make_mapping(Kind::kMemfd, 100 * kPageSize));
    auto made = make_vmm_tracker(memory);
    CHECK_OK(made);
    log = made->log;
  }
  const uint8_t ones[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  log->mark(0, {0, 100});
  log->or_bytes(0, 3, ones, sizeof ones);
  log = nullptr;
  CHECK_EQ(census(Resource::kMapping).load(), before);
}

TEST("marks from two threads while two others collect are each found once at least") {
  constexpr uint64_t kPages = 4096;
  const auto memory = fixture::one_block(make_mapping(Kind::kMemfd, kPages * kPageSize));
  auto made = make_vmm_tracker(memory);
  CHECK_OK(made);
  auto into = DirtyBitmap::create(kPages);
  CHECK_OK(into);
  std::vector<std::thread> threads;
  for (uint64_t half = 0; half < 2; ++half) {
    threads.emplace_back([&, half] {
      for (uint64_t page = half; page < kPages; page += 2) made->log->mark(0, {page, 1});
    });
    threads.emplace_back([&, half] {
      for (int i = 0; i < 100; ++i) {
        if (!made->tracker->collect(0, {half * kPages / 2, kPages / 2}, *into, nullptr)) {
          std::abort();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_OK(made->tracker->collect(0, {0, kPages}, *into, nullptr));
  CHECK_EQ(into->count({0, kPages}), kPages);
}

}  // namespace
