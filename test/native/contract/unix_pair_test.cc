// The engines over a UNIX socket: no zero-copy there, which an engine notices while it runs.
#include "engine/sendmsg_engine.h"
#include "engine/uring_engine.h"
#include "check.h"
#include "tcp_pair.h"

namespace contract {

namespace {

using multifd::DowngradeReason;
using multifd::Engine;
using multifd::SendMode;

struct Channel {
  Pair pair = unix_pair();
  multifd::WaterMarks marks{4 << 20, 1 << 20};
  std::atomic<bool> stop{false};
};

void exchange(const Channel& channel, Engine& engine) {
  check::Random random(check::seed());
  std::vector<uint8_t> payload(1 << 20);
  for (uint8_t& byte : payload) byte = static_cast<uint8_t>(random.next());
  Reader reader(channel.pair.receiver.get());
  std::vector<uint8_t> expected;
  for (int i = 0; i < 40; ++i) {
    auto acquired = engine.acquire();
    CHECK_OK(acquired);
    const size_t size = 1 + random.below(payload.size() / 2);
    const uint8_t* const from = payload.data() + random.below(payload.size() / 2);
    (*acquired)->add(const_cast<uint8_t*>(from), size);
    expected.insert(expected.end(), from, from + size);
    CHECK_OK(engine.submit(**acquired));
  }
  CHECK_OK(engine.flush(0));
  shutdown(channel.pair.sender.get(), SHUT_WR);
  CHECK(reader.join() == expected);
  CHECK_EQ(engine.counters().sent_bytes, uint64_t{expected.size()});
}

std::unique_ptr<multifd::UringEngine> uring_engine(const Channel& channel, SendMode mode) {
  auto engine = multifd::UringEngine::create({.fd = channel.pair.sender.get(),
                                              .mode = mode,
                                              .memory = {},
                                              .water_marks = &channel.marks,
                                              .stop = &channel.stop},
                                             multifd::probe_io_uring());
  if (!engine) SKIP(std::string(engine.error().detail));
  return std::move(*engine);
}

TEST("sendmsg over a UNIX pair") {
  Channel channel;
  multifd::SendmsgEngine engine({.fd = channel.pair.sender.get(),
                                 .water_marks = &channel.marks,
                                 .stop = &channel.stop});
  exchange(channel, engine);
}

TEST("io_uring over a UNIX pair") {
  Channel channel;
  const auto engine = uring_engine(channel, SendMode::kPlain);
  exchange(channel, *engine);
  CHECK(engine->downgrades().last().reason == DowngradeReason::kNone);
}

TEST("io_uring goes on plain where the socket has no zero-copy, and says why") {
  Channel channel;
  const auto engine = uring_engine(channel, SendMode::kZeroCopy);
  if (engine->mode() != SendMode::kZeroCopy) {
    SKIP(std::string(engine->downgrades().last().sentence));
  }
  exchange(channel, *engine);
  CHECK(engine->mode() == SendMode::kPlain);
  CHECK(engine->downgrades().last().reason == DowngradeReason::kSendRefused);
  CHECK(std::string(engine->downgrades().last().sentence).find("Operation not supported") !=
        std::string::npos);
  CHECK_EQ(engine->counters().zero_copy_bytes, 0U);
}

TEST("what a kernel lacks is found before, with the reason") {
  Channel channel;
  multifd::IoUringAbilities abilities = multifd::probe_io_uring();
  if (!abilities.io_uring) SKIP(std::string(abilities.io_uring.reason));
  const multifd::UringEngineOptions options{.fd = channel.pair.sender.get(),
                                            .mode = SendMode::kZeroCopyFixed,
                                            .memory = {},
                                            .water_marks = &channel.marks,
                                            .stop = &channel.stop};
  const auto made = [&] { return std::move(*multifd::UringEngine::create(options, abilities)); };
  abilities.fixed_send = abilities.sendmsg_zero_copy = abilities.usage_report =
      multifd::Ability{true, {}};
  CHECK(made()->mode() == SendMode::kZeroCopy);
  CHECK(made()->downgrades().last().reason == DowngradeReason::kNotRegistered);
  abilities.usage_report = {false, "no report"};
  CHECK(made()->mode() == SendMode::kPlain);
  CHECK(made()->downgrades().last().reason == DowngradeReason::kNotInKernel);
  const std::string sentence = made()->downgrades().last().sentence;
  CHECK_EQ(sentence, std::string("plain instead of zero-copy: no report"));
  abilities.io_uring = {false, "none at all"};
  const auto none = multifd::UringEngine::create(options, abilities);
  CHECK(!none);
  CHECK(none.error().code == multifd::ErrorCode::kUnsupported);
}

}  // namespace

}  // namespace contract
