// How an engine hands pages to the kernel, and why it may do so in a plainer way than it was asked
// to: steps down are values that somebody shows to an operator, never errors.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>

namespace multifd {

enum class SendMode : uint8_t {
  kPlain,
  kZeroCopy,       // header and pages of a record in one call
  kSplice,         // pages by reference, and nobody tells when they are let go
  kZeroCopyFixed,  // io_uring: pages from registered memory; headers copied in front of them
};

// As src/kit/native.ts has them.
constexpr const char* name_of(SendMode mode) {
  switch (mode) {
    case SendMode::kZeroCopyFixed: return "zero-copy-fixed";
    case SendMode::kZeroCopy: return "zero-copy";
    case SendMode::kSplice: return "splice";
    case SendMode::kPlain: break;
  }
  return "plain";
}

enum class DowngradeReason : uint8_t {
  kNone,
  kNotInKernel,     // the probe did not find it
  kNotRegistered,   // the memory could not be registered with this channel's ring
  kSendRefused,     // the kernel refused such sends on this connection
};

// One step down: "plain instead of zero-copy: why".
struct Downgrade {
  DowngradeReason reason = DowngradeReason::kNone;
  char sentence[320] = {};
};

// Every step down of one engine, oldest first. There are at most two: fixed, not fixed, plain.
class Downgrades {
 public:
  void add(SendMode from, SendMode to, DowngradeReason reason, const char* why) {
    if (count_ == steps_.size()) return;  // cannot be: modes only go down
    Downgrade& step = steps_[count_++];
    step.reason = reason;
    std::snprintf(step.sentence, sizeof step.sentence, "%s instead of %s: %s", name_of(to),
                  name_of(from), why);
  }
  [[nodiscard]] uint32_t count() const { return count_; }
  const Downgrade& operator[](uint32_t index) const { return steps_[index]; }
  // The latest; reason kNone when there was none.
  [[nodiscard]] const Downgrade& last() const { return steps_[count_ == 0 ? 0 : count_ - 1]; }

 private:
  std::array<Downgrade, 2> steps_;
  uint32_t count_ = 0;
};

}  // namespace multifd
