// The pattern of every class that JavaScript holds: made by native code only, type-tagged, so that
// a foreign object is refused instead of misread.
#pragma once

#include <napi.h>

#include <optional>
#include <utility>

#include "binding/convert.h"
#include "binding/environment.h"

namespace multifd::binding {

// Derived provides: kClass (its slot), kTag (its type tag), kName, `State` (what it wraps), and
// static methods() listing its N-API methods.
template <typename Derived, typename State>
class Wrapped : public Napi::ObjectWrap<Derived> {
 public:
  explicit Wrapped(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<Derived>(info),
        state_(std::move(*info[0].As<Napi::External<State>>().Data())) {
    info.This().As<Napi::Object>().TypeTag(&Derived::kTag);
  }

  static void define(Napi::Env env) {
    Environment::of(env).constructor(Derived::kClass) =
        Napi::Persistent(Derived::DefineClass(env, Derived::kName, Derived::methods()));
  }

  // `keep` is held for as long as the new object lives: what its native side refers to.
  static Napi::Object make(Napi::Env env, State state, Napi::Object keep = {}) {
    Napi::Object object = Environment::of(env).constructor(Derived::kClass).New(
        {Napi::External<State>::New(env, &state)});
    Derived* const self = Derived::Unwrap(object);
    if (!keep.IsEmpty()) self->keep_ = Napi::Persistent(keep);
    self->made(env);
    return object;
  }

  // The object behind `value`, or null if it is something else.
  static Derived* from(const Napi::Value& value) {
    if (!value.IsObject()) return nullptr;
    const auto object = value.As<Napi::Object>();
    return object.CheckTypeTag(&Derived::kTag) ? Derived::Unwrap(object) : nullptr;
  }

  State& state() { return state_; }

 protected:
  void made(Napi::Env) {}
  void drop_kept() { keep_.Reset(); }

  State state_;

 private:
  Napi::ObjectReference keep_;
};

// A wrapped thread: adds handle, destroy, join and error, which are the same for all of them.
template <typename Derived, typename Thread>
class WrappedThread : public Wrapped<Derived, std::unique_ptr<Thread>> {
 public:
  using Base = Wrapped<Derived, std::unique_ptr<Thread>>;
  using Base::Base;
  ~WrappedThread() override { end(); }

  void made(Napi::Env env) {
    environment_ = &Environment::of(env);
    handle_ = environment_->attach(*this->state_);
  }

  Napi::Value handle(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), handle_);
  }
  void destroy(const Napi::CallbackInfo&) {
    if (this->state_) this->state_->destroy();
  }
  // Ends the object: waits for the thread, gives back what it held.
  void join(const Napi::CallbackInfo&) {
    end();
    this->drop_kept();
  }
  Napi::Value error(const Napi::CallbackInfo& info) {
    if (!this->state_ || !this->state_->error()) return info.Env().Null();
    return to_js(info.Env(), *this->state_->error());
  }

 protected:
  static std::vector<typename Napi::ObjectWrap<Derived>::PropertyDescriptor> thread_methods() {
    return {
        Derived::InstanceAccessor("handle", &Derived::handle, nullptr),
        Derived::InstanceMethod("destroy", &Derived::destroy),
        Derived::InstanceMethod("join", &Derived::join),
        Derived::InstanceMethod("error", &Derived::error),
    };
  }

 private:
  void end() {
    if (!this->state_) return;
    this->state_->destroy();
    this->state_->join();
    environment_->detach(handle_);
    this->state_.reset();
  }

  Environment* environment_ = nullptr;
  uint32_t handle_ = 0;
};

}  // namespace multifd::binding
