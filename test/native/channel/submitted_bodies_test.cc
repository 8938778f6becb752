// What a record points at outlives the sender that filled it: the kernel may still read a record
// when a channel is told to stop in the middle of a submission. Under AddressSanitizer a test that
// reads freed memory ends the program.
#include <cstring>

#include "channel_fixture.h"
#include "engine/record_pool.h"
#include "fake_codec.h"

namespace {

using namespace fixture;  // NOLINT

constexpr size_t kPages = 300;  // more than one record holds

// Stops in the middle of the submission after `whole` whole ones, as io_uring does when told to:
// the request is with the kernel, and nobody knows yet what it read.
class InterruptedEngine final : public Engine {
 public:
  explicit InterruptedEngine(int whole) : whole_(whole) {}
  ~InterruptedEngine() override {
    if (kept_ != nullptr) pool_.call_released(kept_->index);
  }
  Result<SendRecord*> acquire() override {
    SendRecord* const record = pool_.take();
    CHECK(record != nullptr);
    return record;
  }
  Result<void> submit(SendRecord& record) override {
    RecordPool::begin_submit(record);
    const bool interrupted = whole_-- == 0;
    if (interrupted) {
      ++record.unreleased_calls;
      kept_ = &record;
      expected_ = bytes_read(record);
    }
    pool_.end_submit(record);
    if (!interrupted) return {};
    return Error::make(ErrorCode::kClosed, "the channel was told to stop");
  }
  void begin_extent() override {}
  Result<void> flush(size_t) override { return {}; }
  [[nodiscard]] size_t unreleased_bytes() const override { return 0; }
  [[nodiscard]] const EngineCounters& counters() const override { return counters_; }
  [[nodiscard]] SendMode mode() const override { return SendMode::kPlain; }
  [[nodiscard]] const Downgrades& downgrades() const override { return downgrades_; }
  // As the kernel, which reads until the request is cancelled.
  bool reset() override { return kept_ != nullptr && bytes_read(*kept_) == expected_; }

 private:
  static std::vector<uint8_t> bytes_read(const SendRecord& record) {
    std::vector<uint8_t> bytes;
    bytes.reserve(record.bytes);
    for (uint32_t i = 0; i < record.iov_count; ++i) {
      const auto* const from = static_cast<const uint8_t*>(record.iov[i].iov_base);
      bytes.insert(bytes.end(), from, from + record.iov[i].iov_len);
    }
    CHECK_EQ(bytes.size(), record.bytes);
    return bytes;
  }

  int whole_;
  RecordPool pool_{1};
  SendRecord* kept_ = nullptr;
  std::vector<uint8_t> expected_;
  const EngineCounters counters_;
  const Downgrades downgrades_;
};

void stop_while_submitting(TrackerKind kind, PayloadEncoder* encoder, int whole) {
  const auto memory = make_memory(kPages * kPageSize);
  uint8_t* const pages = memory->blocks()[0].host();
  for (uint64_t page = 0; page < kPages; ++page) fill_page(pages + page * kPageSize, page + 1);
  auto ram = RamState::create(memory, make_tracker(kind, memory).tracker);
  CHECK_OK(ram);
  CHECK_OK((*ram)->start());
  CHECK_OK((*ram)->begin_round());
  InterruptedEngine engine(whole);
  std::atomic<uint64_t> packet_num{0};
  {
    ExtentSender sender(**ram, engine, packet_num, [](const PageCounters&) {},
                        PacketSize::kQemu, encoder);
    Result<void> sent;
    for (const Extent& extent : (*ram)->plan(kPages * kPageSize)) {
      sent = sender.send(extent);
      if (!sent) break;
    }
    CHECK(!sent);
  }
  // Nor is it guest memory, which may be written to, or go, meanwhile.
  std::memset(pages, 0, kPages * kPageSize);
  CHECK(engine.reset());
}

TEST("hashed copies outlive their sender") {
  for (const int whole : {0, 1}) stop_while_submitting(TrackerKind::kHash, nullptr, whole);
}

TEST("compressed bodies outlive their sender") {
  for (const TrackerKind kind : {TrackerKind::kVmm, TrackerKind::kHash}) {
    fake_codec::Encoder encoder;
    for (const int whole : {0, 1}) stop_while_submitting(kind, &encoder, whole);
  }
}

}  // namespace
