// Tests of what only the sendmsg engine has, over a fake kernel: the ledger of ids, the two causes
// of ENOBUFS, the error queue. What every engine must do is in contract_test.cc.
#include <algorithm>
#include <atomic>
#include <memory>
#include <set>
#include <vector>

#include "base/census.h"
#include "check.h"
#include "engine/sendmsg_engine.h"
#include "fake_kernel.h"

namespace {

using fixture::FakeKernel;
using fixture::Faults;
using multifd::census;
using multifd::ErrorCode;
using multifd::Resource;
using multifd::SendmsgEngine;
using multifd::SendRecord;
using multifd::WaterMarks;

constexpr size_t kKiB = 1024;
constexpr uint32_t kPool = 64;  // records of an engine with zero-copy

// An engine, the kernel below it, and what must come out of the socket.
struct Rig {
  explicit Rig(Faults faults, uint64_t seed = 1, uint32_t first_id = 0, bool zero_copy = true,
               size_t high_bytes = 1024 * kKiB, size_t low_bytes = 0)
      : kernel(faults, seed, first_id),
        marks{high_bytes, low_bytes},
        payload(512 * kKiB),
        random(seed),
        engine({.fd = -1,
                .zero_copy = zero_copy,
                .water_marks = &marks,
                .stop = &stop,
                .syscalls = &kernel.table(),
                .first_id = first_id}) {
    for (uint8_t& byte : payload) byte = static_cast<uint8_t>(random.next());
  }

  SendRecord& acquire() {
    auto acquired = engine.acquire();
    CHECK_OK(acquired);
    SendRecord& record = **acquired;
    CHECK_EQ(record.unreleased_calls, 0U);
    CHECK(!kernel.reads(record.headers.data(), sizeof record.headers));
    return record;
  }

  // A header that is different each time, and `size` bytes in up to `parts` pieces.
  void fill(SendRecord& record, size_t size, size_t parts = 1) {
    for (uint8_t& byte : record.headers) byte = static_cast<uint8_t>(random.next());
    record.add(record.headers.data(), record.headers.size());
    while (size > 0) {
      const size_t part = parts-- <= 1 ? size : 1 + random.below(size);
      record.add(payload.data() + random.below(payload.size() - part), part);
      size -= part;
    }
    for (uint32_t i = 0; i < record.iov_count; ++i) {
      const auto* const from = static_cast<const uint8_t*>(record.iov[i].iov_base);
      expected.insert(expected.end(), from, from + record.iov[i].iov_len);
    }
  }

  void send(size_t size, size_t parts = 1) {
    SendRecord& record = acquire();
    fill(record, size, parts);
    CHECK_OK(engine.submit(record));
  }

  // After a full flush: every record of the pool is free, and each is there once.
  void check_pool(uint32_t count) {
    CHECK_EQ(engine.unreleased_bytes(), 0U);
    CHECK_EQ(kernel.pending_sends(), 0U);
    std::set<SendRecord*> records;
    for (uint32_t i = 0; i < count; ++i) CHECK(records.insert(&acquire()).second);
    stop = true;
    CHECK(!engine.acquire());
    stop = false;
  }

  FakeKernel kernel;
  WaterMarks marks;
  std::atomic<bool> stop{false};
  std::vector<uint8_t> payload;
  std::vector<uint8_t> expected;
  check::Random random;
  SendmsgEngine engine;
};

TEST("a record is not free again before all of its sends are released") {
  Rig rig({.short_send = 100}, 7);
  SendRecord& record = rig.acquire();
  rig.fill(record, 200 * kKiB);
  CHECK_OK(rig.engine.submit(record));
  const size_t sends = rig.kernel.pending_sends();
  CHECK(sends > 1);
  CHECK_EQ(size_t{record.unreleased_calls}, sends);
  CHECK_EQ(rig.engine.unreleased_bytes(), rig.kernel.pending_bytes());
  while (rig.kernel.pending_sends() > 1) rig.kernel.complete(rig.kernel.pending_sends() - 1);
  CHECK_OK(rig.engine.flush(rig.kernel.pending_bytes()));
  CHECK_EQ(record.unreleased_calls, 1U);
  CHECK_OK(rig.engine.flush(0));
  CHECK_EQ(record.unreleased_calls, 0U);
  rig.check_pool(kPool);
  CHECK(rig.kernel.stream() == rig.expected);
}

TEST("small records are copied, and so never held") {
  Rig rig({});
  rig.kernel.never_completes = true;
  for (int i = 0; i < 200; ++i) rig.send(8 * kKiB);
  CHECK_EQ(rig.engine.unreleased_bytes(), 0U);
  CHECK_EQ(rig.engine.counters().notifications, 0U);
  CHECK(rig.kernel.stream() == rig.expected);
}

TEST("only a record that says so lets the kernel wait for more") {
  Rig rig({}, 7);
  for (const bool more : {true, false}) {
    SendRecord& record = rig.acquire();
    rig.fill(record, 64);
    record.more = more;
    CHECK_OK(rig.engine.submit(record));
    CHECK_EQ((rig.kernel.last_flags & MSG_MORE) != 0, more);
  }
  SendRecord& record = rig.acquire();
  rig.fill(record, 64);
  record.more = true;
  CHECK_OK(rig.engine.submit(record));
  rig.send(64);  // the same record again
  CHECK_EQ(rig.kernel.last_flags & MSG_MORE, 0);
}

TEST("at the high-water mark the engine waits down to the low-water mark") {
  Rig rig({}, 1, 0, true, 300 * kKiB, 120 * kKiB);
  for (int i = 0; i < 3; ++i) rig.send(90 * kKiB);
  CHECK_EQ(rig.engine.counters().waits_at_high_water, 0U);
  rig.send(90 * kKiB);
  CHECK_EQ(rig.engine.counters().waits_at_high_water, 1U);
  CHECK(rig.engine.unreleased_bytes() <= 120 * kKiB + 92 * kKiB);
  CHECK(rig.kernel.pending_high_bytes() <= 300 * kKiB);
  CHECK_OK(rig.engine.flush(0));
  rig.check_pool(kPool);
}

TEST("a wait that let the connection run dry is counted apart") {
  for (const bool dry : {false, true}) {
    Rig rig({}, 1, 0, true, 300 * kKiB, 120 * kKiB);
    rig.kernel.runs_dry = dry;
    for (int i = 0; i < 10; ++i) rig.send(90 * kKiB);
    const auto& counters = rig.engine.counters();
    CHECK(counters.waits_at_high_water > 2);
    CHECK_EQ(counters.dry_waits, dry ? counters.waits_at_high_water : 0U);
    CHECK_OK(rig.engine.flush(0));
  }
}

TEST("what was released in the meantime is no wait") {
  Rig rig({}, 1, 0, true, 300 * kKiB, 120 * kKiB);
  for (int i = 0; i < 10; ++i) {
    rig.send(90 * kKiB);
    rig.kernel.complete_all();
  }
  CHECK_EQ(rig.engine.counters().waits_at_high_water, 0U);
  CHECK_OK(rig.engine.flush(0));
}

TEST("after plain records too, what was released is taken") {
  Rig rig({});
  rig.send(90 * kKiB);
  CHECK(rig.engine.unreleased_bytes() > 0);
  rig.kernel.complete_all();
  rig.marks.high_bytes = 0;
  rig.send(90 * kKiB);
  CHECK_EQ(rig.engine.unreleased_bytes(), 0U);
  CHECK(rig.kernel.stream() == rig.expected);
}

TEST("an empty pool waits for a release") {
  Rig rig({}, 1, 0, true, SIZE_MAX);
  for (uint32_t i = 0; i < kPool; ++i) rig.send(20 * kKiB);
  CHECK_EQ(rig.kernel.pending_sends(), size_t{kPool});
  rig.send(20 * kKiB);
  CHECK(rig.kernel.pending_sends() <= kPool);
  CHECK_OK(rig.engine.flush(0));
  rig.check_pool(kPool);
  CHECK(rig.kernel.stream() == rig.expected);
}

TEST("a full ledger waits too: no id is forgotten while it is outstanding") {
  // 86 calls per record: the ledger is full long before the pool is empty.
  Rig rig({.late = 50, .out_of_order = 50, .send_max = 256}, 11, 0xFFFFFE00, true, SIZE_MAX);
  size_t most = 0;
  rig.kernel.on_poll = [&] { most = std::max(most, rig.kernel.pending_sends()); };
  for (int i = 0; i < 200; ++i) rig.send(20 * kKiB, 4);
  CHECK_EQ(most, 1024U);
  CHECK_OK(rig.engine.flush(0));
  rig.check_pool(kPool);
  CHECK_EQ(rig.engine.counters().stray_notifications, 0U);
  CHECK(rig.kernel.stream() == rig.expected);
}

TEST("a refusal for want of memory is waited out while notifications are due") {
  Rig rig({.option_memory = 70}, 5);
  for (int i = 0; i < 60; ++i) rig.send(60 * kKiB);
  const auto& counters = rig.engine.counters();
  CHECK(counters.refused_by_optmem > 0);
  CHECK_EQ(counters.refused_by_memlock, 0U);
  CHECK_OK(rig.engine.flush(0));
  rig.check_pool(kPool);
  CHECK_EQ(counters.zero_copy_bytes, uint64_t{rig.expected.size()});
  CHECK(rig.kernel.stream() == rig.expected);
}

TEST("a send that locked memory can never hold is split, in the end copied") {
  Rig split({.zero_copy_max = 64 * kKiB});
  split.send(256 * kKiB);
  CHECK_OK(split.engine.flush(0));
  CHECK_EQ(split.engine.counters().zero_copy_bytes, uint64_t{split.expected.size()});
  CHECK(split.kernel.stream() == split.expected);
  Rig copied({.zero_copy_max = 4 * kKiB});
  copied.send(256 * kKiB);
  CHECK_EQ(copied.engine.counters().zero_copy_bytes, 0U);
  CHECK_EQ(copied.engine.counters().notifications, 0U);
  CHECK(copied.engine.counters().refused_by_memlock > 0);
  CHECK_EQ(copied.engine.counters().refused_by_optmem, 0U);
  CHECK(copied.kernel.stream() == copied.expected);
  copied.check_pool(kPool);
}

TEST("where no limit on locked memory binds, option memory is what is short") {
  FakeKernel kernel({.zero_copy_max = 64 * kKiB}, 1);
  WaterMarks marks{1024 * kKiB, 0};
  std::atomic<bool> stop{false};
  std::vector<uint8_t> payload(256 * kKiB);
  for (const bool limited : {true, false}) {
    SendmsgEngine engine({.fd = -1,
                          .zero_copy = true,
                          .water_marks = &marks,
                          .stop = &stop,
                          .syscalls = &kernel.table(),
                          .locked_memory_limited = limited});
    SendRecord& record = **engine.acquire();
    record.add(payload.data(), payload.size());
    CHECK_OK(engine.submit(record));
    CHECK_OK(engine.flush(0));
    CHECK_EQ(engine.counters().refused_by_memlock > 0, limited);
    CHECK_EQ(engine.counters().refused_by_optmem > 0, !limited);
    kernel.restart_ids();
  }
}

TEST("a refusal is locked memory also while there are notifications to read") {
  Rig rig({.zero_copy_max = 64 * kKiB});
  rig.send(60 * kKiB);
  rig.kernel.complete_all();
  CHECK(rig.kernel.unread_notifications() > 0);
  rig.send(100 * kKiB);
  CHECK(rig.engine.counters().refused_by_memlock > 0);
  CHECK_EQ(rig.engine.counters().refused_by_optmem, 0U);
  CHECK_OK(rig.engine.flush(0));
  CHECK(rig.kernel.stream() == rig.expected);
}

TEST("copied and not copied bytes are counted apart") {
  Rig rig({.copied = 50}, 9);
  for (int i = 0; i < 60; ++i) rig.send(40 * kKiB);
  CHECK_OK(rig.engine.flush(0));
  const auto& counters = rig.engine.counters();
  CHECK(counters.copied_bytes > 0);
  CHECK(counters.zero_copy_bytes > 0);
  CHECK_EQ(counters.copied_bytes + counters.zero_copy_bytes, uint64_t{rig.expected.size()});
  CHECK_EQ(counters.sent_bytes, uint64_t{rig.expected.size()});
}

TEST("a stopped engine gives up, whatever it waits for") {
  const auto stop_at_third_poll = [](Rig& rig) {
    rig.kernel.never_completes = true;
    rig.kernel.on_poll = [&rig, polls = 0]() mutable {
      if (++polls == 3) rig.stop = true;
    };
  };
  {
    Rig flushing({});
    stop_at_third_poll(flushing);
    flushing.send(100 * kKiB);
    const auto flushed = flushing.engine.flush(0);
    CHECK(!flushed);
    CHECK(flushed.error().code == ErrorCode::kClosed);
    flushing.kernel.complete_all();
    CHECK(flushing.engine.reset());
  }
  {
    Rig at_high_water({}, 1, 0, true, 150 * kKiB);
    stop_at_third_poll(at_high_water);
    at_high_water.send(100 * kKiB);
    SendRecord& record = at_high_water.acquire();
    at_high_water.fill(record, 100 * kKiB);
    CHECK(!at_high_water.engine.submit(record));
    at_high_water.kernel.complete_all();
    CHECK(at_high_water.engine.reset());
  }
  {
    Rig acquiring({}, 1, 0, true, SIZE_MAX);
    stop_at_third_poll(acquiring);
    for (uint32_t i = 0; i < kPool; ++i) acquiring.send(20 * kKiB);
    CHECK(!acquiring.engine.acquire());
    acquiring.kernel.complete_all();
    CHECK(acquiring.engine.reset());
  }
  {
    Rig sending({.eagain = 100}, 1, 0, false);
    stop_at_third_poll(sending);
    SendRecord& record = sending.acquire();
    sending.fill(record, 100 * kKiB);
    CHECK(!sending.engine.submit(record));
    CHECK(sending.engine.reset());
  }
}

TEST("a record that is never released is leaked and counted, not freed") {
  static SendRecord* leaked;  // keeps the leak checker satisfied, as the kernel would
  const int64_t before = census(Resource::kLeakedRecord).load();
  {
    Rig rig({});
    rig.kernel.never_completes = true;
    leaked = &rig.acquire();
    rig.fill(*leaked, 100 * kKiB);
    CHECK_OK(rig.engine.submit(*leaked));
    CHECK(!rig.engine.reset());
  }
  CHECK_EQ(census(Resource::kLeakedRecord).load(), before + 1);
  CHECK_EQ(leaked->unreleased_calls, 1U);  // still there to be read
  census(Resource::kLeakedRecord).fetch_sub(1);
  delete leaked;
}

}  // namespace
