#include "channel/channel_thread.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>

#include "channel/counters.h"

namespace multifd {

Result<void> ChannelThread::prepare() {
  stop_fd_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), Resource::kEventFd);
  if (!stop_fd_) return Error::from_errno("eventfd", "making an eventfd failed");
  return {};
}

Result<void> ChannelThread::start(const std::string& name) {
  name_ = name.substr(0, 15);
  const int failed = ::pthread_create(&thread_, nullptr, entry, this);
  if (failed != 0) {
    errno = failed;
    return Error::from_errno("pthread_create", "starting the thread %s failed: is the limit of "
                             "threads (ulimit -u, or the container's) reached?", name_.c_str());
  }
  joinable_ = true;
  thread_entry_.emplace(Resource::kThread);
  return {};
}

void* ChannelThread::entry(void* self) {
  auto& channel = *static_cast<ChannelThread*>(self);
  ::pthread_setname_np(::pthread_self(), channel.name_.c_str());
  channel.run();
  channel.emit(EventKind::kClosed);
  return nullptr;
}

void ChannelThread::destroy() {
  if (stop_.exchange(true)) return;
  const uint64_t one = 1;
  static_cast<void>(!::write(stop_fd_.get(), &one, sizeof one));
  interrupt();
}

void ChannelThread::join() {
  if (!joinable_) return;
  joinable_ = false;
  ::pthread_join(thread_, nullptr);
  release_resources();
  stop_fd_.reset();
  thread_entry_.reset();
}

void ChannelThread::fail(const Error& error) {
  if (error.code == ErrorCode::kClosed && stopping()) return;
  if (error_) return;
  error_ = error;
  emit(EventKind::kFailed);
}

double thread_cpu_nanoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

}  // namespace multifd
