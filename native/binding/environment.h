// The state of one N-API environment: its constructors, its wake-up, and the threads it has to end
// before it goes away. Never global: worker threads load the addon a second time.
#pragma once

#include <napi.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>

#include "channel/channel_thread.h"
#include "guest/guest_memory.h"

namespace multifd::binding {

class Environment {
 public:
  explicit Environment(Napi::Env env);
  ~Environment();
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  // Threads whose events this environment reads. The handle names the thread in drain().
  uint32_t attach(ChannelThread& thread);
  void detach(uint32_t handle);
  // Memory that belongs to this environment (a WebAssembly.Memory): users elsewhere are stopped
  // before it goes.
  void own(const std::shared_ptr<GuestMemory>& memory) { owned_.insert(memory); }
  void disown(const std::shared_ptr<GuestMemory>& memory) { owned_.erase(memory); }

  Wakeup& wakeup();
  // setWakeup(callback): called when there are events, and not again before drain().
  void set_wakeup(const Napi::Function& callback);
  // drain(Float64Array): triples handle, kind, value; returns how many were written.
  size_t drain(double* out, size_t capacity);

  // One constructor per wrapped class, indexed by the class's own slot.
  enum class Class : uint8_t {
    kGuestMemory, kRamState, kDirtyLog, kSendGroup, kSendChannel, kReceiveGroup, kReceiveChannel,
    kListener, kConnection, kRelayPorts, kRelayChannel, kCount,
  };
  Napi::FunctionReference& constructor(Class slot) {
    return constructors_[static_cast<size_t>(slot)];
  }

 private:
  class TsfnWakeup;
  void add_cleanup_hook();
  void shut_down();
  const Napi::Env env_;
  std::array<Napi::FunctionReference, static_cast<size_t>(Class::kCount)> constructors_;
  std::shared_ptr<TsfnWakeup> wakeup_;
  std::map<uint32_t, ChannelThread*> threads_;
  std::set<std::shared_ptr<GuestMemory>> owned_;
  uint32_t next_handle_ = 1;
};

}  // namespace multifd::binding
