// Which engine a channel runs with, and every step down from what was asked for. Written by the
// channel thread, read by the JavaScript thread while it runs: entries are published by a counter
// and never changed afterwards.
#pragma once

#include <array>
#include <atomic>
#include <cstdio>
#include <string>
#include <vector>

#include "engine/send_mode.h"

namespace multifd {

enum class EngineKind : uint8_t { kSendmsg, kIoUring, kSplice };

// As src/kit/native.ts has them.
constexpr const char* name_of(EngineKind kind) {
  switch (kind) {
    case EngineKind::kIoUring: return "io-uring";
    case EngineKind::kSplice: return "splice";
    case EngineKind::kSendmsg: break;
  }
  return "sendmsg";
}

class EngineReport {
 public:
  // Channel thread.
  void set(EngineKind kind, SendMode mode) {
    kind_.store(kind, std::memory_order_relaxed);
    mode_.store(mode, std::memory_order_relaxed);
  }
  void add_step(const char* sentence) {
    const uint32_t count = count_.load(std::memory_order_relaxed);
    if (count == kSteps) return;  // no channel has more, see kSteps
    std::snprintf(steps_[count].data(), steps_[count].size(), "%s", sentence);
    count_.store(count + 1, std::memory_order_release);  // pairs with steps()
  }
  // Any thread.
  [[nodiscard]] EngineKind kind() const { return kind_.load(std::memory_order_relaxed); }
  [[nodiscard]] SendMode mode() const { return mode_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::vector<std::string> steps() const {
    const uint32_t count = count_.load(std::memory_order_acquire);
    std::vector<std::string> list;
    for (uint32_t i = 0; i < count; ++i) list.emplace_back(steps_[i].data());
    return list;
  }

 private:
  // sendmsg instead of io_uring, no SO_ZEROCOPY, and an engine's own two.
  static constexpr uint32_t kSteps = 4;
  std::atomic<EngineKind> kind_{EngineKind::kSendmsg};
  std::atomic<SendMode> mode_{SendMode::kPlain};
  std::array<std::array<char, 384>, kSteps> steps_;
  std::atomic<uint32_t> count_{0};
};

}  // namespace multifd
