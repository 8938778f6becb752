#include "binding/environment.h"

#include <utility>

namespace multifd::binding {

// A thread-safe function that keeps the event loop alive only while threads are attached. Armed
// until its callback has run and the rings were read: Node would repeat the callback in the same
// turn, up to 1000 times, for what is asked for before.
class Environment::TsfnWakeup final : public Wakeup {
 public:
  void set(Napi::Env env, const Napi::Function& callback) {
    release();
    function_ = TypedFunction::New(env, callback, "multifd", 0, 1, this);
    function_.Unref(env);
    ready_ = true;
    // A thread that spoke before this armed the flag without waking anybody, and would for ever
    // keep the others from waking. JavaScript reads the rings once after this, whoever spoke.
    called_ = false;
    disarm();
  }
  // JavaScript thread, before it reads the rings. One that is still to come stays the only one.
  void begin_reading() {
    if (std::exchange(called_, false)) disarm();
  }
  void release() {
    if (ready_.exchange(false)) function_.Release();
  }
  void keep_alive(Napi::Env env, bool on) {
    if (!ready_) return;
    on ? function_.Ref(env) : function_.Unref(env);
  }

 protected:
  void wake() override {
    if (ready_) function_.NonBlockingCall();
  }

 private:
  static void call(Napi::Env env, Napi::Function callback, TsfnWakeup* self, void*) {
    if (env == nullptr) return;
    self->called_ = true;
    callback.Call({});
  }
  using TypedFunction = Napi::TypedThreadSafeFunction<TsfnWakeup, void, call>;
  TypedFunction function_;
  std::atomic<bool> ready_{false};
  bool called_ = false;  // JavaScript thread
};

Environment::Environment(Napi::Env env) : env_(env), wakeup_(std::make_shared<TsfnWakeup>()) {
  add_cleanup_hook();
}

void Environment::add_cleanup_hook() {
  Napi::Env(env_).AddCleanupHook([](Environment* self) { self->shut_down(); }, this);
}

Environment::~Environment() = default;

Wakeup& Environment::wakeup() { return *wakeup_; }

// Runs while the environment can still be used: every thread ends before what it uses goes.
// Idempotent.
void Environment::shut_down() {
  for (auto& [handle, thread] : threads_) thread->destroy();
  for (auto& [handle, thread] : threads_) thread->join();
  threads_.clear();
  for (const auto& memory : owned_) memory->revoke();
  owned_.clear();
  wakeup_->release();
}

uint32_t Environment::attach(ChannelThread& thread) {
  const uint32_t handle = next_handle_++;
  if (threads_.empty()) wakeup_->keep_alive(env_, true);
  threads_.emplace(handle, &thread);
  return handle;
}

void Environment::detach(uint32_t handle) {
  if (threads_.erase(handle) > 0 && threads_.empty()) wakeup_->keep_alive(env_, false);
}

void Environment::set_wakeup(const Napi::Function& callback) {
  wakeup_->set(env_, callback);
  if (!threads_.empty()) wakeup_->keep_alive(env_, true);
  // Hooks run in reverse order, and the thread-safe function has just added its own: the threads
  // must have ended before that one closes it under them.
  add_cleanup_hook();
}

size_t Environment::drain(double* out, size_t capacity) {
  wakeup_->begin_reading();
  size_t used = 0;
  Event event;
  for (auto& [handle, thread] : threads_) {
    while (used + 3 <= capacity && thread->next_event(event)) {
      out[used++] = handle;
      out[used++] = static_cast<double>(event.kind);
      out[used++] = event.value;
    }
  }
  return used;
}

}  // namespace multifd::binding
