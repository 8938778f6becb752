// Failure as a value: what native code returns instead of throwing. The binding turns an Error into
// a plain object; TypeScript makes the exception.
#pragma once

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <utility>

namespace multifd {

// The native half of the codes in src/kit/errors.ts; the binding maps them by name.
enum class ErrorCode : uint8_t {
  kProtocol,
  kHandshake,
  kChannel,
  kPeerClosed,
  kUnsupported,
  kLimit,
  kTimeout,
  kState,
  kClosed,
};

struct Error {
  ErrorCode code = ErrorCode::kChannel;
  int errno_value = 0;            // 0: not a kernel error
  const char* syscall = nullptr;  // static string, null: not a kernel error
  char detail[320] = {};          // a sentence: what failed, what came, what was expected

  [[gnu::format(printf, 2, 3)]] static Error make(ErrorCode code, const char* format, ...) {
    Error error;
    error.code = code;
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(error.detail, sizeof error.detail, format, arguments);
    va_end(arguments);
    return error;
  }

  // A failed system call; takes errno at once, before anything else can change it.
  [[gnu::format(printf, 2, 3)]] static Error from_errno(const char* syscall, const char* format,
                                                        ...) {
    const int saved = errno;
    Error error;
    error.code = (saved == ECONNRESET || saved == EPIPE) ? ErrorCode::kPeerClosed
                                                         : ErrorCode::kChannel;
    error.errno_value = saved;
    error.syscall = syscall;
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(error.detail, sizeof error.detail, format, arguments);
    va_end(arguments);
    return error;
  }
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit on purpose, as std::expected
  Result(Error error) : error_(error) {}         // NOLINT
  explicit operator bool() const { return value_.has_value(); }
  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  const Error& error() const { return error_; }

 private:
  std::optional<T> value_;
  Error error_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(error) {}  // NOLINT
  explicit operator bool() const { return !error_.has_value(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

}  // namespace multifd
