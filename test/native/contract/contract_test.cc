// The contract of an engine (native/engine/engine.h), once for every engine, mode and kernel:
// each record is released exactly once, bytes come out in order, what is unreleased stays within
// its bound, and nothing is read after its release. A failed random test is repeated by its seed.
#include <algorithm>
#include <thread>

#include "base/kernel_compat.h"
#include "subject.h"

namespace contract {

namespace {

using multifd::ErrorCode;
using multifd::SendRecord;

constexpr size_t kAmple = 64 * 1024 * kKiB;  // a high-water mark that is never reached

using Body = void (*)(const Variant&);

bool for_each_variant(const char* name, Body body, bool zero_copy_only = false) {
  for (const Variant& variant : variants()) {
    if (zero_copy_only && !variant.zero_copy) continue;
    check::add(variant.name + ": " + name, [&variant, body] { body(variant); });
  }
  return true;
}

#define CONTRACT_AT(name, body, ...)                                                      \
  void body(const Variant& variant);                                                      \
  [[maybe_unused]] const bool CHECK_JOIN(body, _added) =                                  \
      for_each_variant(name, body __VA_OPT__(, ) __VA_ARGS__);                            \
  void body(const Variant& variant)
#define CONTRACT(name) CONTRACT_AT(name, CHECK_JOIN(contract_body_, __COUNTER__))
#define ZERO_COPY_CONTRACT(name) CONTRACT_AT(name, CHECK_JOIN(contract_body_, __COUNTER__), true)

// As the issue of records from a channel goes: most are large, some hold a header only.
size_t random_size(check::Random& random) {
  switch (random.below(6)) {
    case 0: return 0;
    case 1: return 1 + random.below(8 * kKiB);
    default: return 1 + random.below(400 * kKiB);
  }
}

CONTRACT("bytes come out in order, and every record is released exactly once") {
  Driver driver(variant, {.seed = check::seed()});
  for (int i = 0; i < 60; ++i) driver.send(random_size(driver.random), 1 + driver.random.below(40));
  driver.check_all();
}

CONTRACT("pages one by one: as many parts as a record can have") {
  Driver driver(variant, {.seed = check::seed()});
  for (int i = 0; i < 10; ++i) {
    SendRecord& record = driver.acquire();
    driver.fill(record, 0);
    while (record.iov_count < multifd::kRecordIovMax) {
      uint8_t* const page =
          driver.subject->payload() + 4 * kKiB * driver.random.below(Subject::kPayloadBytes >> 12);
      record.add(page, 4 * kKiB);
      driver.expected.insert(driver.expected.end(), page, page + 4 * kKiB);
    }
    CHECK_OK(driver.engine.submit(record));
  }
  driver.check_all();
}

CONTRACT("a full flush leaves nothing unreleased, and what was sent may change") {
  Driver driver(variant, {.seed = check::seed()});
  for (int round = 0; round < 8; ++round) {
    for (int i = 0; i < 4; ++i) driver.send(200 * kKiB, 3);
    driver.flush();
    CHECK(!driver.subject->reads(driver.subject->payload(), Subject::kPayloadBytes));
    driver.overwrite_payload();
  }
  driver.check_all();
}

CONTRACT("what is unreleased never exceeds the high-water mark, however large a record is") {
  constexpr size_t kHigh = 100 * kKiB;
  Driver driver(variant, {.seed = check::seed(), .high_bytes = kHigh, .low_bytes = kHigh});
  for (int i = 0; i < 60; ++i) {
    driver.send(1 + driver.random.below(300 * kKiB), 4);
    CHECK(driver.engine.unreleased_bytes() <= kHigh);
  }
  CHECK(driver.subject->held_high_bytes() <= kHigh);
  CHECK(driver.counters().unreleased_high_bytes <= kHigh);
  driver.check_all();
}

ZERO_COPY_CONTRACT("zero-copy ends with the record that reaches its bound") {
  Driver driver(variant, {.seed = check::seed()});
  driver.subject->marks.zero_copy_until_bytes = 250 * kKiB;
  for (int i = 0; i < 10; ++i) driver.send(100 * kKiB, 2);
  driver.flush();
  const uint64_t tried = driver.counters().zero_copy_tried_bytes;
  CHECK(tried >= 300 * kKiB && tried < 310 * kKiB);  // three records, with their headers
  const uint64_t answered = driver.counters().zero_copy_bytes + driver.counters().copied_bytes;
  CHECK(answered > 50 * kKiB && answered <= tried);  // small parts between buffers are copied
  driver.subject->marks.zero_copy_until_bytes = tried + 1;
  for (int i = 0; i < 10; ++i) driver.send(100 * kKiB, 2);
  CHECK(driver.counters().zero_copy_tried_bytes < tried + 110 * kKiB);
  driver.check_all();
}

CONTRACT("the recent high begins anew with each extent, the other one never") {
  Driver driver(variant, {.seed = check::seed()});
  driver.send(300 * kKiB);
  driver.flush();
  const uint64_t high = driver.counters().unreleased_high_bytes;
  CHECK_EQ(driver.counters().unreleased_recent_high_bytes, high);
  driver.engine.begin_extent();
  CHECK_EQ(driver.counters().unreleased_recent_high_bytes, 0U);
  driver.send(40 * kKiB);
  CHECK(driver.counters().unreleased_recent_high_bytes <= 45 * kKiB);
  CHECK_EQ(driver.counters().unreleased_high_bytes, high);
  driver.check_all();
}

ZERO_COPY_CONTRACT("zero-copy goes with the high-water mark, record by record") {
  Driver driver(variant, {.seed = check::seed(), .high_bytes = 0});
  const auto asked_for_zero_copy = [&driver] {
    driver.flush();
    return driver.counters().zero_copy_bytes + driver.counters().copied_bytes;
  };
  for (int i = 0; i < 5; ++i) driver.send(200 * kKiB, 2);
  CHECK_EQ(driver.engine.unreleased_bytes(), 0U);
  CHECK_EQ(asked_for_zero_copy(), 0U);
  driver.subject->marks.high_bytes = 4096 * kKiB;
  for (int i = 0; i < 5; ++i) driver.send(200 * kKiB, 2);
  const uint64_t while_on = asked_for_zero_copy();
  CHECK(while_on >= 5 * 100 * kKiB);
  driver.subject->marks.high_bytes = 0;
  for (int i = 0; i < 5; ++i) driver.send(200 * kKiB, 2);
  CHECK_EQ(asked_for_zero_copy(), while_on);
  for (int i = 0; i < 5; ++i) driver.send(8 * kKiB);  // small records are always copied
  CHECK_EQ(asked_for_zero_copy(), while_on);
  driver.check_all();
}

ZERO_COPY_CONTRACT("the smallest high-water mark that has zero-copy at all does have it") {
  for (const size_t high : {multifd::kZeroCopyMinBytes, 4 * multifd::kZeroCopyMinBytes}) {
    Driver driver(variant, {.seed = check::seed(), .high_bytes = high});
    for (int i = 0; i < 5; ++i) driver.send(200 * kKiB, 2);
    driver.flush();
    const multifd::EngineCounters& now = driver.counters();
    CHECK(now.zero_copy_bytes + now.copied_bytes > now.zero_copy_tried_bytes / 2);
    CHECK(now.unreleased_high_bytes <= high);
    driver.check_all();
  }
}

// Sends until the engine gives up, because another thread interrupts it in the meantime.
void send_until_interrupted(Driver& driver, size_t size) {
  std::atomic<uint64_t> sent{0};
  std::atomic<bool> ended{false};
  std::thread interrupter([&] {
    while (sent < 256 * kKiB && !ended) std::this_thread::yield();
    driver.subject->interrupt();
  });
  for (;;) {
    auto acquired = driver.engine.acquire();
    if (!acquired) break;
    (*acquired)->add(driver.subject->payload(), size);
    if (!driver.engine.submit(**acquired)) break;
    sent = driver.engine.counters().sent_bytes;
  }
  ended = true;
  interrupter.join();
  CHECK(sent >= 256 * kKiB);  // it was not something else that ended it
}

CONTRACT("the stop flag ends a wait at the high-water mark, in a send, and in a flush") {
  for (const size_t high : {600 * kKiB, 1024 * 1024 * kKiB}) {
    Driver driver(variant, {.seed = check::seed(), .high_bytes = high, .stalled = true});
    send_until_interrupted(driver, 200 * kKiB);
    if (driver.engine.unreleased_bytes() > 0) {
      const auto flushed = driver.engine.flush(0);
      CHECK(flushed || flushed.error().code == ErrorCode::kClosed ||
            flushed.error().code == ErrorCode::kPeerClosed);
    }
    CHECK(driver.subject->reset());
    CHECK_EQ(driver.engine.unreleased_bytes(), 0U);
  }
}

CONTRACT("the stop flag ends a wait for a record") {
  Driver driver(variant, {.seed = check::seed(), .high_bytes = SIZE_MAX, .stalled = true});
  // Small enough that the pool is empty before the far end is full.
  send_until_interrupted(driver, 17 * kKiB);
  CHECK(driver.subject->reset());
  CHECK_EQ(driver.engine.unreleased_bytes(), 0U);
}

CONTRACT("a reset releases everything while the far end is stalled") {
  Driver driver(variant, {.seed = check::seed(), .high_bytes = kAmple, .stalled = true});
  send_until_interrupted(driver, 256 * kKiB);
  CHECK(driver.subject->reset());
  driver.overwrite_payload();
  driver.check_pool();
}

CONTRACT("a connection that breaks is an error, not an endless wait") {
  Driver driver(variant, {.seed = check::seed(), .high_bytes = kAmple, .stalled = true});
  for (int i = 0; i < 3; ++i) driver.send(50 * kKiB);
  driver.subject->break_connection();
  // The pool and the memory of a socket are finite: it shows by then at the latest.
  multifd::Result<void> submitted;
  for (int i = 0; i < 1000 && submitted; ++i) {
    auto acquired = driver.engine.acquire();
    if (!acquired) {
      submitted = acquired.error();
      break;
    }
    (*acquired)->add(driver.subject->payload(), 256 * kKiB);
    submitted = driver.engine.submit(**acquired);
  }
  CHECK(!submitted);
  CHECK(submitted.error().code == ErrorCode::kPeerClosed);
  CHECK(driver.subject->reset());
  driver.check_pool();
}

CONTRACT("a random swarm of faults and marks") {
  check::Random random(check::seed());
  const auto percent = [&random](uint64_t limit) {
    return random.below(2) == 0 ? 0 : random.below(limit);
  };
  const int runs = variant.fake ? 40 : 4;
  for (int run = 0; run < runs; ++run) {
    const size_t high = (16 + random.below(500)) * kKiB;
    const Settings settings{
        .faults = {.short_send = percent(101),
                   .eagain = percent(60),
                   .interrupted = percent(60),
                   .option_memory = percent(90),
                   .late = percent(90),
                   .out_of_order = percent(101),
                   .coalesced = percent(101),
                   .copied = percent(101),
                   .stray = percent(30),
                   .no_notification = percent(101),
                   .zero_copy_max =
                       random.below(4) == 0 ? (4 + random.below(60)) * kKiB : SIZE_MAX},
        .seed = random.next(),
        .high_bytes = high,
        .low_bytes = random.below(2 * high)};
    Driver driver(variant, settings);
    const size_t largest = (20 + random.below(100)) * kKiB;
    for (int i = 0; i < 60; ++i) {
      if (random.below(10) == 0) driver.subject->marks.high_bytes = random.below(3) * high / 2;
      driver.send(random.below(largest), 1 + random.below(20));
      if (random.below(20) == 0) driver.flush(random.below(high));
      if (random.below(20) == 0) {
        driver.flush();
        driver.overwrite_payload();
      }
    }
    CHECK(driver.counters().unreleased_high_bytes <= high);
    CHECK(driver.subject->held_high_bytes() <= high);
    if (settings.faults.stray == 0) CHECK_EQ(driver.counters().stray_notifications, 0U);
    driver.check_all();
  }
}

}  // namespace

}  // namespace contract
