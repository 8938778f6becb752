// Accepts the connections of one incoming migration and finds out what each is: the main channel,
// a multifd channel, or something else. It looks with MSG_PEEK, so that the main channel's first
// bytes are still there for its reader. A connection has a limited time to say what it is.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "channel/channel_thread.h"
#include "channel/endpoint.h"
#include "wire/packet.h"

namespace multifd {

struct ListenerOptions {
  Endpoint endpoint;
  int identify_timeout_ms = 10'000;  // from accept to the first 4 (main) or 64 (multifd) bytes
};

// A connection that said what it is. Sockets are blocking, with TCP_NODELAY.
struct Accepted {
  bool is_main = false;
  InitialPacket initial;  // multifd channels only
  UniqueFd fd;
  std::string peer;  // address, for error sentences
};

class Listener final : public ChannelThread {
 public:
  static Result<std::unique_ptr<Listener>> start(ListenerOptions options, Wakeup& wakeup);
  ~Listener() override;

  [[nodiscard]] uint16_t port() const { return port_; }
  // JavaScript thread: what was identified since the last call.
  std::vector<Accepted> take_accepted();

 private:
  struct Pending {
    UniqueFd fd;
    std::string peer;
    int64_t deadline_ms = 0;
    bool is_multifd = false;
    bool partial = false;  // some bytes are there, but not enough: poll again in a moment
  };
  enum class Identity : uint8_t { kUnknown, kMain, kMultifd };

  Listener(ListenerOptions options, UniqueFd fd, uint16_t port, Wakeup& wakeup);
  void run() override;
  void release_resources() override;
  Result<void> serve();
  Result<void> accept_all();
  Result<void> progress();
  Result<Identity> identify(Pending& pending);
  Result<bool> read_initial(Pending& pending, InitialPacket& out);
  void hand_over(Accepted accepted);
  int poll_timeout_ms() const;

  const ListenerOptions options_;
  const uint16_t port_;
  std::string unlink_path_;  // of a UNIX socket

  // Channel thread until join.
  UniqueFd fd_;
  std::vector<Pending> pending_;

  std::mutex mutex_;  // guards accepted_, for the length of a push or a swap
  std::vector<Accepted> accepted_;
};

}  // namespace multifd
