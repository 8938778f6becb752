// See subject.h: what all subjects share, and the driver.
#include "subject.h"

#include <cstdlib>
#include <cstring>
#include <set>
#include <span>

namespace contract {

using multifd::SendRecord;

// As a packet of QEMU's size has it.
constexpr size_t kHeaderSize = 1344;

Subject::Subject(const Settings& settings)
    : marks{settings.high_bytes, settings.low_bytes},
      payload_(static_cast<uint8_t*>(std::aligned_alloc(4096, kPayloadBytes))) {}

std::vector<iovec> Subject::payload_ranges() {
  constexpr size_t kFirst = 192 * kKiB;
  return {{payload(), kFirst}, {payload() + kFirst, kPayloadBytes - kFirst}};
}

Driver::Driver(const Variant& of, const Settings& settings)
    : variant(of), subject(of.make(settings)), engine(subject->engine()), random(settings.seed) {
  overwrite_payload();
}

SendRecord& Driver::acquire() {
  auto acquired = engine.acquire();
  CHECK_OK(acquired);
  SendRecord& record = **acquired;
  CHECK_EQ(record.unreleased_calls, 0U);
  CHECK_EQ(record.bytes, 0U);
  CHECK(!subject->reads(record.headers.data(), sizeof record.headers));
  return record;
}

void Driver::fill(SendRecord& record, size_t size, size_t parts) {
  const auto header = std::span(record.headers).first(kHeaderSize);
  for (uint8_t& byte : header) byte = static_cast<uint8_t>(random.next());
  record.add(header.data(), header.size());
  while (size > 0) {
    const size_t part = parts-- <= 1 ? size : 1 + random.below(size);
    record.add(subject->payload() + random.below(Subject::kPayloadBytes - part), part);
    size -= part;
  }
  for (uint32_t i = 0; i < record.iov_count; ++i) {
    const auto* const from = static_cast<const uint8_t*>(record.iov[i].iov_base);
    expected.insert(expected.end(), from, from + record.iov[i].iov_len);
  }
}

void Driver::send(size_t size, size_t parts) {
  SendRecord& record = acquire();
  fill(record, size, parts);
  CHECK_OK(engine.submit(record));
}

void Driver::flush(size_t target_bytes) {
  CHECK_OK(engine.flush(target_bytes));
  CHECK(engine.unreleased_bytes() <= target_bytes);
}

void Driver::overwrite_payload() {
  if (variant.by_reference && !expected.empty()) return;
  for (size_t at = 0; at < Subject::kPayloadBytes; at += 8) {
    const uint64_t bytes = random.next();
    std::memcpy(subject->payload() + at, &bytes, sizeof bytes);
  }
}

void Driver::check_pool() {
  CHECK_EQ(engine.unreleased_bytes(), 0U);
  CHECK(!subject->reads(subject->payload(), Subject::kPayloadBytes));
  std::set<SendRecord*> records;
  for (uint32_t i = 0; i < variant.records(); ++i) CHECK(records.insert(&acquire()).second);
  subject->stop = true;
  CHECK(!engine.acquire());
  subject->stop = false;
}

void Driver::check_all() {
  flush();
  overwrite_payload();
  check_pool();
  CHECK_EQ(counters().sent_bytes, uint64_t{expected.size()});
  const std::vector<uint8_t> received = subject->received();
  CHECK_EQ(received.size(), expected.size());
  CHECK(received == expected);
}

}  // namespace contract
