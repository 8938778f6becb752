// Tests of what only the io_uring engine has, over a fake ring: chains, the pair of completions,
// stepping down. What every engine must do is in contract_test.cc.
#include <algorithm>
#include <span>
#include <string>

#include "base/census.h"
#include "engine/uring_engine.h"
#include "fake_ring.h"
#include "check.h"

namespace {

using fixture::FakeRing;
using fixture::Faults;
using multifd::DowngradeReason;
using multifd::FixedBuffers;
using multifd::SendMode;
using multifd::SendRecord;
using multifd::UringEngine;

constexpr size_t kKiB = 1024;
constexpr size_t kHeaderSize = 1344;

struct Rig {
  explicit Rig(Faults faults = {}, SendMode mode = SendMode::kZeroCopyFixed,
               uint64_t seed = check::seed(), uint32_t generation = 0)
      : ring(faults, seed),
        marks{1024 * kKiB, 0},
        memory(512 * kKiB),
        range{memory.data(), memory.size()},
        buffers({&range, 1}, 256 * kKiB),
        engine({.fd = -1,
                .mode = mode,
                .memory = {},
                .water_marks = &marks,
                .stop = &stop,
                .syscalls = &FakeRing::polls()},
               {.ring = ring.view(),
                .mode = mode,
                .downgrades = {},
                .file_registered = true,
                .fixed_sendmsg = true,
                .buffers = &buffers,
                .generation = generation}) {
    ring.buffers = &buffers;
    check::Random random(check::seed());
    for (uint8_t& byte : memory) byte = static_cast<uint8_t>(random.next());
  }

  SendRecord& acquire() {
    auto acquired = engine.acquire();
    CHECK_OK(acquired);
    return **acquired;
  }
  void add(SendRecord& record, void* from, size_t size) {
    record.add(from, size);
    const auto* const bytes = static_cast<const uint8_t*>(from);
    expected.insert(expected.end(), bytes, bytes + size);
  }
  // A header and `size` bytes of the memory, as a channel sends them; as many packets as asked.
  void send(size_t offset, size_t size, uint32_t packets = 1) {
    SendRecord& record = acquire();
    for (uint32_t i = 0; i < packets; ++i) {
      const auto header = std::span(record.headers).subspan(i * kHeaderSize, kHeaderSize);
      std::ranges::fill(header, static_cast<uint8_t>(expected.size()));
      add(record, header.data(), header.size());
      add(record, memory.data() + offset, size);
    }
    CHECK_OK(engine.submit(record));
  }
  void finish() {
    CHECK_OK(engine.flush(0));
    CHECK_EQ(engine.unreleased_bytes(), 0U);
    CHECK(ring.stream() == expected);
  }

  FakeRing ring;
  multifd::WaterMarks marks;
  std::atomic<bool> stop{false};
  std::vector<uint8_t> memory;
  std::vector<uint8_t> expected;
  const iovec range;
  const FixedBuffers buffers;
  UringEngine engine;
};

TEST("a record is one chain: headers copied, bodies from the registered memory") {
  Rig rig;
  rig.send(0, 100 * kKiB, 2);
  CHECK_EQ(rig.ring.longest_chain(), 4U);
  CHECK_EQ(rig.ring.fixed_bytes(), 200 * kKiB);
  CHECK_EQ(rig.engine.counters().send_calls, 4U);
  rig.finish();
  CHECK_EQ(rig.engine.counters().zero_copy_bytes, uint64_t{200 * kKiB});
}

TEST("a body that crosses from one registered buffer into the next is cut there") {
  Rig rig;
  rig.send(200 * kKiB, 100 * kKiB);
  CHECK_EQ(rig.ring.longest_chain(), 3U);
  CHECK_EQ(rig.ring.fixed_bytes(), 100 * kKiB);
  rig.finish();
}

TEST("without registered memory header and body are one request") {
  Rig rig({}, SendMode::kZeroCopy);
  rig.send(0, 100 * kKiB, 2);
  CHECK_EQ(rig.ring.longest_chain(), 1U);
  CHECK_EQ(rig.engine.counters().send_calls, 1U);
  CHECK_EQ(rig.ring.fixed_bytes(), 0U);
  rig.finish();
}

TEST("a short send cancels the rest of its chain, which is sent again from there") {
  Rig rig({.send_max = 30 * kKiB});
  for (int i = 0; i < 20; ++i) rig.send(0, 100 * kKiB, 2);
  CHECK(rig.engine.counters().send_calls > 20 * 8);
  rig.finish();
}

TEST("a result without MORE releases, one with MORE waits for its notification") {
  Rig at_once({.no_notification = 100});
  at_once.send(0, 100 * kKiB);
  CHECK_EQ(at_once.engine.unreleased_bytes(), 0U);
  CHECK_EQ(at_once.engine.counters().notifications, 0U);
  // Nobody said that it was not copied.
  CHECK_EQ(at_once.engine.counters().copied_bytes, uint64_t{100 * kKiB});
  at_once.finish();
  Rig later;
  later.ring.never_completes = true;
  later.send(0, 100 * kKiB);
  CHECK_EQ(later.engine.unreleased_bytes(), 100 * kKiB);
  later.ring.complete();
  later.finish();
}

TEST("a refused request may have a notification too, and holds its record until then") {
  bool seen = false;
  for (uint64_t i = 0; i < 20; ++i) {
    Rig rig({.zero_copy_max = 64 * kKiB}, SendMode::kZeroCopy, check::seed() + i);
    rig.ring.never_completes = true;
    rig.stop = false;
    rig.send(0, 100 * kKiB);
    seen = seen || rig.ring.pending_sends() > 2;
    rig.ring.complete_all();
    rig.finish();
  }
  CHECK(seen);
}

TEST("a full flush waits for the notifications of refused requests too") {
  for (uint64_t i = 0; i < 20; ++i) {
    Rig rig({.zero_copy_max = 4 * kKiB}, SendMode::kZeroCopy, check::seed() + i);
    rig.ring.never_completes = true;
    rig.send(0, 100 * kKiB);
    CHECK_EQ(rig.engine.unreleased_bytes(), 0U);  // copied in the end
    rig.ring.never_completes = false;
    rig.finish();
    CHECK_EQ(rig.ring.pending_sends(), 0U);
  }
}

TEST("a send above the locked-memory limit is split, in the end copied, and counted") {
  for (const SendMode mode : {SendMode::kZeroCopy, SendMode::kZeroCopyFixed}) {
    Rig split({.zero_copy_max = 64 * kKiB}, mode);
    for (int i = 0; i < 5; ++i) split.send(0, 200 * kKiB);
    split.finish();
    CHECK(split.engine.counters().refused_by_memlock > 0);
    CHECK(split.engine.counters().zero_copy_bytes > uint64_t{5 * 150 * kKiB});
    Rig copied({.zero_copy_max = 4 * kKiB}, mode);
    for (int i = 0; i < 5; ++i) copied.send(0, 200 * kKiB);
    copied.finish();
    CHECK(copied.engine.counters().refused_by_memlock > 0);
    CHECK_EQ(copied.engine.counters().zero_copy_bytes, 0U);
    CHECK(copied.engine.mode() == mode);  // a limit is no reason to give it up
  }
}

TEST("usage reports are counted apart") {
  Rig rig({.copied = 50});
  for (int i = 0; i < 60; ++i) rig.send(0, 100 * kKiB);
  rig.finish();
  const auto& counters = rig.engine.counters();
  CHECK(counters.copied_bytes > 0);
  CHECK(counters.zero_copy_bytes > 0);
  CHECK_EQ(counters.copied_bytes + counters.zero_copy_bytes, uint64_t{60 * 100 * kKiB});
  CHECK_EQ(counters.notifications, 60U);
}

TEST("registered, not registered, plain: each refusal is one step down, with its reason") {
  Rig one({.refuse_fixed = EFAULT});
  one.send(0, 100 * kKiB, 2);
  one.finish();
  CHECK(one.engine.mode() == SendMode::kZeroCopy);
  CHECK(one.engine.downgrades().last().reason == DowngradeReason::kSendRefused);
  const std::string sentence = one.engine.downgrades().last().sentence;
  CHECK(sentence.find("Bad address") != std::string::npos);
  Rig two({.refuse_zero_copy = EOPNOTSUPP});
  two.send(0, 100 * kKiB, 2);
  two.finish();
  CHECK(two.engine.mode() == SendMode::kPlain);
  CHECK_EQ(two.engine.counters().zero_copy_bytes + two.engine.counters().copied_bytes, 0U);
  Rig real({.refuse_zero_copy = EFAULT}, SendMode::kZeroCopy);
  SendRecord& record = real.acquire();
  record.add(real.memory.data(), 100 * kKiB);
  CHECK(!real.engine.submit(record));  // not registered memory that is not there is our mistake
}

TEST("completions that were never due are counted and change nothing") {
  Rig rig;
  rig.ring.never_completes = true;
  rig.send(0, 100 * kKiB);
  rig.ring.forge((uint64_t{1} << 32) | 5, 0, IORING_CQE_F_NOTIF);   // a slot not in use
  rig.ring.forge((uint64_t{9} << 32) | 1, 0, IORING_CQE_F_NOTIF);   // another generation
  rig.ring.forge((uint64_t{1} << 32) | 1, 0, 0);                    // its result came already
  rig.ring.forge((uint64_t{1} << 32) | 9999, 0, IORING_CQE_F_NOTIF);
  rig.send(0, 100 * kKiB);
  CHECK_EQ(rig.engine.unreleased_bytes(), 200 * kKiB);
  CHECK_EQ(rig.engine.counters().stray_notifications, 4U);
  rig.ring.complete_all();
  rig.finish();
}

TEST("at the 2^32nd use of a slot its completions are still known") {
  Rig rig({}, SendMode::kZeroCopyFixed, check::seed(), UINT32_MAX - 2);
  for (int i = 0; i < 10; ++i) rig.send(0, 100 * kKiB, 2);
  rig.finish();
  CHECK_EQ(rig.engine.counters().zero_copy_bytes, uint64_t{10 * 200 * kKiB});
  CHECK_EQ(rig.engine.counters().stray_notifications, 0U);
}

TEST("a record that is never released is leaked with its ring, and counted") {
  static SendRecord* leaked;  // keeps the leak checker satisfied, as the kernel would
  static multifd::Ring* leaked_ring;
  const int64_t before = multifd::census(multifd::Resource::kLeakedRecord).load();
  {
    FakeRing ring({}, 1);
    multifd::WaterMarks marks{1024 * kKiB, 0};
    std::atomic<bool> stop{false};
    std::vector<uint8_t> memory(100 * kKiB);
    auto view = ring.view();
    leaked_ring = view.get();
    UringEngine engine({.fd = -1,
                        .mode = SendMode::kZeroCopy,
                        .memory = {},
                        .water_marks = &marks,
                        .stop = &stop},
                       {.ring = std::move(view),
                        .mode = SendMode::kZeroCopy,
                        .downgrades = {},
                        .file_registered = true,
                        .fixed_sendmsg = true,
                        .buffers = nullptr,
                        .generation = 0});
    ring.never_completes = true;
    leaked = *engine.acquire();
    leaked->add(memory.data(), memory.size());
    CHECK_OK(engine.submit(*leaked));
    CHECK(!engine.reset());
  }
  CHECK_EQ(multifd::census(multifd::Resource::kLeakedRecord).load(), before + 1);
  CHECK_EQ(leaked->unreleased_calls, 1U);
  multifd::census(multifd::Resource::kLeakedRecord).fetch_sub(1);
  delete leaked;
  delete leaked_ring;
}

TEST("an address is found in its buffer, and nowhere else") {
  std::vector<uint8_t> bytes(100);
  const iovec ranges[] = {{&bytes[50], 30}, {&bytes[10], 25}};
  const FixedBuffers buffers(ranges, 10);
  CHECK_EQ(buffers.pieces().size(), 6U);
  for (size_t at = 0; at < bytes.size(); ++at) {
    FixedBuffers::Part part;
    const bool inside = (at >= 10 && at < 35) || (at >= 50 && at < 80);
    CHECK_EQ(buffers.find(&bytes[at], part), inside);
    if (!inside) continue;
    const auto* const begin = static_cast<const uint8_t*>(buffers.pieces()[part.buffer].iov_base);
    CHECK(begin <= &bytes[at]);
    CHECK_EQ(begin + buffers.pieces()[part.buffer].iov_len - part.bytes, &bytes[at]);
  }
}

}  // namespace
