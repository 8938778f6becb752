// Every engine in every mode, over every kernel there is: the list that the contract runs over.
#include <sys/socket.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "engine/sendmsg_engine.h"
#include "engine/splice_engine.h"
#include "engine/uring_engine.h"
#include "fake_kernel.h"
#include "fake_ring.h"
#include "subject.h"
#include "tcp_pair.h"

namespace contract {

namespace {

using fixture::FakeKernel;
using fixture::FakeRing;
using multifd::Engine;
using multifd::FixedBuffers;
using multifd::IoUringAbilities;
using multifd::RegisteredMemory;
using multifd::SendMode;
using multifd::SendmsgEngine;
using multifd::SpliceEngine;
using multifd::UringEngine;

// An engine over a real connection.
class SocketSubject : public Subject {
 public:
  SocketSubject(const Settings& settings, bool zero_copy)
      : Subject(settings), pair_(tcp_pair(zero_copy)) {
    if (!settings.stalled) reader_.emplace(pair_.receiver.get());
  }
  ~SocketSubject() override { ::shutdown(pair_.sender.get(), SHUT_RDWR); }

  Engine& engine() override { return *engine_; }
  std::vector<uint8_t> received() override {
    ::shutdown(pair_.sender.get(), SHUT_WR);
    return reader_->join();
  }
  void break_connection() override {
    const linger at_once{1, 0};
    ::setsockopt(pair_.receiver.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    pair_.receiver.reset();
  }
  void interrupt() override {
    stop = true;
    ::shutdown(pair_.sender.get(), SHUT_RDWR);
  }
  bool reset() override { return engine_->reset(); }

 protected:
  void use(std::unique_ptr<Engine> engine) { engine_ = std::move(engine); }
  [[nodiscard]] int fd() const { return pair_.sender.get(); }

 private:
  Pair pair_;
  std::optional<Reader> reader_;
  std::unique_ptr<Engine> engine_;
};

class SendmsgSubject final : public SocketSubject {
 public:
  SendmsgSubject(const Settings& settings, bool zero_copy) : SocketSubject(settings, zero_copy) {
    use(std::make_unique<SendmsgEngine>(multifd::SendmsgEngineOptions{
        .fd = fd(), .zero_copy = zero_copy, .water_marks = &marks, .stop = &stop}));
  }
};

class UringSubject final : public SocketSubject {
 public:
  UringSubject(const Settings& settings, SendMode mode) : SocketSubject(settings, false) {
    const IoUringAbilities abilities = multifd::probe_io_uring();
    multifd::UringEngineOptions options{
        .fd = fd(), .mode = mode, .memory = {}, .water_marks = &marks, .stop = &stop};
    if (mode == SendMode::kZeroCopyFixed) {
      auto memory = RegisteredMemory::create(payload_ranges());
      if (!memory) SKIP(std::string(memory.error().detail));
      options.memory = *memory;
    }
    auto engine = UringEngine::create(options, abilities);
    if (!engine) SKIP(std::string(engine.error().detail));
    if ((*engine)->mode() != mode) SKIP(std::string((*engine)->downgrades().last().sentence));
    use(std::move(*engine));
  }
};

template <typename Kernel>
class FakeSubject : public Subject {
 public:
  template <typename... Arguments>
  explicit FakeSubject(const Settings& settings, Arguments&&... arguments)
      : Subject(settings), kernel_(settings.faults, settings.seed, arguments...) {
    if (settings.stalled) kernel_.stall();
  }
  Engine& engine() override { return *engine_; }
  std::vector<uint8_t> received() override { return kernel_.stream(); }
  void break_connection() override { kernel_.fail_sends_with = ECONNRESET; }
  void interrupt() override { stop = true; }
  bool reset() override {
    kernel_.never_completes = false;
    return engine_->reset();
  }
  bool reads(const void* begin, size_t size) const override { return kernel_.reads(begin, size); }
  size_t held_high_bytes() const override { return kernel_.pending_high_bytes(); }

 protected:
  Kernel kernel_;
  std::unique_ptr<Engine> engine_;
};

class FakeSendmsgSubject final : public FakeSubject<FakeKernel> {
 public:
  FakeSendmsgSubject(const Settings& settings, bool zero_copy)
      : FakeSubject(settings, first_id(settings)) {
    engine_ = std::make_unique<SendmsgEngine>(
        multifd::SendmsgEngineOptions{.fd = -1,
                                      .zero_copy = zero_copy,
                                      .water_marks = &marks,
                                      .stop = &stop,
                                      .syscalls = &kernel_.table(),
                                      .first_id = first_id(settings)});
  }

 private:
  // Just before the kernel's counter wraps.
  static uint32_t first_id(const Settings& settings) {
    return static_cast<uint32_t>(0 - settings.seed % 200);
  }
};

class FakeUringSubject final : public FakeSubject<FakeRing> {
 public:
  FakeUringSubject(const Settings& settings, SendMode mode, bool fixed_sendmsg)
      : FakeSubject(settings), buffers_(payload_ranges(), 64 * kKiB) {
    kernel_.buffers = &buffers_;
    multifd::UringSetup setup{.ring = kernel_.view(),
                              .mode = mode,
                              .downgrades = {},
                              .file_registered = true,
                              .fixed_sendmsg = fixed_sendmsg,
                              .buffers = &buffers_};
    engine_ = std::make_unique<UringEngine>(
        multifd::UringEngineOptions{.fd = -1,
                                    .mode = mode,
                                    .memory = {},
                                    .water_marks = &marks,
                                    .stop = &stop,
                                    .syscalls = &kernel_.polls()},
        std::move(setup));
  }

 private:
  const FixedBuffers buffers_;
};

class SpliceSubject final : public SocketSubject {
 public:
  explicit SpliceSubject(const Settings& settings) : SocketSubject(settings, false) {
    use(std::make_unique<SpliceEngine>(multifd::SpliceEngineOptions{.fd = fd(), .stop = &stop}));
  }
};

class FakeSpliceSubject final : public FakeSubject<FakeKernel> {
 public:
  explicit FakeSpliceSubject(const Settings& settings) : FakeSubject(settings) {
    engine_ = std::make_unique<SpliceEngine>(
        multifd::SpliceEngineOptions{.fd = -1, .stop = &stop, .syscalls = &kernel_.table()});
  }
  std::vector<uint8_t> received() override {
    kernel_.complete_all();
    return kernel_.stream();
  }
  // Guest memory is read for as long as the far end likes, and nobody counts it; a header is not.
  bool reads(const void* begin, size_t size) const override {
    return begin != payload() && FakeSubject::reads(begin, size);
  }
  size_t held_high_bytes() const override { return 0; }
};

template <typename Type, typename... Arguments>
Variant variant(const char* name, bool zero_copy, bool fake, Arguments... arguments) {
  return {name, zero_copy, fake, false, [arguments...](const Settings& settings) {
            return std::make_unique<Type>(settings, arguments...);
          }};
}

template <typename Type>
Variant by_reference(const char* name, bool fake) {
  Variant variant = contract::variant<Type>(name, false, fake);
  variant.by_reference = true;
  return variant;
}

}  // namespace

const std::vector<Variant>& variants() {
  constexpr SendMode kPlain = SendMode::kPlain;
  constexpr SendMode kZeroCopy = SendMode::kZeroCopy;
  constexpr SendMode kFixed = SendMode::kZeroCopyFixed;
  static const std::vector<Variant> all = {
      variant<SendmsgSubject>("sendmsg, plain, TCP", false, false, false),
      variant<SendmsgSubject>("sendmsg, zero-copy, TCP", true, false, true),
      variant<FakeSendmsgSubject>("sendmsg, plain, fake kernel", false, true, false),
      variant<FakeSendmsgSubject>("sendmsg, zero-copy, fake kernel", true, true, true),
      by_reference<SpliceSubject>("splice, TCP", false),
      by_reference<FakeSpliceSubject>("splice, fake kernel", true),
      variant<UringSubject>("io_uring, plain, TCP", false, false, kPlain),
      variant<UringSubject>("io_uring, zero-copy, TCP", true, false, kZeroCopy),
      variant<UringSubject>("io_uring, registered, TCP", true, false, kFixed),
      variant<FakeUringSubject>("io_uring, plain, fake ring", false, true, kPlain, true),
      variant<FakeUringSubject>("io_uring, zero-copy, fake ring", true, true, kZeroCopy, true),
      variant<FakeUringSubject>("io_uring, registered, fake ring", true, true, kFixed, true),
      variant<FakeUringSubject>("io_uring, registered in one part, fake ring", true, true, kFixed,
                                false)};
  return all;
}

}  // namespace contract
