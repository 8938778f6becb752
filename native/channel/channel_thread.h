// What every channel thread has in common: one thread, a stop flag, a ring of events, and at most
// one error. Derived classes say what the thread does. The object outlives its thread: it is
// destroyed only after join().
#pragma once

#include <pthread.h>

#include <atomic>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "channel/events.h"

namespace multifd {

class ChannelThread {
 public:
  explicit ChannelThread(Wakeup& wakeup) : wakeup_(wakeup) {}
  virtual ~ChannelThread() = default;
  ChannelThread(const ChannelThread&) = delete;
  ChannelThread& operator=(const ChannelThread&) = delete;

  // JavaScript thread.
  virtual bool next_event(Event& out) { return events_.pop(out); }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }  // after kFailed
  // Any thread: give up at once. Idempotent; kClosed follows.
  void destroy();
  // JavaScript thread: waits for the end of the thread (immediate after kClosed) and lets go of
  // everything the kernel holds for it. Idempotent.
  void join();

 protected:
  // Makes what destroy() needs; before another thread can know of this object (a lease can be
  // revoked as soon as it is there). Fails where the eventfd cannot be had.
  Result<void> prepare();
  // Starts the thread, named `name` (at most 15 bytes, prctl(2)); after prepare(). Fails where the
  // thread cannot be had.
  Result<void> start(const std::string& name);
  virtual void run() = 0;            // channel thread; returns when all is done
  virtual void interrupt() {}        // any thread: wake whatever run() blocks in
  virtual void release_resources() {}  // JavaScript thread, after the thread ended

  void emit(EventKind kind, double value = 0) {
    emit_quietly(kind, value);
    wakeup_.notify();
  }
  // Leaves the event to be read with the next one: for what nobody waits for yet.
  void emit_quietly(EventKind kind, double value) { events_.push({kind, value}); }
  // Records the first error; one that only says that we were told to stop is not an error.
  void fail(const Error& error);
  [[nodiscard]] bool stopping() const { return stop_.load(std::memory_order_relaxed); }
  [[nodiscard]] const std::atomic<bool>& stop_flag() const { return stop_; }
  [[nodiscard]] int stop_fd() const { return stop_fd_.get(); }

 private:
  static void* entry(void* self);

  Wakeup& wakeup_;  // of the environment, which outlives its channels
  std::atomic<bool> stop_{false};
  EventRing events_;
  std::optional<Error> error_;  // channel thread until kFailed is pushed, then immutable
  UniqueFd stop_fd_;            // eventfd, readable once stopped
  std::optional<CensusEntry> thread_entry_;
  // JavaScript thread. Not std::thread, which throws where there is no thread to be had.
  std::string name_;
  pthread_t thread_{};
  bool joinable_ = false;
};

}  // namespace multifd
