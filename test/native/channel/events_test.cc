// A wake-up and the rings behind it, without an event loop.
#include "channel/events.h"

#include <thread>
#include <vector>

#include "check.h"

namespace {

using namespace multifd;

class CountingWakeup final : public Wakeup {
 public:
  [[nodiscard]] int wakes() const { return wakes_; }

 private:
  void wake() override { ++wakes_; }
  std::atomic<int> wakes_{0};
};

TEST("many events between two readings cause one wake-up") {
  CountingWakeup wakeup;
  for (int readings = 1; readings <= 100; ++readings) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int event = 0; event < 50; ++event) wakeup.notify();
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(wakeup.wakes(), readings);
    wakeup.disarm();
  }
}

TEST("no event is left unread without a wake-up behind it") {
  constexpr int kEvents = 3000;
  CountingWakeup wakeup;
  EventRing ring;
  std::atomic<int> read{0};
  std::thread channel([&] {
    for (int i = 0; i < kEvents; ++i) {
      while (i - read >= 16) std::this_thread::yield();
      ring.push({EventKind::kExtentDone, static_cast<double>(i)});
      wakeup.notify();
    }
  });
  for (int wakes = 0; read < kEvents;) {
    if (wakeup.wakes() == wakes) {
      std::this_thread::yield();
      continue;
    }
    ++wakes;
    CHECK_EQ(wakeup.wakes(), wakes);
    wakeup.disarm();
    for (Event event; ring.pop(event); ++read) CHECK_EQ(event.value, static_cast<double>(read));
  }
  channel.join();
}

}  // namespace
